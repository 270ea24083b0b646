"""Expiry at the very moment of a redeem or a commit: one wins, never both; and in bulk.

The job's time is two days ahead, at which everything has run out, while the clock of whoever
redeems or commits says that it has not: so nothing but the locks decides.
"""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.support.calls import available, call, debit, grant
from tests.support.databases import Clone, Connection, connect
from tests.support.races import blocked
from tests.support.waiting import until

FIRST = datetime(1970, 1, 1, tzinfo=UTC)


async def expire(connection: Connection, function: str) -> int:
    row = await call(
        connection,
        function,
        now=datetime.now(UTC) + timedelta(days=2),
        batch_size=100,
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


async def give(connection: Connection) -> asyncpg.Record:
    return await call(connection, "gifts.create_gift", user_id="ann", credits=5, expiration_days=1)


async def hold(connection: Connection) -> Any:
    held = await call(
        connection,
        "credits.reserve_credits",
        user_id="ann",
        amount=5,
        reason="research",
        expires_in_seconds=3600,
    )
    return held["reservation_id"]


async def redeem(connection: Connection, code: str) -> str:
    row = await call(connection, "gifts.redeem_gift", code=code, user_id="bob")
    outcome: str = row["outcome"]
    return outcome


async def settle(connection: Connection, function: str, held: Any) -> str:
    """Commit or give back a hold; what came of it."""
    try:
        await call(connection, function, reservation_id=held)
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)
    return "done"


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
        await blocked(third, other)
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

    async def cancel() -> str:
        try:
            await call(other, "gifts.cancel_gift", user_id="ann", gift_id=gift["id"])
        except asyncpg.PostgresError as error:
            return str(error.sqlstate)
        return "done"

    async with admin.transaction():
        assert await expire_gifts(admin) == 1
        late = asyncio.create_task(cancel())
        await blocked(third, other)
    assert await late == "MC006"
    assert await available(other, "ann") == 5


@pytest.mark.parametrize(
    ("function", "outcome"),
    [("credits.commit_reservation", "MC013"), ("credits.refund_reservation", "done")],
)
async def test_a_hold_that_the_job_gives_back_is_not_committed_as_well(
    admin: Connection, other: Connection, third: Connection, function: str, outcome: str
) -> None:
    await grant(other, "ann", 5)
    held = await hold(other)
    async with admin.transaction():
        assert await expire_holds(admin) == 1
        late = asyncio.create_task(settle(other, function, held))
        await blocked(third, other)
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


async def test_under_load_each_gift_and_each_hold_ends_once(
    database: Clone, admin: Connection, other: Connection
) -> None:
    await grant(other, "ann", 1000)
    gifts = [await give(other) for _ in range(40)]
    holds = [await hold(other) for _ in range(40)]
    connections = [await connect(database.admin_url) for _ in range(6)]
    try:

        async def redeem_all(connection: Connection) -> list[str]:
            return [await redeem(connection, gift["code"]) for gift in gifts]

        async def commit_all(connection: Connection) -> list[str]:
            return [await settle(connection, "credits.commit_reservation", held) for held in holds]

        async def sweep(connection: Connection) -> int:
            swept = 0
            for _ in range(10):
                for function in ("gifts._expire_gifts", "credits._expire_reservations"):
                    row = await call(
                        connection,
                        function,
                        now=datetime.now(UTC) + timedelta(days=2),
                        batch_size=2,
                        after=FIRST,
                        after_key="",
                    )
                    swept += row["done"]
            return swept

        one, two, three, four, five, six = connections
        redeemed, committed, *swept = await asyncio.gather(
            redeem_all(one), commit_all(two), sweep(three), sweep(four), sweep(five), sweep(six)
        )
    finally:
        for connection in connections:
            await connection.close()
    given = Counter(redeemed)
    kept = Counter(committed)
    assert set(given) <= {"success", "failed_expired"}
    assert set(kept) <= {"done", "MC013"}
    assert given["failed_expired"] + kept["MC013"] == sum(swept)
    assert await available(other, "bob") == 5 * given["success"]
    assert await available(other, "ann") == 1000 - 5 * given["success"] - 5 * kept["done"]


USERS, EACH = 1000, 100

# A hundred expired gifts of 5 credits and a hundred expired holds of 1 for each of a thousand.
FILL = f"""
SET session_replication_role = replica;
INSERT INTO credits.balances
(user_id, balance, reserved, total_earned, total_spent, last_seq, created_at, updated_at)
SELECT 'u' || u, 500, {EACH}, 1000, 500, {EACH} + 1, now(), now()
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
    'system', 'x', md5(u || ':' || n)::uuid, now()
FROM generate_series(1, {USERS}) AS u CROSS JOIN generate_series(1, {EACH}) AS n;
INSERT INTO gifts.gift_codes
(id, code, creator_id, total_credits, type, expires_at, created_at, updated_at)
SELECT
    md5(u || ':' || n)::uuid, translate(upper(md5(u || ':' || n)), '01', 'YZ'), 'u' || u, 5,
    'simple', now() - make_interval(secs => n * 1000 + u), now() - interval '90 days', now()
FROM generate_series(1, {USERS}) AS u CROSS JOIN generate_series(1, {EACH}) AS n;
INSERT INTO credits.reservations (user_id, id, amount, reason, expires_at, created_at)
SELECT
    'u' || u, md5(u || ':' || n)::uuid, 1, 'x', now() - make_interval(secs => n * 1000 + u), now()
FROM generate_series(1, {USERS}) AS u CROSS JOIN generate_series(1, {EACH}) AS n;
RESET session_replication_role;
ANALYZE;
"""


async def test_a_hundred_thousand_go_back_in_batches_beside_everybody_else(
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
