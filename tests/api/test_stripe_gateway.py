"""The gateway against a server that answers as Stripe does, or worse."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import pytest
import stripe
import structlog
from aiohttp import web
from structlog.testing import LogCapture

from service import stripe_gateway
from service.payments import (
    InvalidSignatureError,
    Order,
    PaymentProviderError,
    UnknownCustomerError,
)
from service.settings import StripeSettings
from service.stripe_gateway import StripeGateway
from tests.api.http_support import Connect
from tests.support.processes import ROOT

SECRET = "whsec_test"
ORDER = Order(
    purchase_id=UUID("01890a5d-ac96-774b-bcce-b302099a8057"),
    user_id="user-1",
    customer_id="cus_1",
    credits=500,
    amount_cents=499,
    description="500 credits",
)
METADATA = {
    "purchaseId": "01890a5d-ac96-774b-bcce-b302099a8057",
    "userId": "user-1",
    "credits": "500",
}
INTENT = {
    "id": "pi_1",
    "object": "payment_intent",
    "client_secret": "pi_1_secret_x",
    "status": "requires_payment_method",
    "amount": 499,
    "amount_received": 0,
    "currency": "eur",
    "customer": "cus_1",
    "created": 1779062981,
    "metadata": METADATA,
    "last_payment_error": None,
}
SESSION = {
    "id": "cs_1",
    "object": "checkout.session",
    "url": "https://checkout.stripe.com/c/pay/cs_1",
    "status": "open",
    "payment_status": "unpaid",
    "payment_intent": None,
    "amount_total": 499,
    "currency": "eur",
    "metadata": METADATA,
}


class FakeStripe:
    """Answers what a test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, list[str]], web.BaseRequest]] = []
        self.answers: list[Callable[[], Awaitable[web.StreamResponse]]] = []
        self.url = ""

    def say(self, body: Any, status: int = 200, **headers: str) -> None:
        async def answer() -> web.StreamResponse:
            text = body if isinstance(body, str) else json.dumps(body)
            return web.Response(
                text=text,
                status=status,
                content_type="application/json",
                headers={"Request-Id": "req_1"} | headers,
            )

        self.answers.append(answer)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        form = parse_qs(await request.text())
        self.asked.append((request.method, request.path, form, request))
        return await self.answers.pop(0)()


@pytest.fixture
async def fake(connect: Connect) -> FakeStripe:
    made = FakeStripe()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.serve)
    client = await connect(app)
    made.url = str(client.make_url("")).rstrip("/")
    return made


@pytest.fixture
async def gateway(fake: FakeStripe) -> AsyncIterator[StripeGateway]:
    async with StripeGateway.connected(StripeSettings("sk_test_1", SECRET, fake.url)) as made:
        yield made


async def test_customers(gateway: StripeGateway, fake: FakeStripe) -> None:
    fake.say({"id": "cus_1", "object": "customer"})
    assert await gateway.create_customer("user-1", "a@example.org", "key-1") == "cus_1"
    method, path, form, request = fake.asked[0]
    assert (method, path) == ("POST", "/v1/customers")
    assert form == {"metadata[userId]": ["user-1"], "email": ["a@example.org"]}
    assert request.headers["Idempotency-Key"] == "key-1"
    assert request.headers["Authorization"] == "Bearer sk_test_1"
    fake.say({"id": "cus_2", "object": "customer"})
    assert await gateway.create_customer("user-2", None, "key-2") == "cus_2"
    assert fake.asked[1][2] == {"metadata[userId]": ["user-2"]}


async def test_payment_intents(gateway: StripeGateway, fake: FakeStripe) -> None:
    fake.say(INTENT)
    made = await gateway.create_payment_intent(ORDER, "key-1")
    assert (made.id, made.client_secret, made.status) == (
        "pi_1",
        "pi_1_secret_x",
        "requires_payment_method",
    )
    assert (made.amount, made.amount_received, made.currency) == (499, 0, "eur")
    assert (made.customer_id, made.metadata, made.failure_code) == ("cus_1", METADATA, None)
    method, path, form, request = fake.asked[0]
    assert (method, path) == ("POST", "/v1/payment_intents")
    assert request.headers["Idempotency-Key"] == "key-1"
    assert form == {
        "amount": ["499"],
        "currency": ["eur"],
        "customer": ["cus_1"],
        "description": ["500 credits"],
        "metadata[purchaseId]": [METADATA["purchaseId"]],
        "metadata[userId]": ["user-1"],
        "metadata[credits]": ["500"],
        "allowed_payment_method_types[0]": ["card"],
        "allowed_payment_method_types[1]": ["sepa_debit"],
    }
    fake.say(
        INTENT
        | {
            "status": "succeeded",
            "amount_received": 499,
            "customer": {"id": "cus_1", "object": "customer"},
            "last_payment_error": {"code": "card_declined", "decline_code": "do_not_honor"},
        }
    )
    got = await gateway.retrieve_payment_intent("pi_1")
    assert fake.asked[1][:2] == ("GET", "/v1/payment_intents/pi_1")
    assert (got.status, got.amount_received, got.customer_id, got.failure_code) == (
        "succeeded",
        499,
        "cus_1",
        "do_not_honor",
    )


async def test_checkout_sessions(gateway: StripeGateway, fake: FakeStripe) -> None:
    fake.say(SESSION)
    made = await gateway.create_checkout_session(
        ORDER, "key-1", success_url="https://app/ok?x=1", cancel_url="https://app/no"
    )
    assert (made.id, made.url, made.payment_intent_id) == ("cs_1", SESSION["url"], None)
    method, path, form, request = fake.asked[0]
    assert (method, path) == ("POST", "/v1/checkout/sessions")
    assert request.headers["Idempotency-Key"] == "key-1"
    assert form["success_url"] == ["https://app/ok?x=1"]
    assert form["line_items[0][price_data][unit_amount]"] == ["499"]
    assert form["line_items[0][price_data][currency]"] == ["eur"]
    assert form["allowed_payment_method_types[1]"] == ["sepa_debit"]
    for prefix in ("metadata", "payment_intent_data[metadata]"):
        assert form[f"{prefix}[purchaseId]"] == [METADATA["purchaseId"]]
    fake.say(SESSION | {"payment_intent": {"id": "pi_1"}, "payment_status": "paid", "url": None})
    got = await gateway.retrieve_checkout_session("cs_1")
    assert (got.payment_intent_id, got.payment_status, got.url) == ("pi_1", "paid", None)


def refusal(code: str, **more: str) -> dict[str, Any]:
    return {
        "error": {"type": "invalid_request_error", "code": code, "message": "secret words"} | more
    }


async def test_a_missing_customer(gateway: StripeGateway, fake: FakeStripe) -> None:
    for status in (400, 404):
        fake.say(refusal("resource_missing", param="customer"), status)
        with pytest.raises(UnknownCustomerError) as raised:
            await gateway.create_payment_intent(ORDER, "key-1")
        assert raised.value.code == "payment_provider_error"
    fake.say(refusal("resource_missing", param="intent"), 404)
    with pytest.raises(PaymentProviderError) as other:
        await gateway.retrieve_payment_intent("pi_none")
    assert not isinstance(other.value, UnknownCustomerError)
    assert other.value.provider_code == "resource_missing"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (refusal("parameter_unknown"), 400),
        (refusal("api_key_expired"), 401),
        ({"error": {"type": "card_error", "code": "card_declined", "message": "x"}}, 402),
        (refusal("lock_timeout"), 429),
        ({"error": {"type": "idempotency_error", "message": "x"}}, 400),
        ("<html>bad gateway</html>", 502),
        ("", 200),
        ("[]", 200),
        ("null", 200),
        ({}, 200),
        ({"object": "payment_intent"}, 200),
        (INTENT | {"amount": "499"}, 200),
        (INTENT | {"metadata": {"a": 1}}, 200),
    ],
)
async def test_refusals_and_odd_answers(
    gateway: StripeGateway, fake: FakeStripe, body: Any, status: int
) -> None:
    for _ in range(1 + stripe_gateway.NETWORK_RETRIES):
        fake.say(body, status)
    with pytest.raises(PaymentProviderError) as raised:
        await gateway.create_payment_intent(ORDER, "key-1")
    assert not isinstance(raised.value, UnknownCustomerError)
    assert raised.value.status == 502
    assert "secret words" not in raised.value.message


async def test_a_failure_of_stripes_own_is_tried_again_with_the_same_key(
    gateway: StripeGateway, fake: FakeStripe
) -> None:
    fake.say({"error": {"type": "api_error"}}, 500)
    fake.say(INTENT)
    assert (await gateway.create_payment_intent(ORDER, "key-1")).id == "pi_1"
    assert [request.headers["Idempotency-Key"] for *_, request in fake.asked] == ["key-1"] * 2


async def test_the_log_names_the_request_and_nothing_else(
    gateway: StripeGateway, fake: FakeStripe
) -> None:
    capture = LogCapture()
    structlog.configure(processors=[capture])
    try:
        fake.say(refusal("parameter_unknown"), 400)
        with pytest.raises(PaymentProviderError):
            await gateway.create_customer("user-1", "a@example.org", "key-1")
    finally:
        structlog.reset_defaults()
    (line,) = capture.entries
    assert line == {
        "event": "Stripe call failed",
        "log_level": "warning",
        "call": "create_customer",
        "kind": "InvalidRequestError",
        "code": "parameter_unknown",
        "status": 400,
        "stripe_request_id": "req_1",
    }


async def test_nobody_there() -> None:
    async with StripeGateway.connected(
        StripeSettings("sk_test_1", SECRET, "http://127.0.0.1:9")
    ) as gateway:
        with pytest.raises(PaymentProviderError):
            await gateway.retrieve_payment_intent("pi_1")


@pytest.mark.parametrize(("call", "total", "tries"), [(0.2, 15, 2), (10, 0.2, 1)])
async def test_time_outs(
    fake: FakeStripe, monkeypatch: pytest.MonkeyPatch, call: float, total: float, tries: int
) -> None:
    assert stripe_gateway.CALL_SECONDS == 10
    monkeypatch.setattr(stripe_gateway, "TOTAL_SECONDS", total)
    done = asyncio.Event()

    async def silent() -> web.StreamResponse:
        await done.wait()
        return web.Response(text="{}")

    fake.answers += [silent, silent]
    try:
        async with StripeGateway.connected(
            StripeSettings("sk_test_1", SECRET, fake.url), call_seconds=call
        ) as impatient:
            with pytest.raises(PaymentProviderError):
                await impatient.retrieve_payment_intent("pi_1")
    finally:
        done.set()
    assert len(fake.asked) == tries


async def test_whoever_is_stopped_in_a_call_stops(
    gateway: StripeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it happens while it connects, the library makes an error of its own of the end."""
    calling = asyncio.Event()

    async def swallow(*_: object, **__: object) -> None:
        calling.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            raise stripe.APIConnectionError("no connection") from error  # type: ignore[no-untyped-call]

    monkeypatch.setattr(stripe.AIOHTTPClient, "request_async", swallow)
    task = asyncio.create_task(gateway.retrieve_payment_intent("pi_1"))
    await calling.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_body_that_breaks_off(gateway: StripeGateway) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        StripeGateway.connected(
            StripeSettings("sk_test_1", SECRET, f"http://127.0.0.1:{port}")
        ) as broken,
    ):
        with pytest.raises(PaymentProviderError):
            await broken.retrieve_payment_intent("pi_1")


async def test_a_waiting_call_blocks_nobody(gateway: StripeGateway, fake: FakeStripe) -> None:
    go = asyncio.Event()

    async def held() -> web.StreamResponse:
        await go.wait()
        return web.json_response(INTENT)

    fake.answers += [held, held]
    calls = [asyncio.create_task(gateway.retrieve_payment_intent("pi_1")) for _ in range(2)]
    async with asyncio.timeout(30):
        while len(fake.asked) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    go.set()
    assert [intent.id for intent in await asyncio.gather(*calls)] == ["pi_1", "pi_1"]


# Webhooks

EVENT = {"id": "evt_1", "type": "payment_intent.succeeded", "created": 1779062981, "data": {}}


def signed(body: bytes, *, secret: str = SECRET, age: int = 0) -> str:
    header: str = stripe.WebhookSignature.generate_signature_header(
        body.decode(), secret, int(time.time()) - age
    )
    return header


async def test_a_webhook(gateway: StripeGateway) -> None:
    body = json.dumps(EVENT | {"data": {"object": INTENT}}).encode()
    for header in (
        signed(body),
        signed(body, age=299),
        signed(body) + ",v1=" + "0" * 64 + ",v0=x",
    ):
        event = gateway.verify_webhook(body, header)
        assert (event.id, event.type, event.created) == (
            "evt_1",
            "payment_intent.succeeded",
            1779062981,
        )
        assert event.payload["data"]["object"]["metadata"] == METADATA
        assert type(event.payload) is dict


async def test_webhooks_that_are_refused(gateway: StripeGateway) -> None:
    body = json.dumps(EVENT).encode()
    good = signed(body)
    for header in (
        None,
        "",
        "t=1",
        "v1=abc",
        "nonsense",
        "t=x,v1=y",
        signed(body, secret="whsec_other"),
        signed(body, age=302),
        good.replace("v1", "v0"),
        good[:-1] + ("0" if good[-1] != "0" else "1"),
        f"t={10**30},v1=\u00e4",
    ):
        with pytest.raises(InvalidSignatureError) as raised:
            gateway.verify_webhook(body, header)
        assert raised.value.status == 400
    with pytest.raises(InvalidSignatureError):
        gateway.verify_webhook(body + b" ", good)
    for odd in (b"", b"[]", b"{}", b"null", b"not json", b'{"id": 1}', b"[" * 100_000):
        with pytest.raises(InvalidSignatureError):
            gateway.verify_webhook(odd, signed(odd))
    with pytest.raises(InvalidSignatureError):
        gateway.verify_webhook(b"\xff\xfe", good)


async def test_a_webhook_that_jsonb_could_not_hold(gateway: StripeGateway) -> None:
    odd = json.dumps(EVENT | {"data": {"na\0me": ["a\0b", "\ud800", "\u00e9\U0001f600"]}})
    event = gateway.verify_webhook(odd.encode(), signed(odd.encode()))
    assert event.payload["data"] == {"na\ufffdme": ["a\ufffdb", "?", "\u00e9\U0001f600"]}


STARTED = """
import asyncio, sys
from aiohttp import web
from service.app import create_app
from service.settings import Settings

async def main():
    settings = Settings.from_env(dict(each.split("=", 1) for each in sys.argv[1:]))
    runner = web.AppRunner(create_app(settings))
    await runner.setup()
    print("loaded:", sorted({"stripe", "requests"} & set(sys.modules)))
    await runner.cleanup()
    # Whoever wants it can have it.
    import requests

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("more", "loaded"),
    [
        ((), []),
        (("STRIPE_SECRET_KEY=sk_test_1", "STRIPE_WEBHOOK_SECRET=whsec_1"), ["stripe"]),
    ],
)
async def test_a_service_loads_no_more_of_it_than_it_needs(
    more: tuple[str, ...], loaded: list[str]
) -> None:
    """It and what it brings are a tenth of the memory of a process."""
    settings = ("MANA_ENV=development", "DATABASE_URL=postgresql://127.0.0.1:1/none", *more)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTED, *settings, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    # Beside it, the log may say that nobody answers.
    assert f"loaded: {loaded}" in said.decode().splitlines()
