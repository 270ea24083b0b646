"""The clock is read behind the lock, so that a ledger's times follow its order."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.calls import buy, call, debit, grant, ledger, refund_object, start_buying
from tests.support.calls import stripe_event as hear
from tests.support.databases import Clone, Connection
from tests.support.races import blocked, connections

Work = Callable[[Connection], Awaitable[Any]]


async def _use(admin: Connection) -> Work:
    return lambda connection: debit(connection, "bob", 1)


async def _grant(admin: Connection) -> Work:
    return lambda connection: grant(connection, "bob", 1, "more")


async def _refund(admin: Connection) -> Work:
    return lambda connection: call(
        connection, "credits.refund_credits", user_id="bob", amount=1, description="x"
    )


async def _commit(admin: Connection) -> Work:
    held = await call(admin, "credits.reserve_credits", user_id="bob", amount=5, reason="x")
    return lambda connection: call(
        connection, "credits.commit_reservation", reservation_id=held["reservation_id"]
    )


async def _give(admin: Connection) -> Work:
    return lambda connection: call(connection, "gifts.create_gift", user_id="bob", credits=5)


async def _cancel(admin: Connection) -> Work:
    gift = await call(admin, "gifts.create_gift", user_id="bob", credits=5)
    return lambda connection: call(
        connection, "gifts.cancel_gift", user_id="bob", gift_id=gift["id"]
    )


async def _redeem(admin: Connection) -> Work:
    await grant(admin, "ann", 5)
    gift = await call(admin, "gifts.create_gift", user_id="ann", credits=5)
    return lambda connection: call(
        connection, "gifts.redeem_gift", user_id="bob", code=gift["code"]
    )


async def _register(admin: Connection) -> Work:
    await grant(admin, "ann", 5)
    target = {"type": "personalized", "target_email": "bob@example.org"}
    await call(admin, "gifts.create_gift", user_id="ann", credits=5, **target)
    return lambda connection: call(
        connection, "gifts.redeem_pending_gifts", user_id="bob", email="bob@example.org"
    )


async def _activate(admin: Connection) -> Work:
    return lambda connection: call(connection, "credits.activate_sync", user_id="bob")


async def _buy(admin: Connection) -> Work:
    purchase = await start_buying(admin, "bob", "pi_1")
    return lambda connection: call(
        connection,
        "credits.follow_payment",
        user_id="bob",
        purchase_id=purchase["id"],
        stripe_payment_intent_id="pi_1",
        stripe_status="succeeded",
        received_euro_cents=900,
        currency="eur",
    )


async def _reverse(admin: Connection) -> Work:
    await buy(admin, "bob", "pi_1")
    return lambda connection: hear(connection, "refund.created", refund_object("re_1", "pi_1", 900))


@pytest.mark.parametrize(
    "prepare",
    [_use, _grant, _refund, _commit, _give, _cancel, _redeem, _register, _activate, _buy, _reverse],
)
async def test_a_move_that_waited_is_dated_behind_what_it_waited_for(
    database: Clone, admin: Connection, prepare: Callable[[Connection], Awaitable[Work]]
) -> None:
    await grant(admin, "bob", 100)
    work = await prepare(admin)
    async with connections(database, 2) as (holder, working):
        await holder.execute("BEGIN")
        await debit(holder, "bob", 1)
        worked = asyncio.ensure_future(work(working))
        await blocked(admin, working, worked)
        await debit(holder, "bob", 2)
        await holder.execute("COMMIT")
        await worked
    rows = await ledger(admin, "bob")
    assert rows[-1]["amount"] != -2
    times = [row["created_at"] for row in rows]
    assert times == sorted(times)
