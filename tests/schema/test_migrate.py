"""`migrate` against a real PostgreSQL: small trees of files for its rules, then the real files."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote, urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from service import migrate as subject
from service.dev.postgres import Cluster
from service.migrate import MigrateError, Report
from service.paths import FUNCTIONS, MIGRATIONS, migration_ids
from service.settings import Settings
from tests.support.processes import ROOT

OWNER = "mana_credits_owner"
SERVICE = "mana_credits_service"

TABLES = """
SET LOCAL ROLE mana_credits_owner;
CREATE TYPE credits.pair AS (first bigint, second bigint);
CREATE TABLE credits.things (id bigint PRIMARY KEY, amount bigint NOT NULL);
DO $$
BEGIN
    IF 1 = 1 THEN
        INSERT INTO credits.things VALUES (1, 10);
    END IF;
END
$$;
"""
ADD = """
CREATE OR REPLACE FUNCTION credits.add(p_a bigint, p_b bigint DEFAULT 1) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN credits.total(p_a, p_b); END $$;
COMMENT ON FUNCTION credits.add(bigint, bigint) IS 'Adds';
"""
# Calls add, which calls it: no order of the two files has both.
TOTAL = """
CREATE OR REPLACE FUNCTION credits.total(p_a bigint, p_b bigint) RETURNS bigint
LANGUAGE sql
AS $$ SELECT CASE WHEN p_b > 100 THEN credits.add(p_a, 100) ELSE p_a + p_b END $$;
"""
# Its name comes before the function that it needs.
A_VIEW = """
CREATE OR REPLACE VIEW credits.a_view WITH (security_barrier) AS
SELECT id, credits.add(amount) AS more FROM credits.things;
COMMENT ON VIEW credits.a_view IS 'A view';
"""
GUARD = """
CREATE OR REPLACE FUNCTION credits._guard() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE OR REPLACE TRIGGER guard BEFORE DELETE ON credits.things
FOR EACH STATEMENT EXECUTE FUNCTION credits._guard();
COMMENT ON TRIGGER guard ON credits.things IS 'Guards';
"""
JOB = """
CREATE OR REPLACE PROCEDURE credits.run_job() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
"""
PRIVILEGES = """
REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA credits, gifts FROM PUBLIC;
GRANT USAGE ON SCHEMA credits TO mana_credits_service, mana_credits_readonly;
GRANT EXECUTE ON FUNCTION credits.add(bigint, bigint) TO mana_credits_service;
GRANT SELECT ON credits.a_view TO mana_credits_readonly;
GRANT SELECT (id) ON credits.things TO mana_credits_readonly;
"""


@dataclass(frozen=True)
class Project:
    """A tree of SQL files, and a database of its own."""

    folder: Path
    admin_url: str
    database_url: str

    @property
    def settings(self) -> Settings:
        return Settings.from_env(
            {
                "MANA_ENV": "development",
                "DATABASE_URL": self.database_url,
                "ADMIN_DATABASE_URL": self.admin_url,
            }
        )

    def migration(self, name: str, text: str, known: bool = True) -> None:
        (self.folder / "migrations" / name).write_text(text)
        if known:
            self.write_sums()

    def write_sums(self) -> None:
        files = sorted((self.folder / "migrations").glob("*.sql"))
        lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files]
        (self.folder / "migrations" / "SHA256SUMS").write_text("".join(lines))

    def function(self, name: str, text: str | None) -> None:
        path = self.folder / "functions" / name
        if text is None:
            path.unlink()
        else:
            path.write_text(text)

    def migrate(self, lines: list[str] | None = None) -> Report:
        return subject.migrate(
            self.settings,
            say=(lines if lines is not None else []).append,
            migrations=self.folder / "migrations",
            functions=self.folder / "functions",
        )

    def check(self) -> list[str]:
        return subject.check(
            self.settings,
            migrations=self.folder / "migrations",
            functions=self.folder / "functions",
        )

    def rows(self, query: LiteralString, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def value(self, query: LiteralString, *parameters: Any) -> Any:
        return self.rows(query, *parameters)[0][0]

    def as_owner(self, statements: str) -> None:
        with psycopg.connect(self.admin_url) as connection:
            connection.execute(f"SET ROLE {OWNER}".encode())
            connection.execute(statements.encode())

    def catalogue(self) -> list[tuple[Any, ...]]:
        """Every row of the catalogue that a migrate could write, with what wrote it."""
        return self.rows(
            """
            SELECT 'proc', oid::text, xmin::text FROM pg_proc
            UNION ALL SELECT 'class', oid::text, xmin::text FROM pg_class WHERE oid >= 16384
            UNION ALL SELECT 'type', oid::text, xmin::text FROM pg_type
            UNION ALL SELECT 'trigger', oid::text, xmin::text FROM pg_trigger
            UNION ALL SELECT 'rewrite', oid::text, xmin::text FROM pg_rewrite
            UNION ALL SELECT 'description', concat(objoid, '.', objsubid), xmin::text
                FROM pg_description
            UNION ALL SELECT 'schema', oid::text, xmin::text FROM pg_namespace
                WHERE nspname !~ '^pg_'
            UNION ALL SELECT 'defaults', oid::text, xmin::text FROM pg_default_acl
            UNION ALL SELECT 'database', oid::text, xmin::text FROM pg_database
                WHERE datname = current_database()
            UNION ALL SELECT 'role', a.oid::text, a.xmin::text FROM pg_authid AS a
                WHERE rolname LIKE 'mana%%'
            UNION ALL SELECT 'yoyo', migration_id, xmin::text FROM public._yoyo_migration
            UNION ALL SELECT 'log', id, xmin::text FROM public._yoyo_log
            ORDER BY 1, 2
            """
        )


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    name = f"migrate_{uuid4().hex}"
    cluster.ensure_database(name)
    yield name
    with psycopg.connect(cluster.admin_url(), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def project(cluster: Cluster, database: str, tmp_path: Path) -> Project:
    project = Project(tmp_path, cluster.admin_url(database), cluster.service_url(database))
    (tmp_path / "migrations").mkdir()
    (tmp_path / "functions" / "credits").mkdir(parents=True)
    first = "0001.roles-and-schemas.sql"
    project.migration(first, (MIGRATIONS / first).read_text())
    project.migration("0002.tables.sql", TABLES)
    project.function("credits/add.sql", ADD)
    project.function("credits/total.sql", TOTAL)
    project.function("credits/a_view.sql", A_VIEW)
    project.function("credits/_guard.sql", GUARD)
    project.function("credits/run_job.sql", JOB)
    project.function("privileges.sql", PRIVILEGES)
    return project


def test_brings_an_empty_database_up_to_date(project: Project) -> None:
    assert project.check() == [
        "migration 0001.roles-and-schemas: not applied",
        "migration 0002.tables: not applied",
    ]
    report = project.migrate()
    assert report.migrations == ("0001.roles-and-schemas", "0002.tables")
    assert project.check() == []
    assert project.value("SELECT credits.add(1, 200)") == 101
    assert project.rows("SELECT * FROM credits.a_view") == [(1, 11)]
    owners = project.rows(
        "SELECT DISTINCT proowner::regrole::text FROM pg_proc"
        " WHERE pronamespace = 'credits'::regnamespace"
    )
    assert owners == [(OWNER,)]


def test_check_writes_nothing(project: Project) -> None:
    project.check()
    assert (
        project.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        == 0
    )


def test_a_second_time_changes_nothing(project: Project) -> None:
    project.migrate()
    before = project.catalogue()
    assert project.migrate() == Report((), (), ())
    assert project.catalogue() == before


def test_a_lost_fingerprint_alone_changes_no_function(project: Project) -> None:
    # As after an upgrade of PostgreSQL that writes definitions differently.
    project.migrate()
    project.rows("UPDATE public._yoyo_log SET comment = '' WHERE operation = 'functions'")
    before = [row for row in project.catalogue() if row[0] != "log"]
    assert project.migrate() == Report((), (), ())
    assert [row for row in project.catalogue() if row[0] != "log"] == before


DAMAGE = {
    "edited function": (
        "CREATE OR REPLACE FUNCTION credits.total(p_a bigint, p_b bigint) RETURNS bigint"
        " LANGUAGE sql AS 'SELECT 7::bigint'",
        ["function credits.total(bigint,bigint): not as in its file"],
    ),
    "function that is no more SECURITY DEFINER": (
        "ALTER FUNCTION credits.add SECURITY INVOKER",
        ["function credits.add(bigint,bigint): not as in its file"],
    ),
    "missing function": (
        "DROP PROCEDURE credits.run_job",
        ["procedure credits.run_job(): missing"],
    ),
    "edited comment": (
        "COMMENT ON FUNCTION credits.add IS 'Subtracts'",
        ["function credits.add(bigint,bigint): its comment is not as in its file"],
    ),
    "edited view": (
        "CREATE OR REPLACE VIEW credits.a_view AS SELECT id, amount AS more FROM credits.things",
        ["view credits.a_view: not as in its file"],
    ),
    "missing view": ("DROP VIEW credits.a_view", ["view credits.a_view: missing"]),
    "view without its barrier": (
        "ALTER VIEW credits.a_view RESET (security_barrier)",
        ["view credits.a_view: not as in its file"],
    ),
    "disabled trigger": (
        "ALTER TABLE credits.things DISABLE TRIGGER guard",
        ["trigger guard ON credits.things: not as in its file"],
    ),
    "missing trigger": (
        "DROP TRIGGER guard ON credits.things",
        ["trigger guard ON credits.things: missing"],
    ),
    "missing privilege": (
        "REVOKE EXECUTE ON FUNCTION credits.add FROM mana_credits_service",
        ["function credits.add(bigint,bigint): lacks EXECUTE for mana_credits_service"],
    ),
    "function for everybody": (
        "GRANT EXECUTE ON FUNCTION credits.total TO PUBLIC",
        ["function credits.total(bigint,bigint): has EXECUTE for PUBLIC, ungranted"],
    ),
    "table that the service writes": (
        "GRANT UPDATE ON credits.things TO mana_credits_service",
        ["table credits.things: has UPDATE for mana_credits_service, ungranted"],
    ),
    "column that the service writes": (
        "GRANT UPDATE (amount) ON credits.things TO mana_credits_service",
        ["table credits.things: has UPDATE (amount) for mana_credits_service, ungranted"],
    ),
    "privilege to hand on": (
        "GRANT USAGE ON SCHEMA credits TO mana_credits_readonly WITH GRANT OPTION",
        [
            "schema credits: lacks USAGE for mana_credits_readonly",
            "schema credits: has USAGE with grant option for mana_credits_readonly, ungranted",
        ],
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_finds_and_mends_what_a_hand_has_changed(project: Project, damage: str) -> None:
    statement, found = DAMAGE[damage]
    project.migrate()
    project.as_owner(statement)
    differences = project.check()
    assert [line for line in differences if line in found] == found
    # A view that is gone takes its privileges with it; nothing else is reported.
    assert len(differences) == len(found)
    assert project.check() == differences
    assert project.migrate().changes == tuple(found)
    assert project.check() == []


def test_stops_for_an_orphan(project: Project) -> None:
    project.migrate()
    project.function("credits/run_job.sql", None)
    before = project.catalogue()
    with pytest.raises(MigrateError, match=r"procedure credits\.run_job\(\): orphan"):
        project.migrate()
    assert any("credits.run_job(): orphan" in line for line in project.check())
    assert project.catalogue() == before
    project.migration("0003.drop.sql", "DROP PROCEDURE credits.run_job();")
    project.migrate()
    assert project.check() == []


def test_stops_for_an_orphaned_view_and_trigger(project: Project) -> None:
    project.migrate()
    project.as_owner(
        "CREATE VIEW credits.other AS SELECT 1 AS one;"
        "CREATE TRIGGER other AFTER DELETE ON credits.things EXECUTE FUNCTION credits._guard()"
    )
    found = project.check()
    assert any("view credits.other: orphan" in line for line in found)
    assert any("trigger other ON credits.things: orphan" in line for line in found)


def test_stops_for_an_overload(project: Project) -> None:
    project.migrate()
    project.as_owner(
        "CREATE FUNCTION credits.add(p_a text) RETURNS text LANGUAGE sql AS 'SELECT p_a'"
    )
    with pytest.raises(MigrateError, match=r"function credits\.add: overload"):
        project.migrate()
    assert any("function credits.add: overload" in line for line in project.check())


def test_stops_for_an_overload_in_the_files(project: Project) -> None:
    project.function("credits/add.sql", ADD + ADD.replace("bigint", "integer"))
    with pytest.raises(MigrateError, match=r"function credits\.add: overload"):
        project.migrate()


def test_stops_for_a_file_that_makes_nothing_of_its_name(project: Project) -> None:
    project.function("credits/add.sql", None)
    project.function("credits/plus.sql", ADD)
    with pytest.raises(MigrateError, match=r"credits/plus\.sql: missing"):
        project.migrate()


def test_stops_for_what_another_role_has_made(project: Project) -> None:
    project.migrate()
    project.rows("CREATE TABLE credits.mine ()")
    with pytest.raises(MigrateError, match=r"table credits\.mine: belongs to postgres"):
        project.migrate()
    assert any("table credits.mine: belongs to postgres" in line for line in project.check())


def test_drops_the_signatures_that_a_file_replaces(project: Project) -> None:
    project.migrate()
    wider = ADD.replace("p_b bigint DEFAULT 1", "p_b bigint DEFAULT 1, p_c text DEFAULT ''")
    wider = wider.replace("(bigint, bigint) IS", "(bigint, bigint, text) IS")
    project.function("privileges.sql", PRIVILEGES.replace("t, bigint)", "t, bigint, text)"))
    project.function("credits/add.sql", wider)
    with pytest.raises(MigrateError, match="overload"):
        project.migrate()
    project.function(
        "credits/add.sql",
        "-- Replaces: credits.a_view\n-- Replaces: credits.add(bigint, bigint)\n" + wider,
    )
    changes = project.migrate().changes
    assert "function credits.add(bigint,bigint): has been replaced, and is still there" in changes
    assert "function credits.add(bigint,bigint,text): missing" in changes
    assert project.value("SELECT credits.add(1)") == 2
    assert project.check() == []
    assert project.migrate() == Report((), (), ())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "credits/total.sql",
            "\n" + TOTAL.replace("SELECT CASE", "SELEC CASE"),
            "credits.total|syntax error",
        ),
        ("credits/add.sql", ADD.replace("RETURN credits", "RETUR credits"), "syntax error"),
        ("credits/add.sql", ADD.replace("IS 'Adds'", "AS 'Adds'"), r"credits/add\.sql:5"),
        ("credits/total.sql", TOTAL.replace("credits.add(", "credits.ad("), "does not exist"),
        ("credits/a_view.sql", A_VIEW.replace("things", "thing"), r"a_view\.sql.*does not exist"),
        ("privileges.sql", "GRANT SELECT ON credits.thing TO PUBLIC;", r"privileges\.sql"),
    ],
)
def test_a_broken_file_changes_nothing(
    project: Project, name: str, text: str, message: str
) -> None:
    project.migrate()
    before = project.catalogue()
    project.function(name, text)
    with pytest.raises(MigrateError, match=message):
        project.migrate()
    assert project.check() != []
    assert project.catalogue() == before


def test_refuses_an_edited_migration(project: Project) -> None:
    project.migrate()
    path = project.folder / "migrations" / "0002.tables.sql"
    path.write_text(TABLES + "-- edited\n")
    with pytest.raises(MigrateError, match=r"0002\.tables\.sql: not the file that SHA256SUMS"):
        project.migrate()
    assert "migration 0002.tables.sql: not the file that SHA256SUMS knows" in project.check()
    # New sums do not hide it from a database that has it.
    project.write_sums()
    with pytest.raises(MigrateError, match=r"0002\.tables: edited since it was applied"):
        project.migrate()
    assert project.check() == ["migration 0002.tables: edited since it was applied"]


def test_refuses_a_migration_without_a_sum_and_a_sum_without_a_migration(project: Project) -> None:
    project.migration("0003.more.sql", "SELECT 1;", known=False)
    with pytest.raises(MigrateError, match=r"0003\.more\.sql: not in SHA256SUMS"):
        project.migrate()
    assert project.value("SELECT to_regclass('public._yoyo_migration')") is None
    project.write_sums()
    (project.folder / "migrations" / "0003.more.sql").unlink()
    with pytest.raises(MigrateError, match=r"0003\.more\.sql: in SHA256SUMS"):
        project.migrate()


def test_refuses_a_database_that_is_newer(project: Project) -> None:
    project.migration("0003.more.sql", "CREATE TABLE public.more ();")
    project.migrate()
    (project.folder / "migrations" / "0003.more.sql").unlink()
    project.write_sums()
    with pytest.raises(MigrateError, match=r"0003\.more: applied, but this version"):
        project.migrate()
    assert project.check() == ["migration 0003.more: applied, but this version does not know it"]


def test_a_failing_migration_leaves_nothing_behind(project: Project) -> None:
    project.migration("0003.half.sql", "CREATE TABLE public.half ();\nSELECT 1 / 0;\n")
    with pytest.raises(MigrateError, match=r"0003\.half\.sql.*division by zero"):
        project.migrate()
    assert project.value("SELECT to_regclass('public.half')") is None
    assert project.rows("SELECT migration_id FROM public._yoyo_migration ORDER BY 1") == [
        ("0001.roles-and-schemas",),
        ("0002.tables",),
    ]
    project.migration("0003.half.sql", "CREATE TABLE public.half ();\n")
    assert project.migrate().migrations == ("0003.half",)


def test_a_migration_is_marked_in_the_transaction_that_applies_it(project: Project) -> None:
    project.migration("0003.more.sql", "CREATE TABLE public.more ();")
    project.migrate()
    made, marked = project.rows(
        """
        SELECT c.xmin::text, m.xmin::text FROM pg_class AS c, public._yoyo_migration AS m
        WHERE c.oid = 'public.more'::regclass AND m.migration_id = '0003.more'
        """
    )[0]
    assert made == marked


def test_a_migration_may_do_without_a_transaction(project: Project) -> None:
    project.migration(
        "0003.index.sql",
        "-- transactional: false\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS things_amount ON credits.things (amount);\n",
    )
    assert "0003.index" in project.migrate().migrations
    assert project.value("SELECT to_regclass('credits.things_amount') IS NOT NULL")
    assert project.migrate() == Report((), (), ())


def test_a_lock_that_is_not_to_be_had_is_tried_for_again(project: Project) -> None:
    project.migrate()
    project.migration("0003.column.sql", "ALTER TABLE credits.things ADD COLUMN note text;")
    with psycopg.connect(project.admin_url) as busy:
        busy.execute("SELECT FROM credits.things FOR UPDATE")
        lines: list[str] = []

        def say(line: str) -> None:
            lines.append(line)
            if "trying again" in line:
                busy.rollback()

        report = subject.migrate(
            project.settings,
            say=say,
            migrations=project.folder / "migrations",
            functions=project.folder / "functions",
        )
    assert report.migrations == ("0003.column",)
    assert sum("trying again" in line for line in lines) == 1


def test_says_that_it_waits_for_another_one(project: Project) -> None:
    waiting = threading.Event()
    reports: list[Report] = []

    def say(line: str) -> None:
        if "waiting" in line:
            waiting.set()

    def work() -> None:
        reports.append(
            subject.migrate(
                project.settings,
                say=say,
                migrations=project.folder / "migrations",
                functions=project.folder / "functions",
            )
        )

    with psycopg.connect(project.admin_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [subject.ADVISORY_LOCK])
        thread = threading.Thread(target=work)
        thread.start()
        assert waiting.wait(60)
        assert reports == []
    thread.join(60)
    assert [report.migrations for report in reports] == [("0001.roles-and-schemas", "0002.tables")]


# The service's login


def with_login(project: Project, login: str, password: str | None = "secret-1") -> Project:
    parts = urlsplit(project.admin_url)
    user = quote(login, safe="") + ("" if password is None else f":{quote(password, safe='')}")
    url = f"postgresql://{user}@{parts.hostname}:{parts.port}{parts.path}"
    return Project(project.folder, project.admin_url, url)


@pytest.fixture
def login(cluster: Cluster, database: str) -> Iterator[str]:
    """A login whose name has to be encoded in a URL and quoted in SQL."""
    name = f'an "app"/{uuid4().hex}@x'
    yield name
    with psycopg.connect(cluster.admin_url(), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def test_makes_the_login_of_the_service(project: Project, login: str) -> None:
    password = "pass: word/%40'"
    project = with_login(project, login, password)
    project.migrate()
    with psycopg.connect(project.database_url) as connection:
        assert connection.execute("SELECT session_user, current_user").fetchone() == (
            login,
            SERVICE,
        )
        assert connection.execute("SELECT credits.add(1)").fetchone() == (2,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM credits.things")
    assert project.check() == []
    assert project.migrate().login == ()


def test_no_log_holds_the_password(cluster: Cluster, project: Project, login: str) -> None:
    password = f"pass-{uuid4().hex}"
    chatty = f"{project.admin_url}?options=-c%20log_statement%3Dall"
    project = with_login(Project(project.folder, chatty, ""), login, password)
    project.migrate()
    log = cluster.log_file.read_text(errors="replace")
    assert "CREATE ROLE" in log
    assert login.replace('"', '""') in log
    assert password not in log


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("REVOKE mana_credits_service FROM {}", "not a member of mana_credits_service"),
        ("ALTER ROLE {} RESET role", "mana_credits_service is not its default role"),
    ],
)
def test_finds_and_mends_a_login_that_is_not_set_up(
    cluster: Cluster, project: Project, login: str, damage: LiteralString, found: str
) -> None:
    project = with_login(project, login)
    project.migrate()
    with psycopg.connect(cluster.admin_url()) as connection:
        connection.execute(sql.SQL(damage).format(sql.Identifier(login)))
    assert project.check() == [f"login {login}: {found}"]
    assert project.migrate().login == (f"login {login}: {found}",)
    assert project.check() == []


def test_a_login_that_exists_keeps_its_password(project: Project, login: str) -> None:
    project.rows(
        "SELECT set_config('t.login', %s, false), set_config('t.password', 'another', false)", login
    )
    with psycopg.connect(project.admin_url) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'another'").format(sql.Identifier(login))
        )
    with_login(project, login, "secret-1").migrate()
    with psycopg.connect(with_login(project, login, "another").database_url) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (SERVICE,)


def test_cannot_make_a_login_without_a_password(project: Project, login: str) -> None:
    project = with_login(project, login, None)
    with pytest.raises(MigrateError, match="does not exist, and DATABASE_URL has no password"):
        project.migrate()
    assert len(project.check()) == 1
    assert "has no password" in project.check()[0]


def test_leaves_the_administrator_and_superusers_alone(project: Project) -> None:
    project = Project(project.folder, project.admin_url, project.admin_url)
    lines: list[str] = []
    project.migrate(lines)
    assert any("left alone" in line for line in lines)
    assert project.check() == []
    settings = project.rows(
        "SELECT FROM pg_db_role_setting AS s JOIN pg_roles AS r ON r.oid = s.setrole"
        " WHERE r.rolname = 'postgres'"
    )
    assert settings == []


def test_nobody_else_may_connect(project: Project) -> None:
    project.migrate()
    granted = project.rows(
        """
        SELECT grantee::regrole::text, privilege_type
        FROM pg_database, aclexplode(datacl)
        WHERE datname = current_database() AND grantee <> datdba
        ORDER BY 1, 2
        """
    )
    assert granted == [
        ("mana_credits_owner", "CONNECT"),
        ("mana_credits_readonly", "CONNECT"),
        ("mana_credits_service", "CONNECT"),
    ]
    project.rows(
        "DO $$ BEGIN EXECUTE"
        " format('GRANT CONNECT ON DATABASE %%I TO PUBLIC', current_database()); END $$"
    )
    assert project.check() == [
        f"database {urlsplit(project.admin_url).path[1:]}: PUBLIC may connect"
    ]
    project.migrate()
    assert project.check() == []


def test_the_service_can_read_which_migrations_are_applied(project: Project, login: str) -> None:
    project = with_login(project, login)
    project.migrate()
    with psycopg.connect(project.database_url) as connection:
        rows = connection.execute("SELECT migration_id FROM public._yoyo_migration ORDER BY 1")
        expected = migration_ids(project.folder / "migrations")
        assert [row[0] for row in rows] == expected == ["0001.roles-and-schemas", "0002.tables"]


def test_an_administrator_need_not_be_a_superuser(
    cluster: Cluster, project: Project, database: str, login: str
) -> None:
    administrator = f"administrator_{uuid4().hex}"
    name = sql.Identifier(administrator)
    # The roles exist already, made by somebody else, who lets the administrator use them.
    project.migrate()
    other = f"migrate_{uuid4().hex}"
    with psycopg.connect(cluster.admin_url(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'secret-2'").format(name)
        )
        connection.execute(sql.SQL("GRANT mana_credits_owner TO {}").format(name))
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(other), name)
        )
        parts = urlsplit(project.admin_url)
        own = Project(
            project.folder,
            f"postgresql://{administrator}:secret-2@{parts.hostname}:{parts.port}/{other}",
            project.database_url,
        )
        own = with_login(own, login)
        try:
            own.migrate()
            assert own.check() == []
            assert own.migrate() == Report((), (), ())
        finally:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(other))
            )
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(login)))
            connection.execute(sql.SQL("DROP ROLE {}").format(name))


# The command, and the real files


def run_main(project: Project, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MANA_ENV": "development",
        "DATABASE_URL": project.database_url,
        "ADMIN_DATABASE_URL": project.admin_url,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "service", "migrate", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_ten_at_once_all_succeed(project: Project) -> None:
    processes = [run_main(project) for _ in range(10)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, outputs
    ended = sorted(output.splitlines()[-1] for output in outputs)
    assert ended == ["done"] + ["up to date"] * 9
    applied = migration_ids()
    assert project.value("SELECT count(*) FROM public._yoyo_migration") == len(applied)
    assert project.value("SELECT count(*) FROM public._yoyo_log WHERE operation = 'apply'") == len(
        applied
    )


def test_two_databases_of_one_cluster_at_once(cluster: Cluster, project: Project) -> None:
    # Roles, and what is granted to them, belong to the cluster: two databases meet there.
    names = [f"migrate_{uuid4().hex}" for _ in range(3)]
    for name in names:
        cluster.ensure_database(name)
    try:
        processes = [
            run_main(Project(project.folder, cluster.admin_url(name), cluster.service_url(name)))
            for name in names
        ]
        outputs = [process.communicate(timeout=300)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * 3, outputs
    finally:
        with psycopg.connect(cluster.admin_url(), autocommit=True) as connection:
            for name in names:
                connection.execute(
                    sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
                )


def test_the_command_tells_what_differs(project: Project) -> None:
    before = run_main(project, "--check")
    assert "not applied" in before.communicate(timeout=300)[0]
    assert before.returncode == 1
    run_main(project).communicate(timeout=300)
    after = run_main(project, "--check")
    assert after.communicate(timeout=300)[0] == "up to date\n"
    assert after.returncode == 0


def test_the_command_names_what_it_cannot_reach(project: Project) -> None:
    nowhere = Project(project.folder, "postgresql://a:secret-3@127.0.0.1:1/x", project.database_url)
    process = run_main(nowhere)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 1
    assert "migrate: " in output
    assert "Traceback" not in output
    assert "secret-3" not in output


def test_the_real_files_twice(project: Project) -> None:
    shutil.rmtree(project.folder / "migrations")
    shutil.rmtree(project.folder / "functions")
    shutil.copytree(MIGRATIONS, project.folder / "migrations")
    shutil.copytree(FUNCTIONS, project.folder / "functions")
    project.migrate()
    before = project.catalogue()
    assert project.check() == []
    assert project.migrate() == Report((), (), ())
    assert project.catalogue() == before
    removed = next(iter(sorted((project.folder / "functions" / "gifts").glob("[a-z]*.sql"))))
    removed.unlink()
    assert any("orphan" in line for line in project.check())
