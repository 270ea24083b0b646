"""Several rows are locked in one order: who waits for the first of them has not got the second."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from tests.support.calls import buy, call, grant, ledger, refund_object, stripe_event
from tests.support.databases import Clone, Connection
from tests.support.races import blocked, make_due, subscribe, superusers

BALANCE = "SELECT FROM credits.balances WHERE user_id = $1 FOR UPDATE NOWAIT"
GIFT = "SELECT FROM gifts.gift_codes WHERE id = $1 FOR UPDATE NOWAIT"


async def require_order(
    database: Clone,
    admin: Connection,
    lock: str,
    keys: tuple[Any, Any],
    work: Callable[[Connection], Awaitable[Any]],
) -> Any:
    """Hold the first row, and see that whoever works waits for it without having the second."""
    first, second = keys
    async with superusers(database, 2) as (holder, working):
        await holder.execute("BEGIN")
        await holder.execute(lock, first)
        worked = asyncio.ensure_future(work(working))
        await blocked(admin, working, worked)
        await admin.execute(lock, second)
        await holder.execute("COMMIT")
        return await worked


async def gifts_for_bob(admin: Connection, number: int) -> list[asyncpg.Record]:
    """Gifts of Ann's that wait for Bob, in the order of their ids."""
    await grant(admin, "ann", 5 * number)
    gifts = [
        await call(
            admin,
            "gifts.create_gift",
            user_id="ann",
            credits=5,
            type="personalized",
            target_email="bob@example.org",
        )
        for _ in range(number)
    ]
    return sorted(gifts, key=lambda gift: str(gift["id"]))


async def test_whoever_registers_locks_his_gifts_by_id_and_is_given_them_in_that_order(
    database: Clone, admin: Connection
) -> None:
    gifts = await gifts_for_bob(admin, 3)
    ids = [gift["id"] for gift in gifts]

    async def register(connection: Connection) -> asyncpg.Record:
        return await call(
            connection, "gifts.redeem_pending_gifts", user_id="bob", email="bob@example.org"
        )

    given = await require_order(database, admin, GIFT, (ids[0], ids[2]), register)
    assert (given["redeemed"], given["total_credits"]) == (3, 15)
    assert [row["reference_id"] for row in await ledger(admin, "bob")] == ids


async def test_a_reversal_locks_the_payers_gifts_by_id(database: Clone, admin: Connection) -> None:
    await buy(admin, "ann", "pi_1", 1000, 900)
    gifts = [await call(admin, "gifts.create_gift", user_id="ann", credits=500) for _ in range(2)]
    first, second = sorted((gift["id"] for gift in gifts), key=str)

    async def refund(connection: Connection) -> asyncpg.Record:
        return await stripe_event(connection, "refund.created", refund_object("re", "pi_1", 900))

    applied = await require_order(database, admin, GIFT, (first, second), refund)
    assert applied["state"] == "applied"


@pytest.mark.parametrize(
    ("function", "kind"),
    [("gifts._expire_gifts", "gift"), ("credits._expire_reservations", "reservation")],
)
async def test_an_expiry_locks_the_balances_by_user(
    database: Clone, admin: Connection, function: str, kind: str
) -> None:
    # Those of the last user in the order run out first.
    for user in ("cleo", "bob", "ann"):
        await grant(admin, user, 5)
        if kind == "gift":
            await call(admin, "gifts.create_gift", user_id=user, credits=5, expiration_days=1)
        else:
            await call(admin, "credits.reserve_credits", user_id=user, amount=5, reason="x")

    async def expire(connection: Connection) -> asyncpg.Record | None:
        return await connection.fetchrow(
            f"SELECT * FROM {function}(now() + interval '2 days', 10, '-infinity', '')"
        )

    expired = await require_order(database, admin, BALANCE, ("ann", "cleo"), expire)
    assert (expired["done"], expired["errors"]) == (3, 0)


async def test_a_charge_locks_the_balances_by_user(database: Clone, admin: Connection) -> None:
    users = ["cleo", "bob", "ann"]
    await subscribe(admin, users, 100)
    for hours, user in enumerate(reversed(users), 1):
        await make_due(admin, [user], hours)

    async def charge(connection: Connection) -> asyncpg.Record | None:
        return await connection.fetchrow("SELECT * FROM credits._charge_due(now(), 10)")

    charged = await require_order(database, admin, BALANCE, ("ann", "cleo"), charge)
    assert (charged["charged"], charged["errors"]) == (3, 0)


async def test_where_one_cannot_be_charged_the_others_are_one_by_one_in_the_same_order(
    admin: Connection,
) -> None:
    users = ["cleo", "bob", "ann"]
    await subscribe(admin, users, 100)
    await make_due(admin, users)
    await admin.execute(
        """
        CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN RAISE EXCEPTION ''not him''; END';
        CREATE TRIGGER refuse BEFORE INSERT ON credits.transactions
        FOR EACH ROW WHEN (new.user_id = 'bob') EXECUTE FUNCTION pg_temp.refuse()
        """
    )
    charged = await call(admin, "credits.charge_due_subscriptions")
    assert (charged["charged"], charged["errors"]) == (2, 1)
    # As they were written.
    rows = await admin.fetch(
        "SELECT user_id FROM credits.transactions WHERE idempotency_key = 'sync:2' ORDER BY ctid"
    )
    assert [row["user_id"] for row in rows] == ["ann", "cleo"]


@pytest.mark.parametrize(
    "table",
    ["credits.stripe_events", "credits.purchases", "gifts.gift_codes", "credits.reservations"],
)
async def test_an_erasure_locks_what_is_the_users_by_id(
    database: Clone, admin: Connection, table: str
) -> None:
    for number in range(3):
        # The first event is the last in the order of ids.
        await buy(admin, "ann", f"pi_{number}", 1000, 900)
        about = {"object": "payment_intent", "id": f"pi_{number}", "metadata": {"userId": "ann"}}
        await stripe_event(admin, "payment_intent.created", about, f"evt_{9 - number}")
        await call(admin, "gifts.create_gift", user_id="ann", credits=5)
        await call(admin, "credits.reserve_credits", user_id="ann", amount=5, reason="x")
    ids = [row["id"] for row in await admin.fetch(f"SELECT id FROM {table} ORDER BY id")]
    lock = f"SELECT FROM {table} WHERE id = $1 FOR UPDATE NOWAIT"

    async def erase(connection: Connection) -> asyncpg.Record:
        return await call(connection, "credits.erase_user", user_id="ann")

    erased = await require_order(database, admin, lock, (ids[0], ids[-1]), erase)
    assert (erased["cancelled_gifts"], erased["released_holds"]) == (3, 3)


async def test_an_erasure_waits_for_the_subscription(database: Clone, admin: Connection) -> None:
    await subscribe(admin, ["ann"], 100)
    lock = "SELECT FROM credits.sync_subscriptions WHERE user_id = $1 FOR UPDATE NOWAIT"
    async with superusers(database, 2) as (holder, erasing):
        await holder.execute("BEGIN")
        await holder.execute(lock, "ann")
        erased = asyncio.ensure_future(call(erasing, "credits.erase_user", user_id="ann"))
        await blocked(admin, erasing, erased)
        # What comes behind it, he has not got yet.
        await admin.execute(BALANCE, "ann")
        await holder.execute("COMMIT")
        assert (await erased)["erased_at"] is not None


async def test_an_erasure_locks_what_administrators_did_by_id(
    database: Clone, admin: Connection
) -> None:
    await grant(admin, "ann", 5)
    ids = [f"00000000-0000-7000-8000-00000000000{number}" for number in (1, 2, 3)]
    # Written in the other order, in which a statement without an order would come by them.
    for id_ in reversed(ids):
        await admin.execute(
            "INSERT INTO credits.admin_actions (user_id, id, admin_id, action, details, created_at)"
            " VALUES ('ann', $1, 'root', 'gift_sync', '{}', now())",
            id_,
        )
    lock = "SELECT FROM credits.admin_actions WHERE id = $1 FOR UPDATE NOWAIT"

    async def erase(connection: Connection) -> asyncpg.Record:
        return await call(connection, "credits.erase_user", user_id="ann")

    erased = await require_order(database, admin, lock, (ids[0], ids[2]), erase)
    assert erased["forfeited_credits"] == 5
