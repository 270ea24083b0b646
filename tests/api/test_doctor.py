"""`mana-credits check`, against databases in every state it tells of."""

import asyncio
import contextlib
import os
from datetime import UTC, datetime

import psycopg
import pytest

from service import doctor
from service.dev.postgres import Cluster
from service.migrate import migrate
from service.queries.doctor import LastRun
from service.settings import Settings
from tests.api.http_support import Issuer
from tests.support.databases import Clone
from tests.support.doctors import check, states


def environment(clone: Clone, issuer: Issuer) -> dict[str, str]:
    return {
        "DATABASE_URL": clone.service_url,
        "ADMIN_DATABASE_URL": clone.admin_url,
        "MANA_AUTH_URL": issuer.url,
    }


async def test_a_migrated_database_without_jobs(database: Clone, issuer: Issuer) -> None:
    env = environment(database, issuer)
    _, report = await check(env)
    # A clone keeps no privileges on the database itself.
    assert states(report)["migrations"] == "fail"
    await asyncio.to_thread(migrate, Settings.from_env({"MANA_ENV": "development"} | env))
    status, report = await check(env)
    assert status == 1
    found = states(report)
    for what in ("settings", "database", "login", "connections", "migrations", "ledger", "keys"):
        assert found[what] == "ok", report
    assert found["stripe"] == "warn"
    # In a cluster where pg_cron was never set up, all there is to say is one line.
    assert "fail" in {state for what, state in found.items() if what.startswith("job")}


NOW = datetime(2026, 5, 18, tzinfo=UTC)


@pytest.mark.parametrize(
    ("active", "run", "state"),
    [
        (None, LastRun("pruning", NOW, NOW, None), "fail"),
        (False, LastRun("pruning", NOW, NOW, None), "fail"),
        (True, LastRun("pruning", None, None, None), "warn"),
        (True, LastRun("pruning", NOW, None, None), "warn"),
        (True, LastRun("pruning", NOW, NOW, "out of disk"), "fail"),
        (True, LastRun("pruning", NOW, NOW, None), "ok"),
    ],
)
def test_what_is_said_of_a_job(active: bool | None, run: LastRun, state: str) -> None:
    finding = doctor.examine_job(run, active)
    assert (finding.state, finding.what) == (state, "job pruning")


async def test_in_production_without_the_administrator(database: Clone, issuer: Issuer) -> None:
    env = environment(database, issuer) | {
        "MANA_ENV": "production",
        "MANA_SERVICE_KEY": "a-service-key",
    }
    del env["ADMIN_DATABASE_URL"]
    status, report = await check(env)
    assert status == 0
    found = states(report)
    assert found["login"] == "ok"
    for what in ("migrations", "jobs", "ledger"):
        assert report[what] == ("warn", "not examined: ADMIN_DATABASE_URL is not set")
    mighty = await check(env | {"DATABASE_URL": database.admin_url})
    assert mighty[0] == 1
    assert mighty[1]["login"] == ("fail", "postgres is, or can become, postgres")


async def test_nothing_there(issuer: Issuer) -> None:
    nowhere = "postgresql://mana:secret@127.0.0.1:9/none"
    status, report = await check(
        {
            "DATABASE_URL": nowhere,
            "MANA_AUTH_URL": "http://127.0.0.1:9",
            "STRIPE_SECRET_KEY": "sk_test_1",
            "STRIPE_WEBHOOK_SECRET": "whsec_1",
            "STRIPE_API_BASE": "http://127.0.0.1:9",
        }
    )
    assert status == 1
    found = states(report)
    assert found.pop("settings") == "ok"
    assert set(found.values()) == {"fail"}
    assert set(found) == {
        *("database", "login", "connections", "migrations", "jobs", "ledger", "stripe", "keys")
    }
    assert "secret" not in str(report)


async def test_a_database_that_was_never_migrated(cluster: Cluster, issuer: Issuer) -> None:
    name = f"empty_{os.getpid()}"
    cluster.ensure_database(name)
    try:
        status, report = await check(
            {"DATABASE_URL": cluster.admin_url(name), "MANA_AUTH_URL": issuer.url}
        )
        assert status == 1
        found = states(report)
        assert found["database"] == "ok"
        assert found["login"] == "warn"  # a superuser, in development
        assert any(what.startswith("migration") for what, state in found.items() if state == "fail")
        for what in ("jobs", "ledger"):
            assert found[what] == "fail"
            assert "mana-credits migrate" in report[what][1]
    finally:
        with (
            contextlib.suppress(psycopg.Error),
            psycopg.connect(cluster.admin_url(), autocommit=True) as connection,
        ):
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
