"""kill -9 of a PostgreSQL backend in the middle of a charge batch, which takes the server down."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from service.dev.postgres import Cluster
from tests.support.crashes import DATABASE, back_again, rich
from tests.support.databases import Connection, connect
from tests.support.load import Load, require_exactly_once, require_told_well
from tests.support.races import make_due, subscribe, until
from tests.support.running import Running

CALLERS = 8
BATCH = 10
JOB = f"CALL credits.run_recurring_charge({BATCH})"
SERVICE_BATCH = 50
"""What the first batch of a run takes (credits.pace_charges)."""
CHARGE = "sync:2"
LOCK = 4711

STAND_STILL = """
CREATE FUNCTION public.stand_still() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = {lock}) THEN
        PERFORM pg_sleep(3600);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER stand_still BEFORE {event} FOR EACH ROW WHEN (NEW.user_id = '{user}')
EXECUTE FUNCTION public.stand_still();
"""


@pytest.fixture
async def admin(durable: Cluster, crashing: Running) -> AsyncIterator[Connection]:
    """A connection as superuser to the server that crashes."""
    connection = await connect(durable.admin_url(DATABASE))
    yield connection
    connection.terminate()
    again = await connect(durable.admin_url(DATABASE))
    await again.execute("DROP FUNCTION IF EXISTS public.stand_still CASCADE")
    await again.close()


async def stand_still(admin: Connection, event: str, user: str) -> None:
    """Let the charge of a user stop while it is written, until the server goes down.

    No lock that somebody could tire of waiting for; what it heeds, the server takes with it.
    """
    await admin.execute(STAND_STILL.format(lock=LOCK, event=event, user=user))
    await admin.execute("SELECT pg_advisory_lock($1)", LOCK)


async def standing_still(admin: Connection) -> int:
    """Wait until a charge has stopped there; the backend that makes it."""
    found: list[int] = []

    async def is_so() -> bool:
        rows = await admin.fetch("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        found[:] = [row["pid"] for row in rows]
        return len(found) == 1

    await until(is_so, "a charge that stands still")
    return found[0]


async def waited_for(admin: Connection, pid: int) -> None:
    """Wait until somebody waits for what a backend holds."""

    async def is_so() -> bool:
        return bool(
            await admin.fetchval(
                "SELECT EXISTS (SELECT FROM pg_stat_activity AS a"
                " WHERE $1 = ANY (pg_blocking_pids(a.pid)))",
                pid,
            )
        )

    await until(is_so, "a debit that waits for the charge")


async def charges(admin: Connection, users: list[str]) -> dict[str, int]:
    """How often each user's due charge was made, where it was."""
    rows = await admin.fetch(
        "SELECT user_id, count(*) AS times FROM credits.transactions"
        " WHERE user_id = ANY ($1) AND idempotency_key = $2 AND amount = -30 GROUP BY user_id",
        users,
        CHARGE,
    )
    return {row["user_id"]: row["times"] for row in rows}


async def run_of(admin: Connection, run: Any) -> tuple[Any, bool, str | None]:
    """What a run did, whether it is over, and its error."""
    row = await admin.fetchrow("SELECT * FROM credits.job_runs WHERE id = $1", run)
    assert row is not None
    return row["did"], row["ended_at"] is not None, row["error"]


async def last_run(admin: Connection) -> Any:
    return await admin.fetchval("SELECT id FROM credits.job_runs ORDER BY started_at DESC LIMIT 1")


@pytest.mark.parametrize(
    "event", ["INSERT ON credits.transactions", "UPDATE ON credits.sync_subscriptions"]
)
async def test_a_backend_that_is_killed_in_a_batch_of_the_job(
    crashing: Running, durable: Cluster, admin: Connection, event: str
) -> None:
    """In the ledger, or with the ledger written and the subscriptions to go."""
    name = event.split()[0].lower()
    due = [f"{name}-{number:03}" for number in range(3 * BATCH)]
    await subscribe(admin, due, 10_000)
    await make_due(admin, due)
    await stand_still(admin, event, due[BATCH + 5])
    # Some who are charged, some who are not yet; and one whose balance the charge holds.
    load = Load(crashing, [*await rich(crashing, name), due[0], due[-1]])
    held = Load(crashing, [due[BATCH + 2]])
    load.start(CALLERS)
    await load.more(50)

    cron = await connect(durable.admin_url(DATABASE), role="mana_credits_owner")
    job = asyncio.create_task(cron.execute(JOB))
    pid = await standing_still(admin)
    assert pid == cron.get_server_pid()
    died = await last_run(admin)
    assert await charges(admin, due) == dict.fromkeys(due[:BATCH], 1)
    held.start(1)
    await waited_for(admin, pid)
    await load.more(20)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
        await job
    cron.terminate()
    async with back_again(durable, admin) as admin:
        await load.more(50)
        await held.more(4)
        # The first batch stays, nothing of the second is there, and the run never said its end.
        assert await charges(admin, due) == dict.fromkeys(due[:BATCH], 1)
        assert await run_of(admin, died) == ({"charged": 10, "paused": 0, "errors": 0}, False, None)

        await admin.execute(JOB)
        assert await charges(admin, due) == dict.fromkeys(due, 1)
        did = {"charged": 2 * BATCH, "paused": 0, "errors": 0}
        assert await run_of(admin, await last_run(admin)) == (did, True, None)
        await admin.execute(JOB)
        assert await charges(admin, due) == dict.fromkeys(due, 1)
        # Of the run that died a later one says so.
        await admin.execute(
            "UPDATE credits.job_runs SET started_at = started_at - interval '1 hour' WHERE id = $1",
            died,
        )
        await admin.execute(JOB)
        did, ended, error = await run_of(admin, died)
        assert (did["charged"], ended) == (BATCH, True)
        assert (error or "").startswith("cut off")

        await load.more(50)
        await load.stop()
        await held.stop()
        require_told_well(load.told + held.told)
        await require_exactly_once(load, admin)
        await require_exactly_once(held, admin)


async def test_a_backend_that_is_killed_in_a_batch_of_the_service(
    crashing: Running, durable: Cluster, admin: Connection
) -> None:
    """It goes on by itself when the server is back, or says that it can be called again."""
    due = [f"served-{number:03}" for number in range(SERVICE_BATCH + BATCH)]
    await subscribe(admin, due, 10_000)
    await make_due(admin, due)
    await stand_still(admin, "INSERT ON credits.transactions", due[-2])
    load = Load(crashing, [*await rich(crashing, "served"), due[0]])
    held = Load(crashing, [due[-4]])
    load.start(CALLERS)
    await load.more(50)

    def charge() -> Any:
        return crashing.call("POST", "/internal/sync/charge-recurring", internal=True)

    run = asyncio.create_task(charge())
    pid = await standing_still(admin)
    assert await charges(admin, due) == dict.fromkeys(due[:SERVICE_BATCH], 1)
    held.start(1)
    await waited_for(admin, pid)
    await load.more(20)
    os.kill(pid, signal.SIGKILL)
    async with back_again(durable, admin) as admin:
        answer = await run
        while answer.status != 200:
            assert answer.status == 503
            answer = await charge()
        assert not answer.body["more"]
        assert await charges(admin, due) == dict.fromkeys(due, 1)
        assert (await charge()).body["total"] == 0
        assert await charges(admin, due) == dict.fromkeys(due, 1)

        await load.more(50)
        await held.more(4)
        await load.stop()
        await held.stop()
        require_told_well(load.told + held.told)
        await require_exactly_once(load, admin)
        await require_exactly_once(held, admin)
