"""What a reversal takes, while the payer's gifts are redeemed and his credits are spent."""

import asyncio

import asyncpg
import pytest

from tests.support.calls import amounts, available, buy, call, debit, refund_object, stripe_event
from tests.support.databases import Clone, Connection
from tests.support.races import blocked, connections

REFUND = refund_object("re_1", "pi_1", 900)


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
