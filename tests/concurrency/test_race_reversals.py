"""What a reversal takes, while the payer's gifts are redeemed and his credits are spent."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from tests.support.calls import (
    amounts,
    available,
    buy,
    call,
    debit,
    dispute_object,
    make_package,
    refund_object,
    start_buying,
    stripe_event,
)
from tests.support.databases import Clone, Connection
from tests.support.races import blocked, connections, superusers

REFUND = refund_object("re_1", "pi_1", 900)
LOCK_PURCHASE = "SELECT FROM credits.purchases WHERE id = $1 FOR UPDATE"


async def _bought_and_given(admin: Connection, gift: int = 1000) -> asyncpg.Record:
    """Ann has bought 1000 credits, and put so many of them into a gift."""
    await buy(admin, "ann", "pi_1")
    return await call(admin, "gifts.create_gift", user_id="ann", credits=gift)


async def _status(admin: Connection) -> str:
    status: str = await admin.fetchval("SELECT status::text FROM gifts.gift_codes")
    return status


@pytest.mark.parametrize(
    ("end", "status", "anns", "bobs"),
    [("COMMIT", "depleted", -1000, 1000), ("ROLLBACK", "cancelled", 0, 0)],
)
async def test_a_refund_waits_for_whoever_redeems_a_gift_that_it_may_need(
    database: Clone, admin: Connection, end: str, status: str, anns: int, bobs: int
) -> None:
    gift = await _bought_and_given(admin)
    async with connections(database, 2) as (redeeming, refunding):
        await redeeming.execute("BEGIN")
        await call(redeeming, "gifts.redeem_gift", user_id="bob", code=gift["code"])
        refund = asyncio.ensure_future(stripe_event(refunding, "refund.created", REFUND))
        await blocked(admin, refunding, refund)
        # It waits for the gift, before it has Ann's balance.
        await admin.execute("SELECT FROM credits.balances WHERE user_id = 'ann' FOR UPDATE NOWAIT")
        await redeeming.execute(end)
        assert (await refund)["state"] == "applied"
    assert await _status(admin) == status
    assert (await available(admin, "ann"), await available(admin, "bob")) == (anns, bobs)


async def test_a_refund_that_comes_to_need_a_gift_which_is_being_redeemed_begins_again(
    database: Clone, admin: Connection
) -> None:
    """It had the credits when it looked, without a lock; by the time it has the lock it has not."""
    gift = await _bought_and_given(admin, 500)
    await buy(admin, "ann", "pi_2")
    async with connections(database, 3) as (spending, redeeming, refunding):
        await spending.execute("BEGIN")
        await debit(spending, "ann", 1500)
        refund = asyncio.ensure_future(stripe_event(refunding, "refund.created", REFUND, "evt_1"))
        await blocked(admin, refunding, refund)
        await redeeming.execute("BEGIN")
        await call(redeeming, "gifts.redeem_gift", user_id="bob", code=gift["code"])
        await spending.execute("COMMIT")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await refund
        await redeeming.execute("COMMIT")
        again = await stripe_event(refunding, "refund.created", REFUND, "evt_1")
    assert (again["state"], again["repeated"]) == ("applied", False)
    assert await _status(admin) == "depleted"
    assert (await available(admin, "ann"), await available(admin, "bob")) == (-1000, 500)


async def test_a_refund_that_can_be_covered_waits_for_no_gift(
    database: Clone, admin: Connection
) -> None:
    gift = await _bought_and_given(admin, 500)
    await buy(admin, "ann", "pi_2")
    async with connections(database, 1) as (redeeming,):
        await redeeming.execute("BEGIN")
        await call(redeeming, "gifts.redeem_gift", user_id="bob", code=gift["code"])
        assert (await stripe_event(admin, "refund.created", REFUND))["state"] == "applied"
        await redeeming.execute("COMMIT")
    assert await _status(admin) == "depleted"


async def test_two_refunds_of_one_purchase_at_once_take_no_more_than_it_gave(
    database: Clone, admin: Connection
) -> None:
    await buy(admin, "ann", "pi_1")
    async with connections(database, 2) as (first, second):
        await first.execute("BEGIN")
        await stripe_event(first, "refund.created", refund_object("re_1", "pi_1", 600))
        other = asyncio.ensure_future(
            stripe_event(second, "refund.created", refund_object("re_2", "pi_1", 600))
        )
        await blocked(admin, second, other)
        await first.execute("COMMIT")
        assert (await other)["state"] == "applied"
    assert await amounts(admin, "ann") == [
        ("purchase", 1000),
        ("reversal", -666),
        ("reversal", -334),
    ]


async def test_a_dispute_that_is_won_while_it_begins_leaves_the_purchase_completed(
    database: Clone, admin: Connection
) -> None:
    await buy(admin, "ann", "pi_1")
    async with connections(database, 2) as (beginning, winning):
        await beginning.execute("BEGIN")
        began = dispute_object("dp_1", "pi_1", 900)
        await stripe_event(beginning, "charge.dispute.created", began)
        won = asyncio.ensure_future(
            stripe_event(
                winning, "charge.dispute.closed", dispute_object("dp_1", "pi_1", 900, "won")
            )
        )
        await blocked(admin, winning, won)
        await beginning.execute("COMMIT")
        assert (await won)["outcome"] == "purchase completed"
    assert await admin.fetchval("SELECT status::text FROM credits.purchases") == "completed"


async def test_refunds_that_stripe_has_named_wait_for_what_is_heard_of_one_of_them(
    database: Clone, admin: Connection
) -> None:
    await buy(admin, "ann", "pi_1")
    charge = {"object": "charge", "id": "ch_1", "payment_intent": "pi_1"}
    await stripe_event(admin, "charge.refunded", charge, "evt_1")
    async with connections(database, 2) as (hearing, asking):
        await hearing.execute("BEGIN")
        await stripe_event(hearing, "refund.created", REFUND)
        named = asyncio.ensure_future(
            call(
                asking,
                "credits.apply_stripe_refunds",
                event_id="evt_1",
                refunds=[refund_object("re_1", "pi_1", 900, "failed")],
            )
        )
        await blocked(admin, asking, named)
        await hearing.execute("COMMIT")
        assert (await named)["outcome"] == "purchase completed"
    assert await admin.fetchval("SELECT status::text FROM credits.purchases") == "completed"


def _replay(connection: Connection) -> Awaitable[asyncpg.Record]:
    return call(connection, "credits.replay_stripe_event", id="evt_1")


def _deliver(connection: Connection) -> Awaitable[asyncpg.Record]:
    paid = {"id": "pi_1", "amount_received": 1, "currency": "eur"}
    return stripe_event(connection, "payment_intent.succeeded", paid, "evt_1")


@pytest.mark.parametrize(("one", "other"), [(_replay, _deliver), (_deliver, _replay)])
async def test_a_delivery_and_a_replay_of_one_event_do_not_wait_in_a_circle(
    database: Clone,
    admin: Connection,
    one: Callable[[Connection], Awaitable[asyncpg.Record]],
    other: Callable[[Connection], Awaitable[asyncpg.Record]],
) -> None:
    """The event comes before the purchase, whichever of them waits for that first."""
    purchase = await start_buying(admin, "ann", "pi_1")
    assert (await _deliver(admin))["state"] == "failed"
    # What it failed for is put right. A failure would undo what it has locked.
    await admin.execute("UPDATE credits.purchases SET price_euro_cents = 1")
    async with superusers(database, 3) as (holder, first, second):
        await holder.execute("BEGIN")
        await holder.execute(LOCK_PURCHASE, purchase["id"])
        early = asyncio.ensure_future(one(first))
        await blocked(admin, first, early)
        late = asyncio.ensure_future(other(second))
        await blocked(admin, second, late)
        await holder.execute("COMMIT")
        assert [(await early)["state"], (await late)["state"]] == ["applied", "applied"]


async def test_refunds_that_stripe_has_named_and_a_replay_do_not_wait_in_a_circle(
    database: Clone, admin: Connection
) -> None:
    purchase = await buy(admin, "ann", "pi_1")
    charge = {"object": "charge", "id": "ch_1", "payment_intent": "pi_1"}
    await stripe_event(admin, "charge.refunded", charge, "evt_1")
    async with superusers(database, 3) as (holder, naming, replaying):
        await holder.execute("BEGIN")
        await holder.execute(LOCK_PURCHASE, purchase["id"])
        refunds = [refund_object("re_1", "pi_1", 900)]
        named = asyncio.ensure_future(
            call(naming, "credits.apply_stripe_refunds", event_id="evt_1", refunds=refunds)
        )
        await blocked(admin, naming, named)
        replay = asyncio.ensure_future(_replay(replaying))
        await blocked(admin, replaying, replay)
        await holder.execute("COMMIT")
        assert [(await named)["state"], (await replay)["state"]] == ["applied", "received"]


async def test_what_is_asked_waits_for_what_is_heard_and_changes_no_end_of_a_payment(
    database: Clone, admin: Connection
) -> None:
    purchase = await start_buying(admin, "ann", "pi_1")
    async with connections(database, 2) as (hearing, asking):
        await hearing.execute("BEGIN")
        await stripe_event(hearing, "payment_intent.canceled", {"id": "pi_1"})
        asked = asyncio.ensure_future(
            call(
                asking,
                "credits.follow_payment",
                user_id="ann",
                purchase_id=purchase["id"],
                stripe_payment_intent_id="pi_1",
                stripe_status="processing",
                received_euro_cents=0,
                currency="eur",
            )
        )
        await blocked(admin, asking, asked)
        await hearing.execute("COMMIT")
        assert (await asked)["status"] == "cancelled"


async def test_a_purchase_is_not_failed_while_its_payment_is_written_down(
    database: Clone, admin: Connection
) -> None:
    """Of two calls with one key, one did not reach Stripe, and the other did."""
    package = await make_package(admin)
    purchase = await call(admin, "credits.start_purchase", user_id="ann", package_id=package)
    async with connections(database, 2) as (reaching, failing):
        await reaching.execute("BEGIN")
        await call(
            reaching,
            "credits.record_payment_intent",
            user_id="ann",
            purchase_id=purchase["id"],
            stripe_payment_intent_id="pi_1",
            stripe_customer_id="cus_1",
        )
        failed = asyncio.ensure_future(
            call(
                failing,
                "credits.fail_purchase",
                user_id="ann",
                purchase_id=purchase["id"],
                failure="x",
            )
        )
        await blocked(admin, failing, failed)
        await reaching.execute("COMMIT")
        assert (await failed)["status"] == "pending"
