"""A day of lost webhooks heals by itself; what Stripe takes back is taken back."""

import asyncio
from typing import Any

import pytest

from service.db import Database
from service.dev.postgres import Cluster
from service.errors import UnavailableError
from service.metrics import Metrics
from service.payments import PaymentProviderError
from service.queries import stripe_events
from service.queries.stripe_events import EventResult
from service.reconcile import Reconciler
from service.settings import Settings
from service.stripe_gateway import StripeGateway
from tests.support.answers import require_error
from tests.support.clones import away
from tests.support.databases import Clone, connect
from tests.support.running import running_service
from tests.support.stripe import (
    DECLINED_AT_CHARGING,
    SEPA,
    Line,
    Shop,
    intent_of,
    made_up,
    webhooks,
)
from tests.support.waiting import PATIENCE_SECONDS, until

URLS = {"successUrl": "http://localhost:5173/ok", "cancelUrl": "http://localhost:5173/no"}


def reconciler(shop: Shop, db: Database, stripe: StripeGateway) -> Reconciler:
    return Asking(db, stripe, shop.service.settings, Metrics(db))


class Asking(Reconciler):
    """A reconciler of a test's own, which works while the services' own are silent."""

    reconcile = Reconciler.reconcile


@pytest.fixture(autouse=True)
def _services_are_silent(request: pytest.FixtureRequest) -> None:
    """Where a test asks by itself, no service takes its turn; said before the first one starts."""
    if "asking" in request.fixturenames:
        request.getfixturevalue("silent_services")


@pytest.fixture
async def asking(shop: Shop, db: Database) -> Any:
    """A reconciler of this test's own."""
    assert shop.service.settings.stripe is not None
    async with StripeGateway.connected(shop.service.settings.stripe) as stripe:
        yield reconciler(shop, db, stripe)


async def time_has_come(shop: Shop) -> None:
    """Everything that waits for its time is due."""
    await shop.admin.execute(
        "UPDATE credits.purchases SET check_at = clock_timestamp() WHERE check_at IS NOT NULL"
    )
    await shop.admin.execute(
        "UPDATE credits.stripe_events SET next_attempt_at = clock_timestamp()"
        " WHERE next_attempt_at IS NOT NULL"
    )
    await shop.admin.execute("UPDATE credits.stripe_listing SET next_at = clock_timestamp()")


async def test_purchases_that_stay_open_are_asked_about(shop: Shop, asking: Reconciler) -> None:
    ann, bob = await shop.paid(), await shop.paid("bob")
    unpaid = await shop.buy("cat")
    assert await asking.check_purchases() == 0  # it is too early
    await time_has_come(shop)
    assert await asking.check_purchases() == 3
    for purchase in (ann, bob):
        assert (await shop.row(purchase["id"]))["status"] == "completed"
        assert await shop.service.balance(purchase["user_id"]) == 500
    assert (await shop.row(unpaid.body["purchaseId"]))["status"] == "pending"
    assert await asking.check_purchases() == 0


async def test_events_that_no_webhook_brought_are_fetched(shop: Shop, asking: Reconciler) -> None:
    completed = await shop.paid()
    refunded = await shop.paid("bob")
    disputed = await shop.paid("cat")
    declined = await shop.buy("dan")
    with pytest.raises(Exception, match="declined"):
        await shop.pay(declined.body["clientSecret"], DECLINED_AT_CHARGING)
    await shop.refund(refunded, amount=200)
    dispute = await shop.config(
        "disputes", payment_intent=disputed["stripe_payment_intent_id"], amount=300
    )
    assert await shop.admin.fetchval("SELECT count(*) FROM credits.stripe_events") == 0

    await time_has_come(shop)
    assert await asking.fetch_events() == 8
    states = {
        "ann": ("completed", 500),
        "bob": ("partially_refunded", 300),
        "cat": ("disputed", 200),
        "dan": ("failed", 0),
    }
    for purchase, user in (
        (completed["id"], "ann"),
        (refunded["id"], "bob"),
        (disputed["id"], "cat"),
        (declined.body["purchaseId"], "dan"),
    ):
        status = (await shop.row(purchase))["status"]
        assert (status, await shop.service.balance(user)) == states[user]
    await shop.all_is_applied()

    # What is read again brings nothing new, and what comes later is found.
    await time_has_come(shop)
    assert await asking.fetch_events() == 0
    assert await asking.fetch_events() == 0
    await shop.config(f"disputes/{dispute['id']}", step="won")
    await time_has_come(shop)
    assert await asking.fetch_events() == 1
    assert (await shop.row(disputed["id"]))["status"] == "completed"
    assert await shop.service.balance("cat") == 500


async def test_a_list_of_several_pages_is_read_to_its_end(shop: Shop, asking: Reconciler) -> None:
    purchase = await shop.paid()
    for _ in range(120):
        await shop.config(
            "disputes",
            payment_intent=purchase["stripe_payment_intent_id"],
            amount=1,
            status="warning_needs_response",
        )
    await time_has_come(shop)
    before = shop.line.listings
    assert await asking.fetch_events() == 121
    assert shop.line.listings - before == 2
    assert (await shop.row(purchase["id"]))["status"] == "completed"


async def test_refunds_and_disputes_reach_the_balance_by_webhook(shop: Shop) -> None:
    async with webhooks(shop):
        purchase = await shop.paid()
        await shop.becomes(purchase["id"], "completed")
        part = await shop.refund(purchase, amount=100, metadata={"status": "pending"})
        await shop.becomes(purchase["id"], "partially_refunded")
        assert await shop.service.balance("ann") == 400
        await shop.config(f"refunds/{part}", status="failed")
        await shop.becomes(purchase["id"], "completed")
        assert await shop.service.balance("ann") == 500
        dispute = await shop.config("disputes", payment_intent=purchase["stripe_payment_intent_id"])
        await shop.becomes(purchase["id"], "disputed")
        assert await shop.service.balance("ann") == 0
        answer = await shop.service.call(
            "POST",
            "/credits/use",
            user="ann",
            json={"amount": 1, "appId": "chat", "description": "x"},
        )
        require_error(answer, 402, "insufficient_credits")
        await shop.config(f"disputes/{dispute['id']}", step="reinstated")
        await shop.becomes(purchase["id"], "completed")
        await shop.refund(purchase)
        await shop.becomes(purchase["id"], "refunded")

        await shop.all_is_applied()
    assert await shop.service.balance("ann") == 0


async def test_a_charge_that_was_refunded_makes_the_service_ask_for_the_refunds(
    shop: Shop,
) -> None:
    purchase = await shop.paid()
    answer = await shop.look("ann", str(purchase["id"]))
    assert answer.body["status"] == "completed"
    await shop.refund(purchase, amount=200)
    await shop.refund(purchase, amount=50)
    charge = shop.letterbox
    await until(lambda: sum(b'"charge.refunded"' in body for body, _ in charge.letters) == 2)
    letter = next(letter for letter in charge.letters if b'"charge.refunded"' in letter[0])
    # This event alone arrives; it names no refund, and LISTEN wakes whoever asks for them.
    assert (await shop.deliver(*letter)).body == {"received": True}
    await shop.becomes(purchase["id"], "partially_refunded")
    assert await shop.service.balance("ann") == 250
    assert shop.line.count("GET", "refunds") == 1


@pytest.mark.parametrize("status", [429, 500])
async def test_while_stripe_cannot_be_asked_nothing_is_lost(
    shop: Shop, asking: Reconciler, status: int
) -> None:
    purchase = await shop.paid()
    intent = purchase["stripe_payment_intent_id"]
    call = f"GET /v1/payment_intents/{intent}"
    shop.line.broken = {call: status, "GET /v1/events": status}
    await time_has_come(shop)
    await asking.reconcile()
    assert (await shop.row(purchase["id"]))["status"] == "pending"
    shop.line.broken = {}
    await time_has_come(shop)
    await asking.reconcile()
    assert (await shop.row(purchase["id"]))["status"] == "completed"
    assert await shop.service.balance("ann") == 500


@pytest.mark.usefixtures("asking")
async def test_one_call_that_hangs_ends_its_round_and_the_next_ones_do_the_rest(
    shop: Shop, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.reconcile.ROUND_SECONDS", 0.05)
    bought = {user: await shop.paid(user) for user in ("ann", "bob", "cat")}
    call = f"GET /v1/payment_intents/{bought['ann']['stripe_payment_intent_id']}"
    shop.line.held[call] = asyncio.Event()
    shop.line.broken["GET /v1/events"] = 500

    async def brings(*users: str) -> bool:
        """Whether they are complete; until then they are due, since any call may take too long."""
        left = "UPDATE credits.purchases SET check_at = now() WHERE status = 'pending'"
        await shop.admin.execute(f"{left} AND user_id = ANY ($1)", users)
        rows = [await shop.row(bought[user]["id"]) for user in users]
        return all(row["status"] == "completed" for row in rows)

    assert shop.service.settings.stripe is not None
    await brings("ann")
    async with (
        StripeGateway.connected(shop.service.settings.stripe, call_seconds=0.2) as hasty,
        reconciler(shop, db, hasty).running(),
    ):
        await until(lambda: call in shop.line.calls)
        await until(lambda: brings("bob", "cat"))
        assert (await shop.row(bought["ann"]["id"]))["status"] == "pending"
        shop.line.held.pop(call).set()
        await until(lambda: brings("ann"))
    for user in bought:
        assert await shop.service.balance(user) == 500


@pytest.mark.parametrize("status", [400, 404])
async def test_a_purchase_that_stripe_refuses_does_not_stop_the_others(
    shop: Shop, asking: Reconciler, status: int
) -> None:
    bought = [await shop.paid(f"user{number}") for number in range(5)]
    refused = bought[2]["stripe_payment_intent_id"]
    shop.line.broken = {f"GET /v1/payment_intents/{refused}": status, "GET /v1/events": 500}
    await time_has_come(shop)
    assert await asking.check_purchases() == 5
    for purchase in bought:
        expected = "pending" if purchase is bought[2] else "completed"
        assert (await shop.row(purchase["id"]))["status"] == expected

    # Its event, which no webhook brought, mends it in the same round.
    shop.line.broken.pop("GET /v1/events")
    await time_has_come(shop)
    await asking.reconcile()
    assert (await shop.row(bought[2]["id"]))["status"] == "completed"
    assert await shop.service.balance("user2") == 500


async def test_refunds_of_several_pages_all_count(shop: Shop, asking: Reconciler) -> None:
    purchase = await shop.paid()
    await shop.look("ann", str(purchase["id"]))
    for _ in range(101):
        await shop.refund(purchase, amount=1)
    await until(lambda: any(b'"charge.refunded"' in body for body, _ in shop.letterbox.letters))
    letter = next(one for one in shop.letterbox.letters if b'"charge.refunded"' in one[0])
    assert (await shop.deliver(*letter)).status == 200
    assert await asking.retry_events() == 1
    assert shop.line.count("GET", "refunds") == 2
    assert await shop.service.balance("ann") == 500 - 101


async def test_refunds_that_stripe_does_not_tell_do_not_stop_other_events(
    shop: Shop, asking: Reconciler
) -> None:
    purchase = await shop.paid()
    await shop.look("ann", str(purchase["id"]))
    await shop.refund(purchase, amount=100)
    await until(lambda: any(b'"charge.refunded"' in body for body, _ in shop.letterbox.letters))
    letter = next(one for one in shop.letterbox.letters if b'"charge.refunded"' in one[0])
    shop.line.broken = {"GET /v1/refunds": 404, "GET /v1/events": 500}
    assert (await shop.deliver(*letter)).status == 200
    other = made_up("charge.dispute.created", {"payment_intent": "pi_of_nobody"})
    assert (await shop.tell(other)).status == 200

    await time_has_come(shop)
    assert await asking.retry_events() == 2
    assert shop.line.count("GET", "refunds") == 1
    assert await shop.admin.fetchval(
        "SELECT count(*) = 2 FROM credits.stripe_events WHERE attempts > 1"
    )


@pytest.mark.parametrize("status", [429, 500])
async def test_stripe_being_away_costs_only_one_purchase_its_turn(
    shop: Shop, asking: Reconciler, status: int
) -> None:
    bought = [await shop.paid(f"user{number}") for number in range(3)]
    shop.line.broken = {"GET /v1/events": status} | {
        f"GET /v1/payment_intents/{purchase['stripe_payment_intent_id']}": status
        for purchase in bought
    }
    await time_has_come(shop)
    with pytest.raises(PaymentProviderError):
        await asking.check_purchases()
    shop.line.broken = {}
    assert await asking.check_purchases() == 2


async def test_a_listing_that_breaks_off_is_taken_up_again_in_a_minute(
    shop: Shop, asking: Reconciler
) -> None:
    await time_has_come(shop)
    listing = (
        "SELECT listed_until, next_at <= clock_timestamp() + interval '1 minute' AS soon"
        " FROM credits.stripe_listing"
    )
    before = await shop.admin.fetchrow(listing)
    shop.line.broken = {"GET /v1/events": 500}
    with pytest.raises(PaymentProviderError):
        await asking.fetch_events()
    assert await shop.admin.fetchrow(listing) == before

    # Stopped while Stripe is silent, as at a restart.
    shop.line.broken = {}
    shop.line.held["GET /v1/events"] = asyncio.Event()
    await time_has_come(shop)
    listed = shop.line.listings
    work = asyncio.create_task(asking.fetch_events())
    await until(lambda: shop.line.listings > listed)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    shop.line.held["GET /v1/events"].set()
    assert await shop.admin.fetchrow(listing) == before


async def test_a_listing_that_breaks_off_half_way_loses_nothing(
    shop: Shop, asking: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    bought = [await shop.paid(f"user{number}") for number in range(4)]
    stored = 0

    async def breaks_off(*args: Any, **named: Any) -> EventResult:
        nonlocal stored
        if stored == 2:
            raise UnavailableError
        stored += 1
        return await apply(*args, **named)

    apply = stripe_events.apply_stripe_event
    with monkeypatch.context() as patched:
        patched.setattr(stripe_events, "apply_stripe_event", breaks_off)
        await time_has_come(shop)
        with pytest.raises(UnavailableError):
            await asking.fetch_events()
    # The oldest came first, and the others are still to be found.
    statuses = [(await shop.row(purchase["id"]))["status"] for purchase in bought]
    assert statuses == ["completed", "completed", "pending", "pending"]
    await time_has_come(shop)
    assert await asking.fetch_events() == 2
    for purchase in bought:
        assert (await shop.row(purchase["id"]))["status"] == "completed"
        assert await shop.service.balance(purchase["user_id"]) == 500


async def test_an_event_that_cannot_be_stored_is_tried_at_every_turn(
    shop: Shop, asking: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    bought = [await shop.paid(f"user{number}") for number in range(3)]
    bad = bought[1]["stripe_payment_intent_id"]

    async def cannot(*args: Any, payload: Any, **named: Any) -> EventResult:
        if payload["data"]["object"]["id"] == bad:
            raise ValueError("of this test")
        return await apply(*args, payload=payload, **named)

    apply = stripe_events.apply_stripe_event
    reached = await shop.admin.fetchval("SELECT listed_until FROM credits.stripe_listing")
    with monkeypatch.context() as patched:
        patched.setattr(stripe_events, "apply_stripe_event", cannot)
        await time_has_come(shop)
        assert await asking.fetch_events() == 2
    assert await shop.admin.fetchval("SELECT listed_until FROM credits.stripe_listing") == reached
    await time_has_come(shop)
    assert await asking.fetch_events() == 1
    assert (await shop.row(bought[1]["id"]))["status"] == "completed"
    assert await shop.admin.fetchval("SELECT listed_until FROM credits.stripe_listing") > reached


async def test_more_missing_events_than_are_held_come_oldest_first(
    shop: Shop, asking: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.reconcile.FETCHED_AT_ONCE", 3)
    bought = [await shop.paid(f"user{number}") for number in range(8)]
    await time_has_come(shop)
    assert await asking.fetch_events() == 8
    rows = await shop.admin.fetch(
        "SELECT payload #>> '{data,object,id}' AS about FROM credits.stripe_events"
        " ORDER BY received_at"
    )
    assert [row["about"] for row in rows] == [
        purchase["stripe_payment_intent_id"] for purchase in bought
    ]


async def test_an_event_is_replayed_from_psql(shop: Shop) -> None:
    purchase = await shop.paid()
    await shop.look("ann", str(purchase["id"]))
    await shop.refund(purchase, amount=200)
    await until(lambda: any(b'"charge.refunded"' in body for body, _ in shop.letterbox.letters))
    letter = next(one for one in shop.letterbox.letters if b'"charge.refunded"' in one[0])
    shop.line.broken = {"GET /v1/refunds": 500}
    assert (await shop.deliver(*letter)).status == 200
    # Asked twice, since the gateway repeats what Stripe failed to answer.
    await until(lambda: shop.line.count("GET", "refunds") == 2)
    shop.line.broken = {}
    event = await shop.admin.fetchval("SELECT id FROM credits.stripe_events")
    # As if it had been given up.
    await shop.admin.execute("UPDATE credits.stripe_events SET next_attempt_at = NULL")
    said = await shop.admin.fetchrow("SELECT * FROM credits.replay_stripe_event($1)", event)
    assert said is not None
    assert (said["state"], said["needs_refunds_of"]) == (
        "received",
        purchase["stripe_payment_intent_id"],
    )
    await shop.becomes(purchase["id"], "partially_refunded")
    await shop.all_is_applied()
    assert await shop.service.balance("ann") == 300

    # Again, and nothing moves.
    again = await shop.admin.fetchrow("SELECT * FROM credits.replay_stripe_event($1)", event)
    assert again is not None
    assert again["repeated"]
    await shop.all_is_applied()
    assert await shop.service.balance("ann") == 300


async def test_several_ask_about_each_purchase_once(shop: Shop, asking: Reconciler) -> None:
    bought = [await shop.paid(f"user{number}") for number in range(30)]
    await time_has_come(shop)
    before = shop.line.count("GET", "payment_intents")
    counts = await asyncio.gather(*(asking.check_purchases() for _ in range(4)))
    assert sum(counts) == len(bought)
    assert shop.line.count("GET", "payment_intents") - before == len(bought)
    for purchase in bought:
        assert await shop.service.balance(purchase["user_id"]) == 500


async def test_stripe_holds_no_lock_while_it_is_asked(shop: Shop, asking: Reconciler) -> None:
    purchase = await shop.paid()
    call = f"GET /v1/payment_intents/{purchase['stripe_payment_intent_id']}"
    shop.line.held[call] = asyncio.Event()
    await time_has_come(shop)
    work = asyncio.create_task(asking.check_purchases())
    await until(lambda: call in shop.line.calls)
    # The webhook comes meanwhile, and need not wait.
    answer = await shop.hand_on("payment_intent.succeeded", intent_of(call.rpartition("/")[2]))
    assert answer.status == 200
    assert (await shop.row(purchase["id"]))["status"] == "completed"
    shop.line.held[call].set()
    await work
    assert await shop.service.balance("ann") == 500


async def test_a_debit_under_way_says_so_until_it_is_settled(shop: Shop) -> None:
    purchase = await shop.paid(number=SEPA)
    answer = await shop.hand_on("payment_intent.processing", purchase["stripe_payment_intent_id"])
    assert answer.status == 200
    seen = await shop.service.call("GET", "/credits/purchases", user="ann")
    assert [(row["status"], row["metadata"]) for row in seen.body] == [
        ("pending", {"payment": "processing"})
    ]
    await shop.hand_on("payment_intent.succeeded", purchase["stripe_payment_intent_id"])
    seen = await shop.service.call("GET", "/credits/purchases", user="ann")
    assert [(row["status"], row["metadata"]) for row in seen.body] == [("completed", None)]


async def test_a_round_outlives_a_database_that_is_away(
    shop: Shop, asking: Reconciler, cluster: Cluster, database: Clone
) -> None:
    purchase = await shop.paid()
    await time_has_come(shop)
    await shop.admin.close()
    async with away(cluster, database.name):
        await asking.reconcile()
    admin = await connect(database.admin_url)
    try:
        await asking.reconcile()
        status = await admin.fetchval(
            "SELECT status::text FROM credits.purchases WHERE id = $1", purchase["id"]
        )
    finally:
        await admin.close()
    assert status == "completed"


async def test_the_service_reconciles_by_itself_when_it_starts(
    shop: Shop, cluster: Cluster, line: Line
) -> None:
    purchase = await shop.paid()
    await time_has_come(shop)
    async with running_service(shop.service.settings):
        await shop.becomes(purchase["id"], "completed")
    assert await shop.service.balance("ann") == 500


async def test_an_administrator_replays_an_event_and_stripe_is_asked(
    shop: Shop, asking: Reconciler
) -> None:
    purchase = await shop.paid()
    await shop.look("ann", str(purchase["id"]))
    await shop.refund(purchase, amount=200)
    await until(lambda: any(b'"charge.refunded"' in body for body, _ in shop.letterbox.letters))
    letter = next(one for one in shop.letterbox.letters if b'"charge.refunded"' in one[0])
    assert (await shop.deliver(*letter)).status == 200
    event = await shop.admin.fetchval("SELECT id FROM credits.stripe_events")
    replay = f"/admin/stripe-events/{event}/replay"
    role = {"role": "admin"}

    shop.line.broken = {"GET /v1/refunds": 500}
    away = await shop.service.call("POST", replay, user="root", claims=role)
    require_error(away, 502, "payment_provider_error")
    assert await shop.service.balance("ann") == 500
    shop.line.broken = {}
    for _ in range(2):
        answer = await shop.service.call("POST", replay, user="root", claims=role)
        assert answer.status == 200
        assert (answer.body["id"], answer.body["state"]) == (event, "applied")
        assert await shop.service.balance("ann") == 300
    assert await asking.retry_events() == 0


class Resting(Reconciler):
    """A reconciler with nothing to do, which waits to be woken."""

    async def reconcile(self) -> None:
        pass


@pytest.mark.parametrize("turns", range(8))
async def test_it_ends_also_where_it_is_woken_at_that_moment(turns: int) -> None:
    settings = Settings.from_env({"MANA_ENV": "development"})
    # Whoever listens is not let in, and none of the others is asked.
    nothing: Any = None
    resting = Resting(nothing, nothing, settings, nothing)
    async with asyncio.timeout(PATIENCE_SECONDS):
        async with resting.running():
            for _ in range(20):
                await asyncio.sleep(0)
            resting._wake.set()
            for _ in range(turns):
                await asyncio.sleep(0)
