"""Races for a purchase: Stripe's events, many times and of many kinds at once."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable
from typing import Any
from uuid import uuid4

import asyncpg

from tests.support.databases import Clone, Connection
from tests.support.races import at_once, ledger, outcomes, require_sound
from tests.support.running import Answer, Running

DELIVERIES = 20
CREDITS = 500


async def purchase(admin: Connection, user: str, intent: str | None) -> str:
    """A purchase that has begun; with `intent`, Stripe's answer has been written down."""
    package = uuid4()
    await admin.execute(
        "INSERT INTO credits.packages (id, name, credits, price_euro_cents)"
        " VALUES ($1, 'Small', $2, 499)",
        package,
        CREDITS,
    )
    started = await admin.fetchval("SELECT id FROM credits.start_purchase($1, $2)", user, package)
    if intent is not None:
        await admin.execute(
            "SELECT FROM credits.record_payment_intent($1, $2, $3, 'cus_1')", user, started, intent
        )
    return str(started)


def event(
    purchase_id: str, intent: str, kind: str = "payment_intent.succeeded", number: int = 1
) -> dict[str, Any]:
    """What Stripe sends about a payment."""
    metadata = {"purchaseId": purchase_id}
    payment: dict[str, Any] = {
        "id": intent,
        "object": "payment_intent",
        "amount": 499,
        "amount_received": 499 if kind == "payment_intent.succeeded" else 0,
        "currency": "eur",
        "metadata": metadata,
    }
    if kind.startswith("checkout.session."):
        payment = {
            "id": "cs_1",
            "object": "checkout.session",
            "payment_intent": intent,
            "payment_status": "paid",
            "amount_total": 499,
            "currency": "eur",
            "metadata": metadata,
        }
    return {
        "id": f"evt_{intent}_{number}",
        "object": "event",
        "type": kind,
        "created": int(time.time()),
        "data": {"object": payment},
    }


async def deliver(service: Running, sent: dict[str, Any]) -> Answer:
    """Send an event as Stripe does, signed."""
    assert service.settings.stripe is not None
    body, at = json.dumps(sent), int(time.time())
    signature = hmac.new(
        service.settings.stripe.webhook_secret.encode(), f"{at}.{body}".encode(), hashlib.sha256
    ).hexdigest()
    async with service.session.post(
        f"{service.url}/api/v1/webhooks/stripe",
        data=body,
        headers={
            "Stripe-Signature": f"t={at},v1={signature}",
            "Content-Type": "application/json",
        },
    ) as answer:
        return Answer(answer.status, await answer.json(), dict(answer.headers))


def delivered(service: Running, events: list[dict[str, Any]]) -> list[Awaitable[Answer]]:
    return [deliver(service, sent) for sent in events]


async def require_credited_once(admin: Connection, user: str, purchase_id: str) -> None:
    (row,) = await ledger(admin, user)
    assert (row["type"], row["amount"], str(row["reference_id"])) == (
        "purchase",
        CREDITS,
        purchase_id,
    )
    status = await admin.fetchval(
        "SELECT status::text FROM credits.purchases WHERE user_id = $1", user
    )
    assert status == "completed"
    await require_sound(admin)


async def test_one_event_delivered_twenty_times_at_once_credits_once(
    service: Running, admin: Connection
) -> None:
    for round_ in range(4):
        user, intent = f"ann-{round_}", f"pi_{round_}"
        # The event may come before Stripe's answer to the call that made the payment.
        known = intent if round_ % 2 == 0 else None
        bought = await purchase(admin, user, known)
        sent = event(bought, intent)

        answers = await at_once(delivered(service, [sent] * DELIVERIES))

        assert outcomes(answers) == {"200": DELIVERIES}
        assert all(answer.body == {"received": True} for answer in answers)
        await require_credited_once(admin, user, bought)
        kept = await admin.fetch(
            "SELECT state::text, attempts FROM credits.stripe_events WHERE id = $1", sent["id"]
        )
        assert [tuple(row) for row in kept] == [("applied", 1)]


async def test_many_events_of_one_payment_at_once_credit_once(
    service: Running, admin: Connection
) -> None:
    kinds = ["payment_intent.succeeded", "checkout.session.completed"]
    for round_ in range(4):
        user, intent = f"ann-{round_}", f"pi_{round_}"
        bought = await purchase(admin, user, None)
        events = [event(bought, intent, kinds[n % 2], n) for n in range(DELIVERIES)]

        answers = await at_once(delivered(service, events))

        assert outcomes(answers) == {"200": DELIVERIES}
        await require_credited_once(admin, user, bought)


async def test_a_failure_that_races_the_success_changes_nothing(
    service: Running, admin: Connection
) -> None:
    kinds = [
        "payment_intent.payment_failed",
        "payment_intent.succeeded",
        "payment_intent.canceled",
        "payment_intent.processing",
    ]
    for round_ in range(4):
        user, intent = f"ann-{round_}", f"pi_{round_}"
        bought = await purchase(admin, user, intent)
        events = [event(bought, intent, kinds[n % len(kinds)], n) for n in range(DELIVERIES)]

        answers = await at_once(delivered(service, events))

        assert outcomes(answers) == {"200": DELIVERIES}
        await require_credited_once(admin, user, bought)


async def test_an_event_races_the_answer_to_the_call_that_made_the_payment(
    service: Running, admin: Connection
) -> None:
    """The payment's id is written down by whoever comes first, and the credits come once."""
    for round_ in range(4):
        user, intent = f"ann-{round_}", f"pi_{round_}"
        bought = await purchase(admin, user, None)
        calls = delivered(service, [event(bought, intent, number=n) for n in range(DELIVERIES)])

        async def record(user: str = user, bought: str = bought, intent: str = intent) -> Answer:
            await admin.execute(
                "SELECT FROM credits.record_payment_intent($1, $2, $3, 'cus_1')",
                user,
                bought,
                intent,
            )
            return Answer(200, {}, {})

        answers = await at_once([*calls[: DELIVERIES // 2], record(), *calls[DELIVERIES // 2 :]])

        assert outcomes(answers) == {"200": DELIVERIES + 1}
        await require_credited_once(admin, user, bought)


async def test_one_customer_linked_by_many_at_once_collides_nowhere(database: Clone) -> None:
    """The same user and the same customer, which two unique indexes watch."""
    async with asyncpg.create_pool(database.service_url, min_size=20, max_size=20) as pool:
        for turn in range(20):
            user, customer = f"user-{turn}", f"cus_{turn}"
            linked = await asyncio.gather(
                *(
                    pool.fetchval("SELECT credits.link_stripe_customer($1, $2)", user, customer)
                    for _ in range(20)
                )
            )
            assert set(linked) == {customer}
