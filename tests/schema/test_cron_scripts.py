"""The scripts of `cron/`, through psql and through the command, against a real pg_cron."""

import argparse
import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from service import cron
from service.dev.postgres import Cluster
from service.migrate import migrate
from service.paths import CRON, MIGRATIONS
from service.settings import Settings

OWNER = "mana_credits_owner"
DEFAULTS = {
    "recurring-charge": "5 * * * *",
    "gift-expiry": "*/10 * * * *",
    "reservation-expiry": "* * * * *",
    "charge-notices": "20 8 * * *",
    "ledger-check": "35 2 * * *",
    "pruning": "50 3 * * *",
    "cron-history": "10 4 * * *",
}
# Jobs that say how they end; what the real ones do is tested where they are.
SUCCEEDS = """
CREATE OR REPLACE PROCEDURE credits.run_gift_expiry() LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO credits.job_runs (id, job, started_at, ended_at, did)
    VALUES (gen_random_uuid(), 'gift-expiry', clock_timestamp(), clock_timestamp(), '{"n": 77}');
    COMMIT;
END $$;
"""
RECORDS_AN_ERROR = """
CREATE OR REPLACE PROCEDURE credits.run_pruning() LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO credits.job_runs (id, job, started_at, ended_at, error)
    VALUES (gen_random_uuid(), 'pruning', clock_timestamp(), clock_timestamp(), 'no room');
    COMMIT;
END $$;
"""
RAISES = """
CREATE OR REPLACE PROCEDURE credits.run_ledger_check() LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is damaged';
END $$;
"""


@dataclass(frozen=True)
class App:
    """A migrated database, and the commands on it."""

    cluster: Cluster
    database: str

    @property
    def settings(self) -> Settings:
        return Settings.from_env(
            {
                "MANA_ENV": "development",
                "DATABASE_URL": self.cluster.service_url(self.database),
                "ADMIN_DATABASE_URL": self.cluster.admin_url(self.database),
            }
        )

    def command(self, *arguments: str) -> int:
        parser = argparse.ArgumentParser()
        cron.add_arguments(parser)
        return cron.main(self.settings, parser.parse_args(arguments))

    @property
    def suffix(self) -> str:
        if len(self.database) <= 31:
            return f"@{self.database}"
        return "@" + hashlib.md5(self.database.encode()).hexdigest()[:31]

    def jobs(self) -> dict[str, tuple[Any, ...]]:
        """pg_cron's rows of this database's jobs, by the job's name."""
        found = {}
        for row in all_jobs(self.cluster):
            name, at, _rest = row[1].removeprefix("mana-credits:").partition("@")
            if row[1].startswith("mana-credits:") and row[1].endswith(self.suffix) and at:
                found[name] = row
        return found

    def schedules(self) -> dict[str, str]:
        return {name: row[2] for name, row in self.jobs().items()}

    def as_owner_of_cron(self, query: LiteralString, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.cluster.admin_url(), autocommit=True) as connection:
            connection.execute(f"SET ROLE {OWNER}".encode())
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []


def all_jobs(cluster: Cluster) -> list[tuple[Any, ...]]:
    with psycopg.connect(cluster.admin_url()) as connection:
        return connection.execute(
            "SELECT jobid, jobname, schedule, command, database, username, active, xmin::text"
            " FROM cron.job ORDER BY jobid"
        ).fetchall()


def make_app(cluster: Cluster, database: str, folder: Path) -> App:
    cluster.ensure_database(database)
    functions = folder / "functions"
    (functions / "credits").mkdir(parents=True, exist_ok=True)
    (functions / "credits" / "run_gift_expiry.sql").write_text(SUCCEEDS)
    (functions / "credits" / "run_pruning.sql").write_text(RECORDS_AN_ERROR)
    (functions / "credits" / "run_ledger_check.sql").write_text(RAISES)
    (functions / "privileges.sql").write_text("SELECT 1;")
    app = App(cluster, database)
    migrate(app.settings, migrations=MIGRATIONS, functions=functions)
    return app


def drop(app: App) -> None:
    app.command("uninstall")
    with psycopg.connect(app.cluster.admin_url(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(app.database))
        )


@pytest.fixture
def app(cluster: Cluster, tmp_path: Path) -> Iterator[App]:
    made = make_app(cluster, f"cron_{uuid4().hex[:12]}", tmp_path)
    yield made
    drop(made)


@pytest.fixture
def another(cluster: Cluster, tmp_path: Path) -> Iterator[App]:
    """An application whose database's name is too long for the name of a job."""
    made = make_app(cluster, f"another_cron_{uuid4().hex}", tmp_path)
    yield made
    drop(made)


def test_installs_every_job(app: App) -> None:
    assert app.command("install") == 0
    assert app.schedules() == DEFAULTS
    assert set(DEFAULTS) == set(cron.JOBS)
    for name, (
        _id,
        _name,
        _schedule,
        command,
        database,
        username,
        active,
        _xmin,
    ) in app.jobs().items():
        assert username == OWNER
        assert active
        if name == "cron-history":
            assert database == "postgres"
        else:
            assert database == app.database
            assert command == f"CALL credits.run_{name.replace('-', '_')}()"


def test_installing_twice_changes_nothing(app: App) -> None:
    app.command("install")
    before = app.jobs()
    assert app.command("install") == 0
    assert app.jobs() == before


def test_five_installs_at_once(app: App) -> None:
    processes = [psql(app, "schedule.sql") for _ in range(5)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 5, outputs
    assert app.schedules() == DEFAULTS


def test_the_jobs_belong_to_those_the_migration_expects(app: App) -> None:
    with psycopg.connect(app.cluster.admin_url(app.database)) as connection:
        expected = {row[0] for row in connection.execute("SELECT job FROM credits.jobs")}
    assert expected == set(DEFAULTS) - {"cron-history"}


def test_a_schedule_can_be_chosen_and_goes_back_to_its_default(app: App) -> None:
    app.command("install")
    before = app.jobs()
    chosen = ["--every-minute", "recurring-charge", "--schedule", "gift-expiry=*/5 1-3 * * *"]
    assert app.command("install", *chosen) == 0
    expected = {**DEFAULTS, "recurring-charge": "* * * * *", "gift-expiry": "*/5 1-3 * * *"}
    assert app.schedules() == expected
    assert {name: row[0] for name, row in app.jobs().items()} == {
        name: row[0] for name, row in before.items()
    }
    assert app.command("install") == 0
    assert app.schedules() == DEFAULTS


def test_a_schedule_that_is_none_changes_nothing(
    app: App, capfd: pytest.CaptureFixture[str]
) -> None:
    app.command("install")
    before = app.jobs()
    assert app.command("install", "--schedule", "gift-expiry=99 * * * *") != 0
    assert "invalid schedule" in capfd.readouterr().err
    assert app.command("install", "--schedule", "gift-expiry") != 0
    assert app.command("install", "--schedule", "gifts=* * * * *") != 0
    assert app.jobs() == before


def test_removes_a_job_that_the_list_no_longer_has(app: App) -> None:
    app.command("install")
    app.as_owner_of_cron(
        "SELECT cron.schedule_in_database(%s, '* * * * *', 'SELECT 1', %s)",
        f"mana-credits:old-job{app.suffix}",
        app.database,
    )
    assert "old-job" in app.jobs()
    assert app.command("install") == 0
    assert set(app.jobs()) == set(DEFAULTS)


def test_an_inactive_job_stays_inactive(app: App) -> None:
    app.command("install")
    job = app.jobs()["pruning"][0]
    app.as_owner_of_cron("SELECT cron.alter_job(%s, active := false)", job)
    app.command("install")
    assert [name for name, row in app.jobs().items() if not row[6]] == ["pruning"]


def test_touches_no_job_but_its_own(app: App, another: App) -> None:
    app.command("install")
    another.command("install")
    assert another.schedules() == DEFAULTS
    ours = {row[0] for row in app.jobs().values()}
    with psycopg.connect(app.cluster.admin_url(), autocommit=True) as connection:
        # Somebody else's, one of them named as ours are.
        names = [f"vacuum-{uuid4().hex}", f"mana-credits:gift-expiry{app.suffix}"]
        for name in names:
            connection.execute("SELECT cron.schedule(%s, '0 0 1 1 *', 'SELECT 1')", [name])
        others = [row for row in all_jobs(app.cluster) if row[0] not in ours]
        try:
            assert app.command("uninstall") == 0
            assert all_jobs(app.cluster) == others
            assert app.command("install") == 0
            assert set(others) < set(all_jobs(app.cluster))
        finally:
            for name in names:
                connection.execute("SELECT cron.unschedule(%s)", [name])


def test_uninstalling_twice_is_no_error(app: App) -> None:
    app.command("install")
    assert app.command("uninstall") == 0
    assert app.jobs() == {}
    assert app.command("uninstall") == 0


def test_the_owner_can_run_the_pruning_of_the_history(app: App) -> None:
    app.command("install")
    with psycopg.connect(app.cluster.admin_url(), autocommit=True) as connection:
        insert = (
            "INSERT INTO cron.job_run_details (jobid, username, database, command, start_time)"
            " VALUES (%s, %s, %s, 'test', now() - %s * interval '1 day') RETURNING runid"
        )
        job = app.jobs()["pruning"][0]
        runs = [
            connection.execute(insert, [job, user, app.database, days]).fetchone()
            # Oldest first, as their ids would be; one was cut off before it had a time.
            for user, days in [
                (OWNER, 40),
                ("postgres", 40),
                (OWNER, None),
                (OWNER, 15),
                (OWNER, 2),
            ]
        ]
        ids = [run[0] for run in runs if run is not None]
        try:
            app.as_owner_of_cron(app.jobs()["cron-history"][3])
            left = connection.execute(
                "SELECT runid FROM cron.job_run_details WHERE runid = ANY (%s) ORDER BY runid",
                [ids],
            )
            assert [row[0] for row in left] == [ids[1], ids[4]]
        finally:
            connection.execute("DELETE FROM cron.job_run_details WHERE runid = ANY (%s)", [ids])


def test_runs_a_job_and_shows_what_it_did(app: App, capfd: pytest.CaptureFixture[str]) -> None:
    assert app.command("run", "gift-expiry") == 0
    assert '{"n": 77}' in capfd.readouterr().out


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("pruning", "the job failed"),
        ("ledger-check", "the ledger is damaged"),
        ("charge-notices", "does not exist"),
        ("cron-history", "only pg_cron runs"),
        ("no-such-job", "ledger-check, pruning"),
        ("x'; DROP TABLE credits.jobs; --", "there is no job"),
        ("", "there is no job"),
    ],
)
def test_a_job_that_fails_or_is_none_is_told(
    app: App, capfd: pytest.CaptureFixture[str], job: str, message: str
) -> None:
    assert app.command("run", job) != 0
    assert message in capfd.readouterr().err


def test_status_shows_both_tables(app: App, capfd: pytest.CaptureFixture[str]) -> None:
    app.command("install")
    app.command("run", "gift-expiry")
    app.command("run", "pruning")
    capfd.readouterr()
    assert app.command("status") == 0
    scheduled, _, recorded = capfd.readouterr().out.partition("Recorded:")
    for job, schedule in DEFAULTS.items():
        assert f"mana-credits:{job}{app.suffix}" in scheduled
        assert schedule in scheduled
    assert '{"n": 77}' in recorded
    assert "no room" in recorded


def test_says_what_is_missing(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    nowhere = App(cluster, f"nowhere_{uuid4().hex[:8]}")
    assert nowhere.command("install") != 0
    assert "does not exist" in capfd.readouterr().err
    unmigrated = App(cluster, f"unmigrated_{uuid4().hex[:8]}")
    cluster.ensure_database(unmigrated.database)
    try:
        assert unmigrated.command("run", "gift-expiry") != 0
        assert "not migrated" in capfd.readouterr().err
        assert unmigrated.command("status") == 0
        assert "not migrated" in capfd.readouterr().out
    finally:
        drop(unmigrated)


def test_refuses_a_database_that_does_not_hold_pg_cron(
    app: App, capfd: pytest.CaptureFixture[str]
) -> None:
    process = psql(app, "schedule.sql", database=app.database)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 3
    assert "pg_cron is kept in the database postgres" in output


def test_no_password_is_among_the_arguments(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    fake = tmp_path / "bin" / "psql"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {seen}\necho "$PGPASSWORD" > {seen}.env\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    assert app.command("status") == 0
    password = app.cluster.password("postgres")
    arguments = seen.read_text()
    assert "dbname=postgres" in arguments
    assert password not in arguments
    assert (tmp_path / "seen.env").read_text().strip() == password


def test_names_the_package_that_psql_is_in(
    app: App, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nonexistent")
        assert app.command("status") == 1
    assert "postgresql-client" in capfd.readouterr().err


def psql(app: App, script: str, database: str = "postgres") -> subprocess.Popen[str]:
    """Start psql as the README says."""
    return subprocess.Popen(
        [
            "psql",
            "-X",
            "-h127.0.0.1",
            f"-p{app.cluster.port}",
            "-Upostgres",
            f"-d{database}",
            f"-vapp_database={app.database}",
            "-f",
            str(CRON / script),
        ],
        env={**os.environ, "PGPASSWORD": app.cluster.password("postgres")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
