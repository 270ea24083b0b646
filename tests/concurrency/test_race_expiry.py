"""Expiry at the very moment of a redeem or a commit: one wins, never both; and in bulk.

The job's time is two days ahead, at which everything has run out, while the clock of whoever
redeems or commits says that it has not: so nothing but the locks decides.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest

from tests.support.calls import available, call, debit, grant, last_run
from tests.support.databases import Clone, Connection, connect
from tests.support.races import blocked
from tests.support.waiting import until

FIRST = datetime(1970, 1, 1, tzinfo=UTC)


async def expire(connection: Connection, function: str, batch_size: int = 100) -> int:
    row = await call(
        connection,
        function,
        now=datetime.now(UTC) + timedelta(days=2),
        batch_size=batch_size,
        after=FIRST,
        after_key="",
    )
    assert row["errors"] == 0
    done: int = row["done"]
    return done


async def expire_gifts(admin: Connection) -> int:
    return await expire(admin, "gifts._expire_gifts")


async def expire_holds(admin: Connection) -> int:
    return await expire(admin, "credits._expire_reservations")


async def give(connection: Connection, user: str = "ann", **more: Any) -> asyncpg.Record:
    return await call(
        connection, "gifts.create_gift", user_id=user, credits=5, expiration_days=1, **more
    )


async def give_bob(connection: Connection) -> asyncpg.Record:
    """A gift that waits for its target to register."""
    return await give(connection, type="personalized", target_email="bob@example.org")


async def hold(connection: Connection, user: str = "ann") -> Any:
    held = await call(
        connection,
        "credits.reserve_credits",
        user_id=user,
        amount=5,
        reason="research",
        expires_in_seconds=3600,
    )
    return held["reservation_id"]


async def redeem(connection: Connection, code: str) -> str:
    row = await call(connection, "gifts.redeem_gift", code=code, user_id="bob")
    outcome: str = row["outcome"]
    return outcome


async def told(row: Awaitable[asyncpg.Record]) -> str:
    """What came of a call: `done`, `again` where it was done before, or its error."""
    try:
        return "again" if (await row)["replayed"] else "done"
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)


async def settle(connection: Connection, function: str, held: Any) -> str:
    """Commit or give back a hold."""
    return await told(call(connection, function, reservation_id=held))


async def cancel(connection: Connection, gift_id: Any) -> str:
    """The creator takes a gift back."""
    return await told(call(connection, "gifts.cancel_gift", user_id="ann", gift_id=gift_id))


async def register(connection: Connection, user: str = "bob") -> int:
    """A new user with the address of personalized gifts; how many he is given."""
    given = await call(
        connection, "gifts.redeem_pending_gifts", user_id=user, email="bob@example.org"
    )
    redeemed: int = given["redeemed"]
    return redeemed


@pytest.fixture
async def other(database: Clone) -> Any:
    connection = await connect(database.service_url)
    yield connection
    await connection.close()


@pytest.fixture
async def third(database: Clone) -> Any:
    connection = await connect(database.admin_url)
    yield connection
    await connection.close()


async def test_a_redeem_that_waits_for_the_job_finds_the_gift_expired(
    admin: Connection, other: Connection, third: Connection
) -> None:
    await grant(other, "ann", 5)
    gift = await give(other)
    async with admin.transaction():
        assert await expire_gifts(admin) == 1
        late = asyncio.create_task(redeem(other, gift["code"]))
        await blocked(third, other, late)
    assert await late == "failed_expired"
    assert (await available(other, "ann"), await available(other, "bob")) == (5, 0)


async def test_the_job_passes_over_a_gift_that_is_being_redeemed(
    admin: Connection, other: Connection
) -> None:
    await grant(other, "ann", 5)
    gift = await give(other)
    async with other.transaction():
        assert await redeem(other, gift["code"]) == "success"
        assert await expire_gifts(admin) == 0
    assert await expire_gifts(admin) == 0
    assert (await available(other, "ann"), await available(other, "bob")) == (0, 5)


async def test_a_cancellation_that_waits_for_the_job_returns_nothing_twice(
    admin: Connection, other: Connection, third: Connection
) -> None:
    await grant(other, "ann", 5)
    gift = await give(other)
    async with admin.transaction():
        assert await expire_gifts(admin) == 1
        late = asyncio.create_task(cancel(other, gift["id"]))
        await blocked(third, other, late)
    assert await late == "MC006"
    assert await available(other, "ann") == 5


async def test_the_job_passes_over_a_gift_that_is_being_cancelled(
    admin: Connection, other: Connection
) -> None:
    await grant(other, "ann", 5)
    gift = await give(other)
    async with other.transaction():
        assert await cancel(other, gift["id"]) == "done"
        assert await expire_gifts(admin) == 0
    assert await expire_gifts(admin) == 0
    assert await available(other, "ann") == 5
    assert await admin.fetchval("SELECT count(*) FROM credits.notices") == 0


@pytest.mark.parametrize(("end", "given"), [("commit", 0), ("rollback", 2)])
async def test_a_registration_that_waits_for_the_job_is_given_what_that_left(
    admin: Connection, other: Connection, third: Connection, end: str, given: int
) -> None:
    await grant(other, "ann", 10)
    for _ in range(2):
        await give_bob(other)
    job = admin.transaction()
    await job.start()
    assert await expire_gifts(admin) == 2
    late = asyncio.create_task(register(other))
    await blocked(third, other, late)
    await (job.commit() if end == "commit" else job.rollback())
    assert await late == given
    assert await expire_gifts(admin) == 0
    assert await available(other, "ann") == 10 - 5 * given
    assert await available(other, "bob") == 5 * given


async def test_the_job_passes_over_gifts_of_somebody_who_registers(
    admin: Connection, other: Connection
) -> None:
    await grant(other, "ann", 15)
    for _ in range(2):
        await give_bob(other)
    await give(other)
    async with other.transaction():
        assert await register(other) == 2
        # Ann's own balance is nobody's yet, so her other gift goes back beside it.
        assert await expire_gifts(admin) == 1
    assert await expire_gifts(admin) == 0
    assert (await available(other, "ann"), await available(other, "bob")) == (5, 10)


@pytest.mark.parametrize(
    ("function", "outcome"),
    [("credits.commit_reservation", "MC013"), ("credits.refund_reservation", "again")],
)
async def test_a_hold_that_the_job_gives_back_is_not_committed_as_well(
    admin: Connection, other: Connection, third: Connection, function: str, outcome: str
) -> None:
    await grant(other, "ann", 5)
    held = await hold(other)
    async with admin.transaction():
        assert await expire_holds(admin) == 1
        late = asyncio.create_task(settle(other, function, held))
        await blocked(third, other, late)
    assert await late == outcome
    assert await available(other, "ann") == 5


@pytest.mark.parametrize(
    ("function", "left"), [("credits.commit_reservation", 0), ("credits.refund_reservation", 5)]
)
async def test_the_job_passes_over_a_hold_that_is_being_settled(
    admin: Connection, other: Connection, function: str, left: int
) -> None:
    await grant(other, "ann", 5)
    held = await hold(other)
    async with other.transaction():
        assert await settle(other, function, held) == "done"
        assert await expire_holds(admin) == 0
    assert await expire_holds(admin) == 0
    assert await available(other, "ann") == left


@pytest.mark.parametrize("seed", range(3))
async def test_under_load_each_gift_and_each_hold_ends_once(
    database: Clone, admin: Connection, other: Connection, seed: int
) -> None:
    """Everybody goes over the same gifts and holds, each in an order of his own."""
    dice = random.Random(seed)
    await grant(other, "ann", 1000)
    simple = [await give(other) for _ in range(40)]
    gifts = simple + [await give_bob(other) for _ in range(20)]
    holds = [await hold(other) for _ in range(40)]
    connections = [await connect(database.admin_url) for _ in range(8)]

    async def redeem_all(connection: Connection) -> Counter[str]:
        order = dice.sample(simple, len(simple))
        return Counter([await redeem(connection, gift["code"]) for gift in order])

    async def register_often(connection: Connection) -> Counter[str]:
        return Counter(success=sum([await register(connection) for _ in range(10)]))

    async def cancel_all(connection: Connection) -> Counter[str]:
        order = dice.sample(gifts, len(gifts))
        return Counter([await cancel(connection, gift["id"]) for gift in order])

    async def settle_all(connection: Connection, function: str) -> Counter[str]:
        order = dice.sample(holds, len(holds))
        return Counter([await settle(connection, function, held) for held in order])

    async def sweep(connection: Connection, function: str) -> Counter[str]:
        swept = Counter[str]()
        for _ in range(10):
            swept["done"] += await expire(connection, function, batch_size=2)
        return swept

    tasks: list[Callable[[Connection], Awaitable[Counter[str]]]] = [
        redeem_all,
        register_often,
        cancel_all,
        partial(settle_all, function="credits.commit_reservation"),
        partial(settle_all, function="credits.refund_reservation"),
        partial(sweep, function="gifts._expire_gifts"),
        partial(sweep, function="gifts._expire_gifts"),
        partial(sweep, function="credits._expire_reservations"),
    ]
    try:
        redeemed, registered, cancelled, kept, returned, swept, too, freed = await asyncio.gather(
            *(task(connection) for task, connection in zip(tasks, connections, strict=True))
        )
    finally:
        for connection in connections:
            await connection.close()

    given = redeemed["success"] + registered["success"]
    assert redeemed.keys() <= {"success", "failed_expired", "failed_cancelled"}
    # MC005: it was redeemed; MC006: it had expired.
    assert cancelled.keys() <= {"done", "MC005", "MC006"}
    assert cancelled.total() == len(gifts)
    assert cancelled["MC005"] <= given
    assert given + cancelled["done"] + swept["done"] + too["done"] == len(gifts)
    assert await ends(admin, "gifts.gift_codes") == +Counter(
        depleted=given, cancelled=cancelled["done"], expired=swept["done"] + too["done"]
    )

    assert kept.keys() <= {"done", "MC013"}
    assert returned.keys() <= {"done", "again", "MC013"}
    assert kept["done"] == returned["MC013"]
    assert kept["done"] + returned["done"] + freed["done"] == len(holds)
    assert await ends(admin, "credits.reservations") == +Counter(
        committed=kept["done"], refunded=returned["done"], expired=freed["done"]
    )
    assert await available(other, "bob") == 5 * given
    assert await available(other, "ann") == 1000 - 5 * given - 5 * kept["done"]
    notices = await admin.fetchval("SELECT count(*) FROM credits.notices")
    assert notices == swept["done"] + too["done"]


async def ends(admin: Connection, table: str) -> Counter[str]:
    """How many gifts or holds ended in which way."""
    return Counter(row[0] for row in await admin.fetch(f"SELECT status::text FROM {table}"))


@pytest.mark.parametrize(
    ("job", "table"),
    [("gift-expiry", "gifts.gift_codes"), ("reservation-expiry", "credits.reservations")],
)
async def test_one_balance_that_is_held_keeps_nobody_elses_credits(
    admin: Connection, other: Connection, job: str, table: str
) -> None:
    """The batch is done again one by one, and ends without the lock that is not to be had."""
    users = ["ann", "bob", "cleo"]
    for user in users:
        await grant(other, user, 16)
        for _ in range(3):
            await (give(other, user) if job == "gift-expiry" else hold(other, user))
    await admin.execute(f"UPDATE {table} SET expires_at = now() - interval '1 second'")
    run = f"CALL credits.run_{job.replace('-', '_')}()"
    warnings: list[object] = []
    admin.add_log_listener(lambda _, message: warnings.append(message))

    async with other.transaction():
        await debit(other, "bob", 1)
        await admin.execute(run)
        # Waited for once, and not again for each of his.
        assert len(warnings) == 1
        assert (await last_run(admin, job))["did"] == {"expired": 6, "errors": 3}
    assert [await available(other, user) for user in users] == [16, 0, 16]

    await admin.execute(run)
    assert (await last_run(admin, job))["did"] == {"expired": 3, "errors": 0}
    assert [await available(other, user) for user in users] == [16, 15, 16]


USERS = 1000
EACH = int(os.environ.get("MANA_TEST_EXPIRIES", "20"))
"""How many gifts and holds of each user."""

# In time's order, as the ids of gifts and holds are.
AN_ID = "('00000000-0000-7000-8000-' || lpad(to_hex(n * 10000 + u), 12, '0'))::uuid"

# Expired gifts of 5 credits and expired holds of 1, EACH for each of the users.
FILL = f"""
SET session_replication_role = replica;
INSERT INTO credits.balances
(user_id, balance, reserved, total_earned, total_spent, last_seq, created_at, updated_at)
SELECT 'u' || u, {1000 - 5 * EACH}, {EACH}, 1000, {5 * EACH}, {EACH} + 1, now(), now()
FROM generate_series(1, {USERS}) AS u;
INSERT INTO credits.transactions (
    user_id, seq, id, type, origin, amount, balance_before, balance_after, app_id, description,
    created_at
)
SELECT 'u' || u, 1, gen_random_uuid(), 'grant', 'system', 1000, 0, 1000, 'system', 'x', now()
FROM generate_series(1, {USERS}) AS u;
INSERT INTO credits.transactions (
    user_id, seq, id, type, origin, amount, balance_before, balance_after, app_id, description,
    reference_id, created_at
)
SELECT
    'u' || u, n + 1, gen_random_uuid(), 'gift', 'user', -5, 1000 - 5 * (n - 1), 1000 - 5 * n,
    'system', 'x', {AN_ID}, now()
FROM generate_series(1, {EACH}) AS n CROSS JOIN generate_series(1, {USERS}) AS u;
INSERT INTO gifts.gift_codes
(id, code, creator_id, total_credits, type, expires_at, created_at, updated_at)
SELECT
    {AN_ID}, translate(upper(lpad(to_hex(n * 10000 + u), 12, '0')), '01', 'YZ'), 'u' || u, 5,
    'simple', now() - make_interval(secs => n * 1000 + u), now() - interval '90 days', now()
FROM generate_series(1, {EACH}) AS n CROSS JOIN generate_series(1, {USERS}) AS u;
INSERT INTO credits.reservations (user_id, id, amount, reason, expires_at, created_at)
SELECT
    'u' || u, {AN_ID}, 1, 'x', now() - make_interval(secs => n * 1000 + u), now()
FROM generate_series(1, {EACH}) AS n CROSS JOIN generate_series(1, {USERS}) AS u;
RESET session_replication_role;
ANALYZE;
"""


async def test_very_many_go_back_in_batches_beside_everybody_else(
    database: Clone, admin: Connection, other: Connection, third: Connection
) -> None:
    await admin.execute(FILL)
    await grant(other, "ann", 10)
    await other.execute("SET lock_timeout = '5s'")
    for function, table, job, procedure in (
        ("gifts.expire_gifts", "gifts.gift_codes", "gift-expiry", "run_gift_expiry"),
        (
            "credits.expire_reservations",
            "credits.reservations",
            "reservation-expiry",
            "run_reservation_expiry",
        ),
    ):
        # While a batch is open, its rows alone are locked.
        undone = admin.transaction()
        await undone.start()
        assert (await call(admin, function, batch_size=500))["done"] == 500
        free = await third.fetchval(
            f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE expires_at < now()"
            " FOR UPDATE SKIP LOCKED) AS f"
        )
        assert free == USERS * EACH - 500
        await debit(other, "ann", 1)
        await undone.rollback()

        # The job commits batch by batch: somebody else sees it getting on.
        work = asyncio.create_task(admin.execute(f"CALL credits.{procedure}()", timeout=300))
        seen: set[int] = set()

        async def over(job: str = job, seen: set[int] = seen) -> bool:
            row = await third.fetchrow(
                "SELECT (did ->> 'expired')::integer AS done, ended_at, error"
                " FROM credits.job_runs WHERE job = $1",
                job,
            )
            if row is None:
                return False
            if (row["done"] or 0) not in seen:
                seen.add(row["done"] or 0)
                await debit(other, "u1", 1)  # of whom there are rows in many batches
            assert row["error"] is None
            return row["ended_at"] is not None

        await until(over)
        await work
        assert max(seen) == USERS * EACH
        assert len(seen) > 3
        assert all(done % 500 == 0 for done in seen)
    left = await admin.fetchrow(
        "SELECT sum(balance) AS balance, sum(reserved) AS reserved FROM credits.balances"
        " WHERE user_id LIKE 'u_%' AND user_id <> 'u1'"
    )
    assert left is not None
    assert (left["balance"], left["reserved"]) == ((USERS - 1) * 1000, 0)
    notices = await admin.fetchval("SELECT count(*) FROM credits.notices")
    assert notices == USERS * EACH
