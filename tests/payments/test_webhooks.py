"""Stripe's webhooks: signed, in any order, more than once, never lost and never doubled."""

import asyncio
import json
import time
from typing import Any
from uuid import uuid4

from service.dev.postgres import Cluster
from tests.support.answers import require_error
from tests.support.clones import away
from tests.support.databases import Clone
from tests.support.stripe import WEBHOOK_SECRET, Shop, intent, intent_of, made_up, sign
from tests.support.waiting import until

CREATE = "POST /v1/payment_intents"
RECEIVED = {"received": True}
URLS = {"successUrl": "http://localhost:5173/ok", "cancelUrl": "http://localhost:5173/no"}


async def started(shop: Shop, user: str = "ann", **body: Any) -> dict[str, Any]:
    """A purchase that was begun, as it is written down."""
    answer = await shop.buy(user, **body)
    assert answer.status == 200, answer.body
    return await shop.row(answer.body["purchaseId"])


async def events(shop: Shop) -> int:
    counted: int = await shop.admin.fetchval("SELECT count(*) FROM credits.stripe_events")
    return counted


# Signatures


async def test_only_what_stripe_signed_is_taken(shop: Shop) -> None:
    purchase = await started(shop)
    payload = json.dumps(made_up("payment_intent.succeeded", intent(purchase))).encode()
    good = sign(payload)
    moment, _, digest = good.partition(",v1=")
    other = json.dumps(made_up("payment_intent.succeeded", intent(purchase, amount=1))).encode()
    for name, signature in {
        "missing": None,
        "empty": "",
        "nonsense": "nonsense",
        "another secret": sign(payload, "whsec_other"),
        "no secret": sign(payload, ""),
        "of another body": sign(other),
        "stale": sign(payload, at=time.time() - 600),
        "no time": f"v1={digest}",
        "no signature": moment,
        "another time": good.replace("t=", "t=1"),
        "not a time": f"t=now,v1={digest}",
        "an older scheme": f"{moment},v0={digest}",
        "cut off": good[:-1],
        "not ascii": f"{moment},v1=ü{digest}",
        "a huge time": f"t={'9' * 400},v1={digest}",
    }.items():
        answer = await shop.deliver(payload, signature)
        assert (answer.status, answer.body["error"]) == (400, "invalid_request"), name
        assert WEBHOOK_SECRET not in str(answer.body)
    tampered = payload.replace(b'"amount_received": 500', b'"amount_received": 501')
    assert tampered != payload
    require_error(await shop.deliver(tampered, good), 400, "invalid_request")

    assert await events(shop) == 0
    assert (await shop.row(purchase["id"]))["status"] == "pending"
    # The same event, as it was signed, is taken.
    assert (await shop.deliver(payload, good)).body == RECEIVED
    assert await shop.service.balance("ann") == 500


async def test_one_good_signature_among_several_is_enough(shop: Shop) -> None:
    payload = json.dumps(made_up("charge.updated", {"id": "ch_1"})).encode()
    answer = await shop.deliver(payload, f"{sign(payload)},v1={'0' * 64}")

    assert (answer.status, answer.body) == (200, RECEIVED)


async def test_what_is_signed_but_no_event(shop: Shop) -> None:
    for payload in (
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"id": "evt_1"}',
        b'{"id": 1, "type": "x", "created": 1}',
        b'{"id": "evt_1", "type": "x", "created": "now"}',
        b"[" * 10_000,
        b"\xff",
    ):
        require_error(await shop.deliver(payload, sign(payload)), 400, "invalid_request")
    assert await events(shop) == 0


async def test_an_event_of_any_size_that_stripe_sends(shop: Shop) -> None:
    large = json.dumps(made_up("charge.updated", {"id": "ch_1", "lines": "x" * 500_000})).encode()
    huge = json.dumps(made_up("charge.updated", {"id": "ch_1", "lines": "x" * 2**20})).encode()

    assert (await shop.deliver(large, sign(large))).status == 200
    require_error(await shop.deliver(huge, sign(huge)), 413, "payload_too_large")


async def test_text_that_postgresql_cannot_hold_loses_no_payment(shop: Shop) -> None:
    purchase = await started(shop)
    event = made_up(
        "payment_intent.succeeded",
        intent(purchase, description="a\0b \ud800", statement="\U0001f600"),
    )

    assert (await shop.tell(event)).body == RECEIVED
    assert await shop.service.balance("ann") == 500


# What is not ours


async def test_an_unknown_type_is_received(shop: Shop) -> None:
    purchase = await started(shop)
    for type_ in ("charge.updated", "customer.created", "payment_intent.created", "invoice.paid"):
        event = made_up(type_, intent(purchase))
        answer = await shop.tell(event)
        assert (answer.status, answer.body) == (200, RECEIVED), type_
        assert (await shop.event(event["id"]))["state"] == "ignored", type_

    assert (await shop.row(purchase["id"]))["status"] == "pending"
    assert await shop.service.balance("ann") == 0


async def test_a_payment_that_is_not_ours_is_received(shop: Shop) -> None:
    await started(shop)
    foreign: list[dict[str, Any]] = [
        {"id": "pi_foreign", "amount_received": 500, "currency": "eur"},
        {"id": "pi_foreign", "metadata": {"purchaseId": str(uuid4())}, "amount_received": 500},
        {"id": "pi_foreign", "metadata": {"purchaseId": "no id"}},
        {"id": "pi_foreign", "metadata": {"purchaseId": "' OR true --"}},
        {"id": "pi_foreign", "metadata": None},
        {"id": "pi_foreign", "metadata": []},
        {"id": None},
        {},
    ]
    for about in foreign:
        for type_ in ("payment_intent.succeeded", "checkout.session.completed"):
            event = made_up(type_, about)
            answer = await shop.tell(event)
            assert (answer.status, answer.body) == (200, RECEIVED), about
            assert (await shop.event(event["id"]))["state"] == "ignored", about
    without_object = {**made_up("payment_intent.succeeded", {}), "data": None}
    assert (await shop.tell(without_object)).status == 200
    assert await shop.service.balance("ann") == 0


# Once


async def test_one_event_delivered_twenty_times_at_once_is_credited_once(shop: Shop) -> None:
    purchase = await started(shop)
    await shop.pay((await shop.buy("other")).body["clientSecret"])
    payload = json.dumps(made_up("payment_intent.succeeded", intent(purchase))).encode()

    answers = await asyncio.gather(*(shop.deliver(payload, sign(payload)) for _ in range(20)))

    assert {answer.status for answer in answers} == {200}
    assert await events(shop) == 1
    balance = await shop.service.call("GET", "/credits/balance", user="ann")
    assert (balance.body["balance"], balance.body["transactionsCount"]) == (500, 1)


async def test_different_events_of_one_payment_are_credited_once(shop: Shop) -> None:
    first = await started(shop, **URLS)
    await shop.press(first["stripe_checkout_url"], "card")
    session = first["stripe_checkout_session_id"]
    completed = await shop.letter("checkout.session.completed", session)
    paid = json.loads(completed[0])["data"]["object"]["payment_intent"]
    succeeded = await shop.letter("payment_intent.succeeded", paid)
    again = json.dumps({**json.loads(succeeded[0]), "id": "evt_of_another_id"}).encode()

    answers = await asyncio.gather(
        *(shop.deliver(*letter) for letter in (completed, succeeded, (again, sign(again))) * 5)
    )

    assert {answer.status for answer in answers} == {200}
    assert await events(shop) == 3
    assert (await shop.row(first["id"]))["status"] == "completed"
    assert await shop.service.balance("ann") == 500


# In any order


async def test_an_event_that_overtakes_the_recording_of_its_payment(shop: Shop) -> None:
    shop.line.held[CREATE] = asyncio.Event()
    buying = asyncio.create_task(shop.buy("ann"))
    await until(lambda: any(call == CREATE for call, _ in shop.line.answers))
    made = shop.line.first(CREATE)
    purchase = await shop.row(made["metadata"]["purchaseId"])
    assert purchase["stripe_payment_intent_id"] is None
    await shop.pay(made["client_secret"])

    overtaking = await shop.hand_on("payment_intent.succeeded", made["id"])
    credited = await shop.service.balance("ann")
    shop.line.held[CREATE].set()
    answer = await buying

    assert (overtaking.status, credited) == (200, 500)
    assert (answer.status, answer.body["clientSecret"]) == (200, made["client_secret"])
    row = await shop.row(purchase["id"])
    assert (row["status"], row["stripe_payment_intent_id"]) == ("completed", made["id"])
    assert await shop.service.balance("ann") == 500


async def test_a_failure_after_the_success_changes_nothing(shop: Shop) -> None:
    purchase = await started(shop)
    await shop.tell(made_up("payment_intent.succeeded", intent(purchase)))
    for type_ in (
        "payment_intent.payment_failed",
        "payment_intent.canceled",
        "payment_intent.processing",
        "checkout.session.expired",
        "checkout.session.async_payment_failed",
    ):
        about = intent(purchase, status="requires_payment_method", amount_received=0)
        if type_.startswith("checkout"):
            about = {**about, "id": "cs_1", "payment_intent": about["id"]}
        event = made_up(type_, about)
        assert (await shop.tell(event)).status == 200
        assert (await shop.event(event["id"]))["state"] == "applied", type_
        assert (await shop.row(purchase["id"]))["status"] == "completed", type_

    assert await shop.service.balance("ann") == 500


async def test_a_success_after_a_failure_completes(shop: Shop) -> None:
    for type_, status in (
        ("payment_intent.payment_failed", "failed"),
        ("payment_intent.canceled", "cancelled"),
    ):
        purchase = await started(shop)
        await shop.tell(made_up(type_, intent(purchase, amount_received=0)))
        assert (await shop.row(purchase["id"]))["status"] == status
        await shop.tell(made_up("payment_intent.succeeded", intent(purchase)))
        assert (await shop.row(purchase["id"]))["status"] == "completed", type_

    assert await shop.service.balance("ann") == 1000


# What does not fit


async def test_a_payment_of_something_else_credits_nothing(shop: Shop) -> None:
    changes: list[dict[str, Any]] = [
        {"amount_received": 499},
        {"amount_received": 501},
        {"amount_received": 0},
        {"amount_received": None},
        {"amount_received": "many"},
        {"currency": "usd"},
        {"currency": None},
    ]
    for change in changes:
        purchase = await started(shop)
        event = made_up("payment_intent.succeeded", intent(purchase, **change))
        answer = await shop.tell(event)
        assert (answer.status, answer.body) == (200, RECEIVED), change
        kept = await shop.event(event["id"])
        assert (kept["state"], bool(kept["error"])) == ("failed", True), change
        assert (await shop.row(purchase["id"]))["status"] == "pending", change

    assert await shop.service.balance("ann") == 0


async def test_another_payment_in_the_name_of_a_purchase_credits_nothing(shop: Shop) -> None:
    purchase = await started(shop)
    event = made_up("payment_intent.succeeded", intent(purchase, id="pi_another"))

    assert (await shop.tell(event)).status == 200
    assert (await shop.event(event["id"]))["state"] == "failed"
    assert await shop.service.balance("ann") == 0


async def test_an_event_that_failed_can_come_again(shop: Shop) -> None:
    purchase = await started(shop)
    event = made_up("payment_intent.succeeded", intent(purchase))
    await shop.admin.execute("UPDATE credits.purchases SET price_euro_cents = 400")
    assert (await shop.tell(event)).status == 200
    failed = await shop.event(event["id"])
    await shop.admin.execute("UPDATE credits.purchases SET price_euro_cents = 500")

    assert (await shop.tell(event)).status == 200

    applied = await shop.event(event["id"])
    assert (failed["state"], applied["state"], applied["attempts"]) == ("failed", "applied", 2)
    assert await shop.service.balance("ann") == 500


# The database away


async def test_without_the_database_stripe_is_asked_to_send_again(
    shop: Shop, cluster: Cluster, database: Clone
) -> None:
    purchase = await started(shop)
    payload = json.dumps(made_up("payment_intent.succeeded", intent(purchase))).encode()
    async with away(cluster, database.name):
        refused = await shop.deliver(payload, sign(payload))

    again = await shop.deliver(payload, sign(payload))

    assert refused.status == 503
    # Unknown where a connection broke under the event.
    assert refused.body["error"] in ("unavailable", "outcome_unknown")
    assert (again.status, again.body) == (200, RECEIVED)
    assert await shop.service.balance("ann") == 500


async def test_stripe_itself_sends_again_until_the_database_is_back(
    shop: Shop, cluster: Cluster, database: Clone
) -> None:
    answer = await shop.buy("ann")
    intent_id = intent_of(answer.body["clientSecret"])
    async with away(cluster, database.name):
        await shop.pay(answer.body["clientSecret"])
        payload, signature = await shop.letter("payment_intent.succeeded", intent_id)
        refused = [await shop.deliver(payload, signature) for _ in range(3)]

    assert {one.status for one in refused} == {503}
    assert (await shop.deliver(payload, signature)).status == 200
    await shop.becomes(answer.body["purchaseId"], "completed")


async def test_a_lock_that_is_held_too_long_is_no_loss(shop: Shop, database: Clone) -> None:
    purchase = await started(shop)
    event = made_up("payment_intent.succeeded", intent(purchase))
    await shop.admin.execute(
        f"ALTER ROLE mana IN DATABASE {database.name} SET lock_timeout = '50ms'"
    )
    await shop.admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'mana-credits'"
    )
    async with shop.admin.transaction():
        await shop.admin.execute("SELECT FROM credits.purchases FOR UPDATE")
        refused = await shop.tell(event)

    again = await shop.tell(event)

    assert refused.status == 503
    assert again.status == 200
    assert (await shop.event(event["id"]))["state"] == "applied"
    assert await shop.service.balance("ann") == 500
