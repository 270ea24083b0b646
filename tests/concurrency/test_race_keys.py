"""A key that one call is using, and another call that comes with it: it waits, and is refused."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.concurrency.test_race_steps import in_turn, raised
from tests.support.calls import call, debit, grant, make_package
from tests.support.databases import Clone, Connection
from tests.support.races import connections

Work = Callable[[Connection], Awaitable[Any]]
KEY = "key"


async def _give(admin: Connection) -> Work:
    return lambda c: call(c, "gifts.create_gift", user_id="bob", credits=5, idempotency_key=KEY)


async def _cancel(admin: Connection) -> Work:
    gift = await call(admin, "gifts.create_gift", user_id="bob", credits=5)
    return lambda c: call(
        c, "gifts.cancel_gift", user_id="bob", gift_id=gift["id"], idempotency_key=KEY
    )


async def _redeem(admin: Connection) -> Work:
    await grant(admin, "ann", 5)
    gift = await call(admin, "gifts.create_gift", user_id="ann", credits=5)
    return lambda c: call(
        c, "gifts.redeem_gift", user_id="bob", code=gift["code"], idempotency_key=KEY
    )


async def _activate(admin: Connection) -> Work:
    # To make the row would wait for the balance as well.
    await admin.execute("SELECT credits._lock_subscription('bob')")
    return lambda c: call(c, "credits.activate_sync", user_id="bob", idempotency_key=KEY)


async def _buy(admin: Connection) -> Work:
    package = await make_package(admin)
    return lambda c: call(
        c, "credits.start_purchase", user_id="bob", package_id=package, idempotency_key=KEY
    )


async def _refund(admin: Connection) -> Work:
    return lambda c: call(
        c,
        "credits.refund_credits",
        user_id="bob",
        amount=1,
        description="x",
        idempotency_key=KEY,
    )


async def _reserve(admin: Connection) -> Work:
    return lambda c: call(
        c, "credits.reserve_credits", user_id="bob", amount=5, reason="x", idempotency_key=KEY
    )


async def _hold(admin: Connection) -> Any:
    held = await call(admin, "credits.reserve_credits", user_id="bob", amount=5, reason="x")
    return held["reservation_id"]


async def _commit(admin: Connection) -> Work:
    hold = await _hold(admin)
    return lambda c: call(c, "credits.commit_reservation", reservation_id=hold, idempotency_key=KEY)


async def _give_back(admin: Connection) -> Work:
    hold = await _hold(admin)
    return lambda c: call(c, "credits.refund_reservation", reservation_id=hold, idempotency_key=KEY)


@pytest.mark.parametrize(
    ("origin", "prepare"),
    [
        *(("user", prepare) for prepare in (_give, _cancel, _redeem, _activate, _buy)),
        *(("service", prepare) for prepare in (_refund, _reserve, _commit, _give_back)),
    ],
)
async def test_a_key_that_another_call_is_using_is_waited_for_and_refused(
    database: Clone,
    admin: Connection,
    origin: str,
    prepare: Callable[[Connection], Awaitable[Work]],
) -> None:
    await grant(admin, "bob", 100)
    work = await prepare(admin)
    async with connections(database, 2) as (first, second):
        using = debit(first, "bob", 1, idempotency_key=KEY, origin=origin)
        error = await raised(in_turn(admin, first, using, second, work(second)))
    assert error.sqlstate == "MC003"
