"""The jobs as they really run: pg_cron charges by itself, and `cron run` does it now."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from service import cron
from service.dev.postgres import Cluster
from tests.support.databases import Clone, Connection, as_settings
from tests.support.races import ledger, make_due, subscribe, until

CRON_SECONDS = 150.0
"""pg_cron looks once a minute, at the full minute."""
NEVER = "0 0 1 1 *"


@pytest.fixture
def elsewhere(cluster: Cluster) -> Iterator[str]:
    """A database of somebody else's on the same server, with jobs of its own."""
    name = f"elsewhere_{uuid4().hex[:8]}"
    cluster.ensure_database(name)
    settings = as_settings(cluster, name)
    assert cron.install(settings, dict.fromkeys(cron.JOBS, NEVER)) == 0
    yield name
    assert cron.uninstall(settings) == 0
    with psycopg.connect(cluster.admin_url(), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def scheduled(cluster: Cluster, database: str) -> list[tuple[Any, ...]]:
    """pg_cron's rows of the jobs that are installed for a database."""
    with psycopg.connect(cluster.admin_url()) as connection:
        return connection.execute(
            "SELECT jobid, schedule, command, database, username, active FROM cron.job"
            " WHERE jobname LIKE %s ORDER BY jobid",
            [f"mana-credits:%@{database}"],
        ).fetchall()


async def test_pg_cron_itself_charges_a_due_subscription(
    database: Clone, cluster: Cluster, admin: Connection, elsewhere: str
) -> None:
    await subscribe(admin, ["ann", "bob"], 100)
    await subscribe(admin, ["cleo"], 29)
    await make_due(admin, ["ann", "cleo"])
    settings = as_settings(cluster, database.name)
    others = scheduled(cluster, elsewhere)
    assert len(others) == len(cron.JOBS)

    # Every other job waits for its own time, so that what is seen was done by this one.
    schedules = dict.fromkeys(cron.JOBS, NEVER) | {"recurring-charge": "* * * * *"}
    assert cron.install(settings, schedules) == 0
    try:
        run = await first_run(admin)
    finally:
        assert cron.uninstall(settings) == 0
        await until_idle(admin)

    assert run["error"] is None
    assert (run["did"]["charged"], run["did"]["paused"], run["did"]["errors"]) == (1, 1, 0)
    (charged,) = await ledger(admin, "ann", idempotency_key="sync:2")
    assert (charged["amount"], charged["origin"], charged["app_id"]) == (-30, "system", "sync")
    assert await ledger(admin, "bob", idempotency_key="sync:2") == []
    notices = await admin.fetch("SELECT user_id, kind::text FROM credits.notices")
    assert [tuple(notice) for notice in notices] == [("cleo", "sync_paused")]
    assert scheduled(cluster, database.name) == []
    assert scheduled(cluster, elsewhere) == others


async def first_run(admin: Connection) -> dict[str, Any]:
    """Wait for the first run of the charge that is over."""
    runs: list[dict[str, Any]] = []

    async def is_over() -> bool:
        rows = await admin.fetch(
            "SELECT did, error FROM credits.job_runs"
            " WHERE job = 'recurring-charge' AND ended_at IS NOT NULL ORDER BY id"
        )
        runs.extend(dict(row) for row in rows)
        return bool(runs)

    await until(is_over, "a run of pg_cron", CRON_SECONDS)
    return runs[0]


async def until_idle(admin: Connection) -> None:
    """Wait until no run of a job is under way, so that the database can go."""

    async def is_idle() -> bool:
        others: int = await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type NOT LIKE 'autovacuum%'"
        )
        return others == 0

    await until(is_idle, "the end of a job")


async def test_cron_run_charges_a_due_subscription_now(
    database: Clone, cluster: Cluster, admin: Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    await subscribe(admin, ["ann"], 100)
    await make_due(admin, ["ann"])
    settings = as_settings(cluster, database.name)

    assert cron.run(settings, "recurring-charge") == 0
    assert '"charged": 1' in capfd.readouterr().out
    assert cron.run(settings, "recurring-charge") == 0
    assert '"charged": 0' in capfd.readouterr().out

    assert len(await ledger(admin, "ann", idempotency_key="sync:2")) == 1
    runs = await admin.fetch("SELECT did, error FROM credits.job_runs ORDER BY id")
    assert [(run["did"]["charged"], run["error"]) for run in runs] == [(1, None), (0, None)]


async def test_cron_run_runs_and_records_every_job(
    database: Clone, cluster: Cluster, admin: Connection
) -> None:
    settings = as_settings(cluster, database.name)
    expected = sorted(set(cron.JOBS) - {"cron-history"})

    assert [cron.run(settings, job) for job in expected] == [0] * len(expected)

    runs = await admin.fetch(
        "SELECT job FROM credits.job_runs"
        " WHERE ended_at IS NOT NULL AND error IS NULL AND did IS NOT NULL ORDER BY job"
    )
    assert [run["job"] for run in runs] == expected
