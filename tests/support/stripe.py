"""A local Stripe, the line to it, and a shop whose buyers pay there.

localstripe keeps its state in module globals, so it runs as a process of its own, one for all
tests. Each test has its own users, its own line and its own webhook endpoint.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import hmac
import io
import itertools
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import stripe
from aiohttp import ClientSession, ClientTimeout, web
from aiohttp.test_utils import TestServer

from service.dev.ports import free_port, wait_until_listening
from tests.support.databases import Connection
from tests.support.running import Answer, Running
from tests.support.waiting import PATIENCE_SECONDS, until

SECRET_KEY = "sk_test_local_of_the_tests"
WEBHOOK_SECRET = "whsec_of_the_tests"
PAID = "4242424242424242"
DECLINED_AT_ATTACHING = "4000000000000002"
DECLINED_AT_CHARGING = "4000000000000341"
SEPA = "DE89370400440532013000"
SEPA_FAILS = "DE62370400440532013001"
SMALL = "0192f0c1-0000-7000-8000-000000000001"
LARGE = "0192f0c1-0000-7000-8000-000000000002"
RETIRED = "0192f0c1-0000-7000-8000-000000000003"

_numbers = itertools.count(1)


@contextlib.contextmanager
def local_stripe(data: Path, *, sepa_delay: float = 0.1) -> Iterator[str]:
    """Run a local Stripe whose debits settle after so many seconds; its address."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "service.dev.local_stripe", "--exit-with-parent"),
            *("--port", str(port), "--data", str(data), "--sepa-delay", str(sepa_delay)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert wait_until_listening(port, time.monotonic() + PATIENCE_SECONDS)
        yield f"http://127.0.0.1:{port}"
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(PATIENCE_SECONDS)


class Line:
    """The line from a service to Stripe: it keeps what is said, and can be cut and disturbed."""

    def __init__(self, upstream: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.calls: list[str] = []
        """Every call as method and path, but those that list events, which come by themselves."""
        self.listings = 0
        self.answers: list[tuple[str, dict[str, Any]]] = []
        """What Stripe answered to each."""
        self.keys: list[tuple[str, str | None]] = []
        """The idempotency key that each came with."""
        self.broken: dict[str, int] = {}
        """Calls that answer with a status instead of reaching Stripe."""
        self.deaf: set[str] = set()
        """Calls that reach Stripe, but whose answer is lost."""
        self.change: Callable[[str, dict[str, Any]], None] = lambda _call, _answer: None
        self.stalled: dict[str, asyncio.Event] = {}
        """Calls that do not reach Stripe before the event is set."""
        self.held: dict[str, asyncio.Event] = {}
        """Calls whose answer waits until the event is set."""
        self._upstream = upstream
        self._runner: web.AppRunner | None = None
        self._session: ClientSession | None = None

    async def connect(self) -> None:
        """Take calls."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._session = ClientSession(timeout=ClientTimeout(total=PATIENCE_SECONDS))
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def cut(self) -> None:
        """Refuse connections, and break those that stand."""
        if self._runner is not None and self._session is not None:
            await self._runner.cleanup()
            await self._session.close()
            self._runner = self._session = None

    def count(self, method: str, prefix: str) -> int:
        """How often Stripe was asked for something."""
        return sum(call.startswith(f"{method} /v1/{prefix}") for call in self.calls)

    def first(self, call: str) -> dict[str, Any]:
        """What Stripe answered first to such a call."""
        return next(answer for name, answer in self.answers if name == call)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        call = f"{request.method} {request.path}"
        if call == "GET /v1/events":
            self.listings += 1
        else:
            self.calls.append(call)
        self.keys.append((call, request.headers.get("Idempotency-Key")))
        if call in self.broken:
            error = {"error": {"type": "api_error", "message": "Something went wrong."}}
            return web.json_response(error, status=self.broken[call])
        # Read first: it could not be any more once the caller has gone.
        data = await request.read()
        if call in self.stalled:
            await self.stalled[call].wait()
        assert self._session is not None
        headers = {
            name: value
            for name, value in request.headers.items()
            if name in ("Authorization", "Idempotency-Key", "Stripe-Version", "Content-Type")
        }
        async with self._session.request(
            request.method,
            f"{self._upstream}{request.path_qs}",
            data=data,
            headers=headers,
        ) as answer:
            said = await answer.json()
            status = answer.status
        self.answers.append((call, said))
        if call in self.held:
            await self.held[call].wait()
        if call in self.deaf:
            assert request.transport is not None
            request.transport.abort()
        self.change(call, said)
        return web.json_response(said, status=status, headers={"Request-Id": "req_of_the_tests"})


@dataclasses.dataclass
class Letterbox:
    """A webhook endpoint that keeps what Stripe sends, for the test to hand on when it likes."""

    letters: list[tuple[bytes, str]] = dataclasses.field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        """Keep one delivery."""
        self.letters.append((await request.read(), request.headers["Stripe-Signature"]))
        return web.Response()

    def find(self, type_: str, about: str) -> tuple[bytes, str] | None:
        """The first event of a type about an object, as it came."""
        for payload, signature in self.letters:
            event = json.loads(payload)
            if (event["type"], event["data"]["object"]["id"]) == (type_, about):
                return payload, signature
        return None


@dataclasses.dataclass(frozen=True)
class Shop:
    """A service that sells, with a line to a local Stripe, and buyers who pay there."""

    service: Running
    line: Line
    stripe: stripe.StripeClient
    """As a buyer's app has it: it reaches Stripe past the line."""
    api: ClientSession
    """Stripe's address itself, for its pages and its settings."""
    admin: Connection
    letterbox: Letterbox

    async def buy(self, user: str, package: str = SMALL, **body: Any) -> Answer:
        """Begin a purchase."""
        return await self.service.call(
            "POST",
            "/credits/purchase",
            user=user,
            claims={"email": f"{user}@example.org"},
            json={"packageId": package, **body},
        )

    async def look(self, user: str, purchase_id: str) -> Answer:
        """A purchase as its buyer sees it; the service may ask Stripe about it."""
        return await self.service.call("GET", f"/credits/purchase/{purchase_id}", user=user)

    async def method(self, number: str) -> str:
        """A card, or with an IBAN a debit, as Stripe keeps it."""
        if number.startswith("DE"):
            made = await self.stripe.v1.payment_methods.create_async(
                {"type": "sepa_debit", "sepa_debit": {"iban": number}}
            )
        else:
            card: Any = {"number": number, "exp_month": 12, "exp_year": 2040, "cvc": "123"}
            made = await self.stripe.v1.payment_methods.create_async({"type": "card", "card": card})
        return made.id

    async def pay(self, client_secret: str, number: str = PAID) -> str:
        """Pay as a buyer's app does with a client secret; the intent's status."""
        paid = await self.stripe.v1.payment_intents.confirm_async(
            intent_of(client_secret), {"payment_method": await self.method(number)}
        )
        return paid.status

    async def press(self, checkout_url: str, choice: str) -> tuple[int, str | None]:
        """Press a button on Stripe's page; the status, and where it leads."""
        page = checkout_url[checkout_url.index("/c/pay/") :]
        async with self.api.post(page, data={"choice": choice}, allow_redirects=False) as answer:
            return answer.status, answer.headers.get("Location")

    async def row(self, purchase_id: str) -> dict[str, Any]:
        """A purchase as it is written down; looking asks nobody."""
        found = await self.admin.fetchrow(
            "SELECT *, status::text AS status FROM credits.purchases WHERE id = $1", purchase_id
        )
        assert found is not None
        return dict(found)

    async def becomes(self, purchase_id: str, status: str) -> None:
        """Wait until a purchase is written down with this status."""

        async def is_so() -> bool:
            return bool((await self.row(purchase_id))["status"] == status)

        await until(is_so)

    async def paid(self, user: str = "ann", number: str = PAID) -> dict[str, Any]:
        """A purchase of 500 credits whose buyer has paid, unheard of by the service."""
        answer = await self.buy(user)
        assert answer.status == 200, answer.body
        await self.pay(answer.body["clientSecret"], number)
        return await self.row(answer.body["purchaseId"])

    async def refund(self, purchase: dict[str, Any], **more: Any) -> str:
        """The shop's people refund a purchase at Stripe; the refund's id."""
        asked: Any = {"payment_intent": purchase["stripe_payment_intent_id"], **more}
        made = await self.stripe.v1.refunds.create_async(asked)
        return made.id

    async def config(self, path: str, **data: Any) -> dict[str, Any]:
        """A bank moves something on at Stripe."""
        async with self.api.post(f"/_config/{path}", data=data) as answer:
            body: dict[str, Any] = await answer.json()
            assert answer.status == 200, body
            return body

    async def dispute(self, purchase: dict[str, Any], **more: Any) -> str:
        """A payer's bank disputes a purchase; the dispute's id."""
        made = await self.config(
            "disputes", payment_intent=purchase["stripe_payment_intent_id"], **more
        )
        return str(made["id"])

    async def all_is_applied(self) -> None:
        """Wait until no event is left for the service's own reconciliation, which NOTIFY wakes."""

        async def is_so() -> bool:
            return not await self.admin.fetchval(
                "SELECT count(*) FROM credits.stripe_events WHERE state IN ('received', 'failed')"
            )

        await until(is_so)

    async def deliver(self, payload: bytes, signature: str | None) -> Answer:
        """Hand an event to the service."""
        headers = {"Content-Type": "application/json; charset=utf-8"}
        if signature is not None:
            headers["Stripe-Signature"] = signature
        async with self.service.session.post(
            f"{self.service.url}/api/v1/webhooks/stripe", data=io.BytesIO(payload), headers=headers
        ) as answer:
            return Answer(answer.status, await answer.json(), dict(answer.headers))

    async def tell(self, event: dict[str, Any]) -> Answer:
        """Hand a made-up event to the service, signed as Stripe would."""
        payload = json.dumps(event).encode()
        return await self.deliver(payload, sign(payload))

    async def letter(self, type_: str, about: str) -> tuple[bytes, str]:
        """Wait for an event in the letterbox."""
        await until(lambda: self.letterbox.find(type_, about) is not None)
        found = self.letterbox.find(type_, about)
        assert found is not None
        return found

    async def hand_on(self, type_: str, about: str) -> Answer:
        """Wait for an event in the letterbox, and hand it on to the service."""
        return await self.deliver(*await self.letter(type_, about))

    async def event(self, event_id: str) -> dict[str, Any]:
        """An event as it is written down."""
        found = await self.admin.fetchrow(
            "SELECT *, state::text AS state FROM credits.stripe_events WHERE id = $1", event_id
        )
        assert found is not None
        return dict(found)


def intent_of(client_secret: str) -> str:
    """The id of the PaymentIntent that a client secret belongs to."""
    return client_secret.partition("_secret_")[0]


def sign(payload: bytes, secret: str = WEBHOOK_SECRET, at: float | None = None) -> str:
    """The header with which Stripe signs (docs.stripe.com/webhooks/signature)."""
    moment = int(time.time() if at is None else at)
    signed = f"{moment}.".encode() + payload
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def made_up(type_: str, about: dict[str, Any], event_id: str | None = None) -> dict[str, Any]:
    """An event of Stripe's form."""
    return {
        "id": event_id or f"evt_made_up_{next(_numbers)}",
        "object": "event",
        "type": type_,
        "created": int(time.time()),
        "livemode": False,
        "data": {"object": about},
    }


def intent(purchase: dict[str, Any], **change: Any) -> dict[str, Any]:
    """A PaymentIntent as an event shows it once it is paid."""
    return {
        "id": purchase["stripe_payment_intent_id"],
        "object": "payment_intent",
        "status": "succeeded",
        "amount": purchase["price_euro_cents"],
        "amount_received": purchase["price_euro_cents"],
        "currency": "eur",
        "metadata": {"purchaseId": str(purchase["id"]), "userId": purchase["user_id"]},
        **change,
    }


async def stock(admin: Connection) -> None:
    """Put packages on the shelf."""
    await admin.executemany(
        "INSERT INTO credits.packages (id, name, credits, price_euro_cents, active)"
        " VALUES ($1, $2, $3, $4, $5)",
        [
            (SMALL, "500 credits", 500, 500, True),
            (LARGE, "1100 credits", 1100, 1000, True),
            (RETIRED, "retired", 10, 10, False),
        ],
    )


@contextlib.asynccontextmanager
async def opened(
    service: Running, line: Line, stripe_url: str, admin: Connection
) -> AsyncIterator[Shop]:
    """A shop whose webhooks land in a letterbox until `deliver_to` says otherwise."""
    letterbox = Letterbox()
    app = web.Application()
    app.router.add_post("/", letterbox.take)
    async with (
        TestServer(app) as server,
        ClientSession(stripe_url, headers={"Authorization": f"Bearer {SECRET_KEY}"}) as api,
        ClientSession() as session,
    ):
        client = stripe.StripeClient(
            SECRET_KEY,
            base_addresses={"api": stripe_url},
            max_network_retries=0,
            http_client=stripe.AIOHTTPClient(session=session),
        )
        # Stripe keeps keys and customers of the users' names, which tests have in common.
        async with api.delete("/_config/data") as answer:
            assert answer.status == 200
        await stock(admin)
        shop = Shop(service, line, client, api, admin, letterbox)
        endpoint = f"/_config/webhooks/{service.url.rpartition(':')[2]}"
        async with deliver_to(api, endpoint, str(server.make_url("/"))):
            yield shop


@contextlib.asynccontextmanager
async def deliver_to(api: ClientSession, endpoint: str, url: str) -> AsyncIterator[None]:
    """Let Stripe send its events to an address as long as the context lasts."""
    async with api.post(endpoint, json={"url": url, "secret": WEBHOOK_SECRET}) as answer:
        assert answer.status == 200
    try:
        yield
    finally:
        async with api.delete(endpoint) as answer:
            assert answer.status == 200


@contextlib.asynccontextmanager
async def webhooks(shop: Shop) -> AsyncIterator[None]:
    """Let Stripe send its events to the service itself, as in earnest."""
    endpoint = f"/_config/webhooks/service-{shop.service.url.rpartition(':')[2]}"
    async with deliver_to(shop.api, endpoint, f"{shop.service.url}/api/v1/webhooks/stripe"):
        yield
