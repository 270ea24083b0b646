import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import stripe
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer

from service.dev.local_stripe.idempotency import IdempotencyKeys
from service.dev.local_stripe.webhooks import Endpoint, WebhookSender
from service.dev.ports import free_port, wait_until_listening

SECRET = "whsec_for_tests"
AUTH = {"Authorization": "Bearer sk_test_local"}
CARD = {
    "type": "card",
    "card[number]": "4242424242424242",
    "card[exp_month]": "12",
    "card[exp_year]": "2040",
    "card[cvc]": "123",
}
SEPA = {"type": "sepa_debit", "sepa_debit[iban]": "DE89370400440532013000"}
SEPA_FAILS = {"type": "sepa_debit", "sepa_debit[iban]": "DE62370400440532013001"}


@dataclass
class Receiver:
    """A webhook endpoint that keeps what it gets, and refuses as long as it is told to."""

    refuse: int = 0
    attempts: list[tuple[bytes, str]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        payload = await request.read()
        self.attempts.append((payload, request.headers["Stripe-Signature"]))
        if self.refuse:
            self.refuse -= 1
            self.arrived.set()
            return web.Response(status=503)
        self.events.append(json.loads(payload))
        self.arrived.set()
        return web.Response()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self.arrived.clear()
                await self.arrived.wait()

    async def wait_for_type(self, event_type: str) -> dict[str, Any]:
        await self.wait_for(lambda: event_type in self.types())
        found: dict[str, Any] = self.events[self.types().index(event_type)]["data"]["object"]
        return found

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]


@dataclass(frozen=True)
class Stripe:
    """A local Stripe in a process of its own."""

    port: int
    data: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, data: Path, port: int | None = None) -> "Stripe":
        port = port or free_port()
        arguments = ["--port", str(port), "--data", str(data), "--sepa-delay", "0.3"]
        process = subprocess.Popen(
            [sys.executable, "-m", "service.dev.local_stripe", *arguments, "--exit-with-parent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )
        assert wait_until_listening(port, time.monotonic() + 60)
        return cls(port, data, process)

    def stop(self) -> int:
        """Let go of it, as a parent does that dies."""
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()
            return self.process.wait(60)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"


@pytest.fixture(scope="module")
def local_stripe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stripe]:
    running = Stripe.start(tmp_path_factory.mktemp("stripe") / "data")
    yield running
    assert running.stop() == 0


@pytest.fixture
async def api(local_stripe: Stripe) -> AsyncIterator[ClientSession]:
    async with ClientSession(local_stripe.url, headers=AUTH) as session:
        yield session


@pytest.fixture
async def receiver(api: ClientSession) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.handle)
    async with TestServer(app) as server:
        endpoint = {"url": str(server.make_url("/hook")), "secret": SECRET}
        async with api.post("/_config/webhooks/test", json=endpoint) as answer:
            assert answer.status == 200
        yield receiver
        async with api.delete("/_config/webhooks/test") as answer:
            assert answer.status == 200


Post = Callable[..., Awaitable[tuple[int, dict[str, Any]]]]


@pytest.fixture
def post(api: ClientSession) -> Post:
    async def post(
        path: str, data: dict[str, str] | None = None, key: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        headers = {"Idempotency-Key": key} if key else {}
        async with api.post(f"/v1/{path}", data=data or {}, headers=headers) as answer:
            return answer.status, await answer.json()

    return post


async def get(api: ClientSession, path: str) -> dict[str, Any]:
    async with api.get(f"/v1/{path}") as answer:
        assert answer.status == 200
        found: dict[str, Any] = await answer.json()
        return found


async def create_intent(post: Post, **data: str) -> dict[str, Any]:
    status, intent = await post("payment_intents", {"amount": "500", "currency": "eur", **data})
    assert status == 200, intent
    return intent


async def create_method(post: Post, data: dict[str, str]) -> str:
    status, method = await post("payment_methods", data)
    assert status == 200, method
    return str(method["id"])


def session_data(**data: str) -> dict[str, str]:
    return {
        "mode": "payment",
        "line_items[0][price_data][currency]": "eur",
        "line_items[0][price_data][unit_amount]": "1000",
        "line_items[0][price_data][product_data][name]": "1000 <credits>",
        "line_items[0][quantity]": "1",
        "payment_method_types[0]": "card",
        "payment_method_types[1]": "sepa_debit",
        "success_url": "http://shop.example/done?session={CHECKOUT_SESSION_ID}",
        "cancel_url": "http://shop.example/back",
        "metadata[purchase]": "p-1",
        "payment_intent_data[metadata][purchase]": "p-1",
        **data,
    }


async def create_session(post: Post, **data: str) -> dict[str, Any]:
    status, session = await post("checkout/sessions", session_data(**data))
    assert status == 200, session
    return session


async def choose(api: ClientSession, session: dict[str, Any], choice: str) -> tuple[int, str]:
    """Press a button on the page; return the status, and where it leads or what it says."""
    path = f"/c/pay/{session['id']}"
    async with api.post(path, data={"choice": choice}, allow_redirects=False) as answer:
        return answer.status, answer.headers.get("Location") or await answer.text()


# Payment intents


async def test_a_confirmed_intent_succeeds(
    api: ClientSession, post: Post, receiver: Receiver
) -> None:
    intent = await create_intent(post, **{"metadata[purchase]": "p-1"})
    assert (intent["status"], intent["amount_received"]) == ("requires_payment_method", 0)
    method = await create_method(post, CARD)
    status, confirmed = await post(
        f"payment_intents/{intent['id']}/confirm", {"payment_method": method}
    )
    assert (status, confirmed["status"], confirmed["amount_received"]) == (200, "succeeded", 500)
    sent = await receiver.wait_for_type("payment_intent.succeeded")
    assert sent["metadata"] == {"purchase": "p-1"}
    assert sent["latest_charge"].startswith("ch_")
    status, again = await post(
        f"payment_intents/{intent['id']}/confirm", {"payment_method": method}
    )
    assert (status, again["error"]["code"]) == (400, "payment_intent_unexpected_state")


async def test_a_declined_intent_can_be_paid_with_another_card(
    post: Post, receiver: Receiver
) -> None:
    intent = await create_intent(post)
    for method in ("pm_card_visa_chargeDeclined", "pm_card_chargeCustomerFail"):
        status, answer = await post(
            f"payment_intents/{intent['id']}/confirm", {"payment_method": method}
        )
        assert status == 402
        assert (answer["error"]["type"], answer["error"]["code"]) == ("card_error", "card_declined")
    failed = await receiver.wait_for_type("payment_intent.payment_failed")
    assert failed["status"] == "requires_payment_method"
    assert failed["last_payment_error"]["code"] == "card_declined"
    status, answer = await post(
        f"payment_intents/{intent['id']}/confirm", {"payment_method": "pm_card_visa"}
    )
    assert (status, answer["status"]) == (200, "succeeded")


@pytest.mark.parametrize(("method", "succeeds"), [(SEPA, True), (SEPA_FAILS, False)])
async def test_a_debit_is_processing_before_it_settles(
    post: Post, receiver: Receiver, method: dict[str, str], succeeds: bool
) -> None:
    intent = await create_intent(post)
    status, answer = await post(
        f"payment_intents/{intent['id']}/confirm",
        {"payment_method": await create_method(post, method)},
    )
    assert (status, answer["status"]) == (200, "processing")
    assert (await receiver.wait_for_type("payment_intent.processing"))["status"] == "processing"
    end = "payment_intent.succeeded" if succeeds else "payment_intent.payment_failed"
    settled = await receiver.wait_for_type(end)
    assert settled["status"] == ("succeeded" if succeeds else "requires_payment_method")


async def test_an_intent_is_created_and_confirmed_in_one(post: Post, receiver: Receiver) -> None:
    intent = await create_intent(post, confirm="true", payment_method="pm_card_visa")
    assert intent["status"] == "succeeded"
    await receiver.wait_for(lambda: len(receiver.events) >= 2)
    assert receiver.types()[:2] == ["payment_intent.created", "payment_intent.succeeded"]


async def test_cancelling_tells(post: Post, receiver: Receiver) -> None:
    intent = await create_intent(post)
    status, answer = await post(f"payment_intents/{intent['id']}/cancel")
    assert (status, answer["status"]) == (200, "canceled")
    assert (await receiver.wait_for_type("payment_intent.canceled"))["id"] == intent["id"]
    status, _ = await post(f"payment_intents/{intent['id']}/cancel")
    assert status == 400


async def test_stripes_own_client_needs_nothing_special(local_stripe: Stripe) -> None:
    def use() -> tuple[Any, Any, Any]:
        client = stripe.StripeClient(
            "sk_test_local",
            base_addresses={"api": local_stripe.url},
            http_client=stripe.UrllibClient(),
        )
        options: Any = {"idempotency_key": "own-client"}
        customer = client.v1.customers.create({"metadata": {"user": "u"}}, options)
        same = client.v1.customers.create({"metadata": {"user": "u"}}, options)
        with pytest.raises(stripe.IdempotencyError):
            client.v1.customers.create({"metadata": {"user": "v"}}, options)
        with pytest.raises(stripe.InvalidRequestError) as missing:
            client.v1.payment_intents.retrieve("pi_missing")
        assert missing.value.code == "resource_missing"
        session = client.v1.checkout.sessions.create(
            {
                "mode": "payment",
                "customer": customer.id,
                "client_reference_id": "u",
                "line_items": [
                    {
                        "quantity": 2,
                        "price_data": {
                            "currency": "eur",
                            "unit_amount": 500,
                            "product_data": {"name": "500 credits"},
                        },
                    }
                ],
                "success_url": "http://shop.example/done",
                "allowed_payment_method_types": ["card"],
                "payment_intent_data": {"metadata": {"purchase": "p"}},
            }
        )
        return customer, same, client.v1.checkout.sessions.retrieve(session.id)

    customer, same, session = await asyncio.to_thread(use)
    assert customer.id == same.id
    assert (session.amount_total, session.customer, session.status) == (1000, customer.id, "open")
    assert session.payment_method_types == ["card"]


async def test_the_old_name_of_the_method_types_is_refused_in_new_versions(
    api: ClientSession,
) -> None:
    data = {"amount": "500", "currency": "eur", "payment_method_types[0]": "card"}
    for version, expected in (("2024-06-20", 200), ("2026-10-28.endive", 400)):
        headers = {"Stripe-Version": version}
        async with api.post("/v1/payment_intents", data=data, headers=headers) as answer:
            assert answer.status == expected


@pytest.mark.parametrize("header", [None, "Bearer pk_test_local", "Bearer", "Basic !"])
async def test_a_secret_key_is_needed(local_stripe: Stripe, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    async with (
        ClientSession(local_stripe.url, headers=headers) as session,
        session.post("/v1/customers") as answer,
    ):
        assert answer.status == 401


# Idempotency keys


async def test_a_key_answers_the_first_result_again(api: ClientSession, post: Post) -> None:
    data = {"amount": "500", "currency": "eur"}
    first = await post("payment_intents", data, "same")
    assert await post("payment_intents", data, "same") == first
    assert await post("payment_intents", dict(reversed(data.items())), "same") == first
    headers = {"Idempotency-Key": "same"}
    async with api.post("/v1/payment_intents", data=data, headers=headers) as answer:
        assert answer.headers["Idempotent-Replayed"] == "true"
    status, other = await post("payment_intents", {**data, "amount": "501"}, "same")
    assert (status, other["error"]["type"]) == (400, "idempotency_error")
    status, other = await post("customers", data, "same")
    assert (status, other["error"]["type"]) == (400, "idempotency_error")


async def test_a_decline_is_kept_and_a_refusal_is_not(post: Post) -> None:
    intent = await create_intent(post)
    path = f"payment_intents/{intent['id']}/confirm"
    declined = {"payment_method": "pm_card_visa_chargeDeclined"}
    first = await post(path, declined, "declined")
    assert first[0] == 402
    assert await post(path, declined, "declined") == first

    status, _ = await post("payment_intents", {"amount": "-1", "currency": "eur"}, "refused")
    assert status == 400
    status, _ = await post("payment_intents", {"amount": "500", "currency": "eur"}, "refused")
    assert status == 200


async def test_a_key_in_use_and_a_kept_failure() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    calls = 0

    async def slow(_request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        entered.set()
        await leave.wait()
        return web.json_response({"call": calls}, status=500)

    app = web.Application(middlewares=[IdempotencyKeys().middleware])
    app.router.add_post("/v1/slow", slow)
    async with TestClient(TestServer(app)) as client:
        headers = {"Idempotency-Key": "k"}
        first = asyncio.create_task(client.post("/v1/slow", data={"a": "1"}, headers=headers))
        await entered.wait()
        async with client.post("/v1/slow", data={"a": "1"}, headers=headers) as answer:
            assert answer.status == 409
            assert (await answer.json())["error"]["code"] == "idempotency_key_in_use"
        leave.set()
        async with await first as answer:
            assert answer.status == 500
        async with client.post("/v1/slow", data={"a": "1"}, headers=headers) as answer:
            assert (answer.status, await answer.json()) == (500, {"call": 1})
    assert calls == 1


# Checkout Sessions


async def test_a_session_is_paid_on_its_page(
    api: ClientSession, post: Post, receiver: Receiver
) -> None:
    session = await create_session(post)
    assert (session["status"], session["payment_status"]) == ("open", "unpaid")
    assert session["amount_total"] == 1000
    async with api.get(session["url"]) as answer:
        text = await answer.text()
        assert "10.00 EUR" in text
        assert "1000 &lt;credits&gt;" in text

    status, where = await choose(api, session, "card")
    assert (status, where) == (303, f"http://shop.example/done?session={session['id']}")
    paid = await get(api, f"checkout/sessions/{session['id']}?expand[0]=payment_intent")
    assert (paid["status"], paid["payment_status"], paid["url"]) == ("complete", "paid", None)
    assert paid["payment_intent"]["metadata"] == {"purchase": "p-1"}
    assert paid["payment_intent"]["amount_received"] == 1000

    sent = await receiver.wait_for_type("checkout.session.completed")
    assert (sent["payment_status"], sent["metadata"]) == ("paid", {"purchase": "p-1"})
    assert "payment_intent.succeeded" in receiver.types()
    # Pressing the button twice pays once.
    assert await choose(api, session, "card") == (status, where)
    assert receiver.types().count("payment_intent.succeeded") == 1


async def test_a_declined_card_leaves_the_session_open(
    api: ClientSession, post: Post, receiver: Receiver
) -> None:
    session = await create_session(post)
    status, text = await choose(api, session, "card_declined")
    assert status == 402
    assert "declined" in text
    await receiver.wait_for_type("payment_intent.payment_failed")
    assert (await get(api, f"checkout/sessions/{session['id']}"))["status"] == "open"
    status, _ = await choose(api, session, "card")
    assert status == 303
    assert receiver.types().count("payment_intent.created") == 1


@pytest.mark.parametrize(
    ("choice", "end", "payment_status"),
    [
        ("sepa", "checkout.session.async_payment_succeeded", "paid"),
        ("sepa_fails", "checkout.session.async_payment_failed", "unpaid"),
    ],
)
async def test_a_debit_completes_the_session_before_the_money_is_there(
    api: ClientSession,
    post: Post,
    receiver: Receiver,
    choice: str,
    end: str,
    payment_status: str,
) -> None:
    session = await create_session(post)
    status, _ = await choose(api, session, choice)
    assert status == 303
    completed = await receiver.wait_for_type("checkout.session.completed")
    assert (completed["status"], completed["payment_status"]) == ("complete", "unpaid")
    assert (await receiver.wait_for_type(end))["payment_status"] == payment_status


async def test_a_session_is_left_and_expired(
    api: ClientSession, post: Post, receiver: Receiver
) -> None:
    session = await create_session(post)
    assert await choose(api, session, "cancel") == (303, "http://shop.example/back")
    await choose(api, session, "card_declined")
    status, expired = await post(f"checkout/sessions/{session['id']}/expire")
    assert (status, expired["status"], expired["url"]) == (200, "expired", None)
    await receiver.wait_for_type("checkout.session.expired")
    assert "payment_intent.canceled" in receiver.types()
    status, text = await choose(api, session, "card")
    assert status == 200
    assert "expired" in text
    status, _ = await post(f"checkout/sessions/{session['id']}/expire")
    assert status == 400


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"mode": "subscription"}, "mode"),
        ({"success_url": ""}, "success_url"),
        ({"customer": "cus_missing"}, "customer"),
        ({"line_items[0][price_data][unit_amount]": "x"}, "line_items[0]"),
        ({"line_items[0][quantity]": "0"}, "line_items[0]"),
        ({"payment_method_types[0]": "cash"}, "payment_method_types"),
        ({"allowed_payment_method_types[0]": "cash"}, "allowed_payment_method_types"),
        ({"expires_at": "5"}, "expires_at"),
        ({"surprise": "1"}, "surprise"),
    ],
)
async def test_a_bad_session_is_refused(post: Post, change: dict[str, str], param: str) -> None:
    status, answer = await post("checkout/sessions", session_data(**change))
    assert (status, answer["error"]["param"]) == (400, param)


# Webhooks


# Refunds, disputes, and the list of events


async def paid_intent(post: Post, **data: str) -> dict[str, Any]:
    return await create_intent(post, confirm="true", payment_method="pm_card_visa", **data)


async def config(api: ClientSession, path: str, expected: int = 200, **data: str) -> dict[str, Any]:
    async with api.post(f"/_config/{path}", data=data) as answer:
        assert answer.status == expected, await answer.text()
        body = await answer.read()
        said: dict[str, Any] = json.loads(body) if body else {}
        return said


async def test_refunds_are_told_of_and_listed(
    api: ClientSession, post: Post, receiver: Receiver
) -> None:
    intent, other = await paid_intent(post), await paid_intent(post)
    about = {"payment_intent": intent["id"]}
    await post("refunds", {"payment_intent": other["id"]})
    _, first = await post("refunds", {**about, "amount": "200"})
    assert (first["object"], first["status"], first["amount"]) == ("refund", "succeeded", 200)
    assert (first["payment_intent"], first["currency"]) == (intent["id"], "eur")
    status, refused = await post("refunds", {**about, "amount": "301"})
    assert (status, refused["error"]["param"]) == (400, "amount")
    _, rest = await post("refunds", about | {"amount": "300", "metadata[status]": "pending"})
    assert rest["status"] == "pending"
    status, refused = await post("refunds", {**about, "amount": "1"})
    assert (status, refused["error"]["code"]) == (400, "charge_already_refunded")

    listed = await get(api, f"refunds?payment_intent={intent['id']}")
    assert ([one["id"] for one in listed["data"]], listed["has_more"]) == (
        [rest["id"], first["id"]],
        False,
    )
    page = await get(api, f"refunds?payment_intent={intent['id']}&limit=1")
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([rest["id"]], True)
    await receiver.wait_for(lambda: receiver.types().count("charge.refunded") == 3)
    charge = [event for event in receiver.events if event["type"] == "charge.refunded"][-1]
    assert charge["data"]["object"]["payment_intent"] == intent["id"]
    assert receiver.types().count("refund.created") == 3


@pytest.mark.parametrize("end", ["succeeded", "failed", "canceled"])
async def test_a_pending_refund_comes_to_an_end(
    api: ClientSession, post: Post, receiver: Receiver, end: str
) -> None:
    intent = await paid_intent(post)
    about = {"payment_intent": intent["id"]}
    _, refund = await post("refunds", about | {"metadata[status]": "pending"})
    assert (await config(api, f"refunds/{refund['id']}", status=end))["status"] == end
    assert (await receiver.wait_for_type("refund.updated"))["status"] == end
    # What failed or was canceled has ended, and its money can be refunded again.
    await config(api, f"refunds/{refund['id']}", expected=400, status="succeeded")
    if end == "failed":
        assert (await receiver.wait_for_type("refund.failed"))["failure_reason"]
    status, _ = await post("refunds", about)
    assert status == (400 if end == "succeeded" else 200)


async def test_what_was_not_paid_is_neither_refunded_nor_disputed(
    api: ClientSession, post: Post
) -> None:
    intent = await create_intent(post)
    status, _ = await post("refunds", {"payment_intent": intent["id"]})
    assert status == 400
    await config(api, "disputes", expected=400, payment_intent=intent["id"])
    await config(api, "disputes", expected=404, payment_intent="pi_unknown")
    await config(api, "disputes/dp_unknown", expected=404, step="won")


@pytest.mark.parametrize(
    ("opened", "steps", "types"),
    [
        (
            {},
            ["won", "reinstated"],
            ["created", "funds_withdrawn", "closed", "funds_reinstated"],
        ),
        (
            {"amount": "200"},
            ["updated", "lost"],
            ["created", "funds_withdrawn", "updated", "closed"],
        ),
        (
            {"status": "warning_needs_response"},
            ["warning_closed"],
            ["created", "closed"],
        ),
        (
            {"status": "warning_needs_response"},
            ["withdrawn", "lost"],
            ["created", "funds_withdrawn", "closed"],
        ),
    ],
)
async def test_a_dispute_takes_its_course(
    api: ClientSession,
    post: Post,
    receiver: Receiver,
    opened: dict[str, str],
    steps: list[str],
    types: list[str],
) -> None:
    intent = await paid_intent(post)
    dispute = await config(api, "disputes", 200, payment_intent=intent["id"], **opened)
    assert dispute["amount"] == int(opened.get("amount", 500))
    assert dispute["status"] == opened.get("status", "needs_response")
    assert dispute["charge"].startswith("ch_")
    for step in steps:
        await config(api, f"disputes/{dispute['id']}", step=step)
    await config(api, f"disputes/{dispute['id']}", expected=400, step="elsewhere")

    def told() -> list[str]:
        return [one for one in receiver.types() if one.startswith("charge.dispute.")]

    await receiver.wait_for(lambda: len(told()) == len(types))
    assert told() == [f"charge.dispute.{one}" for one in types]


async def test_events_are_listed_newest_first_by_pages(api: ClientSession, post: Post) -> None:
    async with api.delete("/_config/data") as answer:
        assert answer.status == 200
    began = int(time.time())
    intents = [await paid_intent(post) for _ in range(5)]
    wanted = "&types[0]=payment_intent.succeeded&types[1]=charge.refunded"
    all_at_once = await get(api, f"events?limit=100&created[gte]={began}{wanted}")
    assert [event["data"]["object"]["id"] for event in all_at_once["data"]] == [
        intent["id"] for intent in reversed(intents)
    ]
    for event in all_at_once["data"]:
        assert event["object"] == "event"
        assert event["id"].startswith("evt_")
        assert event["type"] == "payment_intent.succeeded"
        assert event["api_version"]

    ids, after = [], ""
    for more in (True, True, False):
        page = await get(api, f"events?limit=2&created[gte]={began}{wanted}{after}")
        assert page["has_more"] is more
        ids += [event["id"] for event in page["data"]]
        after = f"&starting_after={ids[-1]}"
    assert ids == [event["id"] for event in all_at_once["data"]]
    later = await get(api, f"events?created[gte]={int(time.time()) + 60}")
    assert (later["data"], later["has_more"]) == ([], False)
    assert len((await get(api, "events"))["data"]) == 10


async def test_events_can_be_lost_on_their_way(
    api: ClientSession, post: Post, receiver: Receiver
) -> None:
    await config(api, "deliveries", expected=400)
    await config(api, "deliveries", on="false")
    lost = await paid_intent(post)
    await config(api, "deliveries", on="true")
    arrives = await paid_intent(post)
    assert (await receiver.wait_for_type("payment_intent.succeeded"))["id"] == arrives["id"]
    about = [event["data"]["object"]["id"] for event in (await get(api, "events"))["data"]]
    assert lost["id"] in about
    assert lost["id"] not in [event["data"]["object"]["id"] for event in receiver.events]


# The first page


async def press(api: ClientSession, **data: str) -> tuple[int, str]:
    async with api.post("/", data=data) as answer:
        return answer.status, await answer.text()


async def test_people_refund_and_dispute_on_the_first_page(
    api: ClientSession, post: Post, receiver: Receiver
) -> None:
    intent = await paid_intent(post, description="500 <credits>")
    status, text = await press(api, action="refund", id=intent["id"], amount="1,50")
    assert status == 200
    assert "500 &lt;credits&gt;: 5.00 EUR" in text
    assert "Refund of 1.50 EUR: succeeded" in text
    status, text = await press(api, action="refund_pending", id=intent["id"], amount="1")
    assert "Refund of 1.00 EUR: pending" in text
    refund = (await get(api, f"refunds?payment_intent={intent['id']}"))["data"][0]
    status, text = await press(api, action="end_refund", id=refund["id"], step="failed")
    assert "Refund of 1.00 EUR: failed" in text
    status, text = await press(api, action="inquiry", id=intent["id"])
    assert "Dispute of 5.00 EUR: warning_needs_response" in text
    status, text = await press(api, action="dispute", id=intent["id"], amount="2.00")
    assert "Dispute of 2.00 EUR: needs_response" in text
    await receiver.wait_for(lambda: receiver.types().count("charge.dispute.created") == 2)
    disputes = [event["data"]["object"] for event in receiver.events]
    dispute = next(one for one in disputes if one["object"] == "dispute" and one["amount"] == 200)
    status, text = await press(api, action="move_dispute", id=dispute["id"], step="lost")
    assert "Dispute of 2.00 EUR: lost" in text
    assert (await receiver.wait_for_type("charge.dispute.closed"))["status"] == "lost"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"action": "refund", "amount": "9"}, 400),
        ({"action": "refund", "amount": "0.001"}, 400),
        ({"action": "refund", "amount": "<b>"}, 400),
        ({"action": "dispute", "amount": "nan"}, 400),
        ({"action": "refund", "id": "pi_unknown"}, 404),
        ({"action": "end_refund", "id": "re_unknown"}, 404),
        ({"action": "elsewhere"}, 400),
        ({}, 400),
    ],
)
async def test_the_first_page_says_what_is_not_possible(
    api: ClientSession, post: Post, data: dict[str, str], expected: int
) -> None:
    intent = await paid_intent(post)
    status, text = await press(api, **{"id": intent["id"], **data})
    assert status == expected
    assert '<p role="alert">' in text
    assert "<b>" not in text
    assert (await get(api, f"refunds?payment_intent={intent['id']}"))["data"] == []


async def test_the_first_page_loses_events_and_sends_them_again(
    api: ClientSession, post: Post, receiver: Receiver
) -> None:
    _, text = await press(api, action="deliver", id="off")
    assert "Webhooks are lost" in text
    await paid_intent(post)
    _, text = await press(api, action="deliver", id="on")
    assert "Webhooks are sent" in text
    arrives = await paid_intent(post)
    assert (await receiver.wait_for_type("payment_intent.succeeded"))["id"] == arrives["id"]


async def test_events_are_signed_and_in_order(post: Post, receiver: Receiver) -> None:
    for number in range(10):
        await create_intent(post, **{"metadata[number]": str(number)})
    await receiver.wait_for(lambda: len(receiver.events) == 10)
    numbers = [event["data"]["object"]["metadata"]["number"] for event in receiver.events]
    assert numbers == [str(number) for number in range(10)]
    for payload, signature in receiver.attempts:
        assert stripe.Webhook.construct_event(payload, signature, SECRET).type
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(payload, signature, "whsec_other")


async def test_a_refused_event_is_sent_again(post: Post, receiver: Receiver) -> None:
    receiver.refuse = 2
    await create_intent(post)
    await receiver.wait_for(lambda: len(receiver.events) == 1)
    assert len(receiver.attempts) == 3
    assert len({payload for payload, _ in receiver.attempts}) == 1


async def test_sending_ends_after_the_last_attempt() -> None:
    receiver = Receiver(refuse=3)
    app = web.Application()
    app.router.add_post("/hook", receiver.handle)
    async with TestServer(app) as server:
        sender = WebhookSender(retry_delays=(0, 0))
        url = str(server.make_url("/hook"))
        sender.endpoints["a"] = Endpoint(url, SECRET, ("wanted",))
        async with sender.running():
            sender.schedule("evt_1", "wanted", b'{"type": "wanted"}')
            await receiver.wait_for(lambda: len(receiver.attempts) == 3)
            sender.schedule("evt_2", "unwanted", b'{"type": "unwanted"}')
            sender.schedule("evt_3", "wanted", b'{"type": "wanted", "n": 3}')
            await receiver.wait_for(lambda: len(receiver.events) == 1)
    assert receiver.events == [{"type": "wanted", "n": 3}]
    assert len(receiver.attempts) == 4


# The process


async def test_the_data_survive_and_a_debit_under_way_settles(tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = Stripe.start(data)
    created = {"amount": "500", "currency": "eur"}
    headers = {**AUTH, "Idempotency-Key": "k"}
    async with ClientSession(first.url, headers=AUTH) as api:
        async with api.post("/v1/payment_methods", data=SEPA) as answer:
            method = (await answer.json())["id"]
        async with api.post("/v1/payment_intents", data=created, headers=headers) as answer:
            intent = await answer.json()
        confirm = f"/v1/payment_intents/{intent['id']}/confirm"
        async with api.post(confirm, data={"payment_method": method}) as answer:
            assert answer.status == 200
    first.process.send_signal(signal.SIGKILL)
    first.stop()

    second = Stripe.start(data, first.port)
    async with ClientSession(second.url, headers=AUTH) as api:
        async with api.post("/v1/payment_intents", data=created, headers=headers) as answer:
            assert (await answer.json())["id"] == intent["id"]
        async with asyncio.timeout(60):
            while True:
                status = (await get(api, f"payment_intents/{intent['id']}"))["status"]
                if status != "processing":
                    break
                await asyncio.sleep(0.05)
        assert status == "succeeded"
    assert second.stop() == 0


async def test_data_that_cannot_be_read_are_put_aside(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"not a pickle")
    running = Stripe.start(data)
    async with ClientSession(running.url, headers=AUTH) as api, api.post("/v1/customers") as answer:
        assert answer.status == 200
    assert running.stop() == 0
    assert data.with_suffix(".unreadable").read_bytes() == b"not a pickle"
