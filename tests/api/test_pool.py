"""Connections that stay at hand: who gets them, and when they go back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from service import pool as pool_module
from service.db import Database
from service.errors import UnavailableError
from service.pool import KEPT_CALLS, Pool
from tests.api.http_support import until
from tests.support.databases import Clone, connect

LONG = 60.0
"""Seconds at hand, for a test that is not about them."""


@pytest.fixture(autouse=True)
def at_hand_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "KEPT_SECONDS", LONG)


@dataclass
class Inner:
    """asyncpg's pool, and how often it was asked for a connection."""

    pool: "asyncpg.Pool[asyncpg.Record]"
    asked: int = 0

    @property
    def idle(self) -> int:
        return self.pool.get_idle_size()


@contextlib.asynccontextmanager
async def opened(database: Clone, size: int) -> AsyncIterator[tuple[Pool, Inner]]:
    async def count(_: object) -> None:
        inner.asked += 1

    inner = Inner(asyncpg.create_pool(database.service_url, min_size=0, max_size=size, setup=count))
    pool = Pool(await inner.pool)
    try:
        yield pool, inner
    finally:
        await pool.close()


async def pid(pool: Pool, *, keep: bool = True) -> int:
    """Which process of the server does a call."""
    connection = await pool.acquire()
    answer: int = await connection.fetchval("SELECT pg_backend_pid()")
    await pool.release(connection, keep=keep)
    return answer


async def test_the_next_call_has_the_one_at_hand(database: Clone) -> None:
    async with opened(database, 3) as (pool, inner):
        first = await pid(pool)
        assert [await pid(pool) for _ in range(5)] == [first] * 5
        assert inner.asked == 1
        assert (pool.open, pool.idle, inner.idle) == (1, 1, 0)


async def test_what_is_not_to_be_kept_goes_back_at_once(database: Clone) -> None:
    async with opened(database, 3) as (pool, inner):
        await pid(pool, keep=False)
        assert (pool.idle, inner.idle) == (1, 1)
        # One at hand is for everybody, and goes back after such a call.
        await pid(pool)
        await pid(pool, keep=False)
        assert (inner.asked, inner.idle) == (2, 1)


async def test_it_goes_back_after_a_moment(
    database: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "KEPT_SECONDS", 0.01)
    async with opened(database, 3) as (pool, inner):
        await pid(pool)
        await until(lambda: inner.idle == 1)
        assert pool.idle == 1


async def test_it_goes_back_after_many_calls(database: Clone) -> None:
    async with opened(database, 3) as (pool, inner):
        for _ in range(KEPT_CALLS - 1):
            await pid(pool)
        assert (inner.asked, inner.idle) == (1, 0)
        await pid(pool)
        assert inner.idle == 1
        await pid(pool)
        assert (inner.asked, inner.idle) == (2, 0)


async def test_who_waits_for_the_pool_comes_first(database: Clone) -> None:
    async with opened(database, 1) as (pool, _):
        connection = await pool.acquire()
        waiting = [asyncio.create_task(pid(pool)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        await pool.release(connection, keep=True)
        async with asyncio.timeout(LONG / 2):
            await asyncio.gather(*waiting)
        # And the last of them has left it at hand.
        assert pool.idle == 1


async def test_one_that_ended_at_hand_is_not_used(database: Clone) -> None:
    admin = await connect(database.admin_url)
    try:
        async with opened(database, 1) as (pool, inner):
            first = await pid(pool)
            (kept,) = pool._kept
            await admin.execute("SELECT pg_terminate_backend($1)", first)
            await until(lambda: pool_module.is_closed(kept))
            # There may be only one, so that the first must have gone.
            assert await pid(pool) != first
            await until(lambda: not pool._releases)
            assert (pool.open, pool.idle, inner.asked) == (1, 1, 2)
    finally:
        await admin.close()


async def test_those_of_before_are_not_used_after_all_expired(database: Clone) -> None:
    async with opened(database, 2) as (pool, _):
        busy, kept = await pool.acquire(), await pool.acquire()
        pids = {await one.fetchval("SELECT pg_backend_pid()") for one in (busy, kept)}
        await pool.release(kept, keep=True)
        await pool.expire()
        await pool.release(busy, keep=True)
        await until(lambda: not pool._releases)
        assert pids.isdisjoint({await pid(pool), await pid(pool, keep=False)})


async def test_closing_waits_for_none_at_hand(database: Clone) -> None:
    async with opened(database, 3) as (pool, _):
        some = [await pool.acquire() for _ in range(3)]
        for one in some:
            await pool.release(one, keep=True)
        assert pool.idle == 3
        async with asyncio.timeout(LONG / 2):
            await pool.close()
        assert (pool.open, pool.idle) == (0, 0)


async def test_a_call_that_was_in_use_while_it_closed_ends(database: Clone) -> None:
    async with opened(database, 1) as (pool, _):
        connection = await pool.acquire()
        closing = asyncio.create_task(pool.close())
        await asyncio.sleep(0)
        assert await connection.fetchval("SELECT 1") == 1
        await pool.release(connection, keep=True)
        async with asyncio.timeout(LONG / 2):
            await closing


async def test_a_database_keeps_them_for_calls_and_not_for_batches(database: Clone) -> None:
    db = Database(database.service_url)
    await db.open()
    try:
        pool = db._pool
        assert pool is not None
        await db.value("SELECT 1")
        assert len(pool._kept) == 1
        await db.move_together("SELECT unnest($1::int[])", [1, 2])
        assert len(pool._kept) == 0
        with pytest.raises(asyncpg.PostgresError):
            await db.value("SELECT 1/0")
        assert len(pool._kept) == 0
    finally:
        await db.close()


async def test_after_a_standby_has_answered_no_connection_of_before_is_used(
    database: Clone,
) -> None:
    db = Database(database.service_url)
    await db.open()
    try:
        read_only = (
            "SELECT pg_backend_pid(), set_config('default_transaction_read_only', 'on', false)"
        )
        before = (await db.row(read_only))[0]
        with pytest.raises(UnavailableError):
            await db.move("SELECT * FROM credits.init_balance($1)", "ann")
        await db.move("SELECT * FROM credits.init_balance($1)", "ann")
        assert await db.value("SELECT pg_backend_pid()") != before
    finally:
        await db.close()
