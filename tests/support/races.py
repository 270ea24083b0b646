"""Many callers at once, two connections in named steps, and what must hold after either."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from tests.support.databases import Clone, Connection, connect
from tests.support.running import Answer
from tests.support.waiting import PATIENCE_SECONDS

WAIT_SECONDS = PATIENCE_SECONDS
"""Before a condition that is waited for counts as never coming; no test is that slow."""


async def at_once(calls: Iterable[Awaitable[Answer]]) -> list[Answer]:
    """Let all calls run together; the answers come in the order of the calls."""
    return list(await asyncio.gather(*calls))


def outcome(answer: Answer) -> str:
    """An answer in words: `200`, `200 replayed`, `402 insufficient_credits`."""
    if answer.status >= 400:
        return f"{answer.status} {answer.body['error']}"
    replayed = answer.headers.get("Idempotent-Replayed") == "true"
    return f"{answer.status} replayed" if replayed else f"{answer.status}"


def outcomes(answers: Iterable[Answer]) -> Counter[str]:
    """How often each outcome came."""
    return Counter(outcome(answer) for answer in answers)


async def require_sound(admin: Connection) -> None:
    """Fail unless the money rules hold in the whole database."""
    violations = [dict(row) for row in await admin.fetch("SELECT * FROM credits.check_ledger()")]
    assert violations == [], violations


async def ledger(admin: Connection, user_id: str, **having: Any) -> list[dict[str, Any]]:
    """A user's ledger rows, oldest first, of which the columns in `having` have these values."""
    rows = await admin.fetch(
        "SELECT id, seq, type::text, origin::text, amount, app_id, description, reference_id,"
        " idempotency_key FROM credits.transactions WHERE user_id = $1 ORDER BY seq",
        user_id,
    )
    return [
        dict(row) for row in rows if all(row[column] == value for column, value in having.items())
    ]


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, seconds: float = WAIT_SECONDS
) -> None:
    """Wait until something holds; fails naming `what` when it never does."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 - it is another process that is awaited
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never came: {what}") from None


async def blocked(
    admin: Connection, waiting: Connection, call: asyncio.Future[Any] | None = None
) -> None:
    """Wait until a connection's statement waits for a lock that another one holds.

    With the call that it makes, this fails at once when that ends without having waited.
    """
    pid = waiting.get_server_pid()

    async def is_blocked() -> bool:
        assert call is None or not call.done(), f"it has not waited: {call}"
        blockers: int = await admin.fetchval("SELECT cardinality(pg_blocking_pids($1))", pid)
        return blockers > 0

    await until(is_blocked, "a connection that waits for a lock")


async def blocked_by(admin: Connection, holder: Connection, number: int) -> None:
    """Wait until so many connections wait for what one of them holds."""
    pid = holder.get_server_pid()

    async def are_blocked() -> bool:
        waiting: int = await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))", pid
        )
        return waiting >= number

    await until(are_blocked, f"{number} connections that wait for a lock")


def connections(
    database: Clone, number: int
) -> contextlib.AbstractAsyncContextManager[list[Connection]]:
    """Connections of the service's login, for steps that are taken one after the other."""
    return _connections(database.service_url, number)


def superusers(
    database: Clone, number: int
) -> contextlib.AbstractAsyncContextManager[list[Connection]]:
    """Connections that may call the private functions, to which time is given."""
    return _connections(database.admin_url, number)


@contextlib.asynccontextmanager
async def _connections(url: str, number: int) -> AsyncIterator[list[Connection]]:
    opened: list[Connection] = []
    try:
        for _ in range(number):
            opened.append(await connect(url))  # noqa: PERF401 - those opened so far are closed
        yield opened
    finally:
        for connection in opened:
            connection.terminate()


async def subscribe(admin: Connection, users: list[str], credits: int) -> None:
    """Give users credits and a monthly Cloud Sync, of whose charges this pays the first."""
    await admin.execute(
        "SELECT g.seq FROM unnest($1::text[]) AS u"
        " CROSS JOIN LATERAL credits.grant_credits(u, $2, 'test', 'start') AS g",
        users,
        credits + 30,
    )
    await admin.execute(
        "SELECT a.paid_until FROM unnest($1::text[]) AS u"
        " CROSS JOIN LATERAL credits.activate_sync(p_user_id => u, p_id => gen_random_uuid()) AS a",
        users,
    )


async def make_due(admin: Connection, users: list[str], hours: int = 1) -> None:
    """Let the next charge of those who have paid one be due since so many hours, paused or not.

    The charge's key is its number: `sync:2` for whoever has paid the first period alone.
    """
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET active = true, paused_at = NULL,"
        " anchor_at = n.at - interval '1 month', next_charge_month = 1,"
        " next_charge_at = n.at, paid_until = n.at"
        " FROM (SELECT date_trunc('hour', now()) - make_interval(hours => $2) AS at) AS n"
        " WHERE user_id = ANY ($1) AND NOT gifted AND paid_until IS NOT NULL",
        users,
        hours,
    )
