"""What every function, table and type of the schemas keeps to (house rules of SQL)."""

import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from service.dev.postgres import Cluster
from service.paths import FUNCTIONS, MIGRATIONS
from service.queries.credits import BalanceSummary, BatchCall, CommittedHold, Hold, Move
from service.queries.sync import SyncStatus
from tests.support.clones import shared_clone
from tests.support.databases import Clone, Connection, connect

SCHEMAS = "('credits'::regnamespace, 'gifts'::regnamespace)"
OWNER = "mana_credits_owner"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def migrated(cluster: Cluster, template: str) -> AsyncIterator[Clone]:
    """A database for looking at its catalogue."""
    async with shared_clone(cluster, template) as clone:
        yield clone


@pytest.fixture
async def catalogue(migrated: Clone) -> AsyncIterator[Connection]:
    """A superuser's connection."""
    connection = await connect(migrated.admin_url)
    yield connection
    await connection.close()


async def functions(catalogue: Connection) -> list[asyncpg.Record]:
    """Every function and procedure, with its name, source and settings."""
    found = await catalogue.fetch(
        f"""
        SELECT p.oid, n.nspname || '.' || p.proname AS name, p.proname, p.prosrc, p.prosecdef,
            p.proconfig, p.prokind::text, p.prorettype = 'trigger'::regtype AS is_trigger,
            has_function_privilege('mana_credits_service', p.oid, 'EXECUTE')
            OR has_function_privilege('mana_credits_readonly', p.oid, 'EXECUTE') AS granted
        FROM pg_proc AS p
        JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE p.pronamespace IN {SCHEMAS}
        ORDER BY name
        """
    )
    assert len(found) > 90
    return found


def without_comments(source: str) -> str:
    """SQL without its comments; no string in these functions contains two hyphens."""
    return re.sub(r"--[^\n]*", "", source)


def without_calls(source: str, function: str) -> str:
    """SQL without the calls of a function, arguments included."""
    while (start := source.find(f"{function}(")) >= 0:
        depth, end = 1, start + len(function) + 1
        while depth:
            depth += {"(": 1, ")": -1}.get(source[end], 0)
            end += 1
        source = f"{source[:start]}removed{source[end:]}"
    return source


async def test_what_runs_as_its_owner_has_a_pinned_search_path(catalogue: Connection) -> None:
    for function in await functions(catalogue):
        if function["prosecdef"]:
            assert "search_path=pg_catalog, pg_temp" in function["proconfig"], function["name"]


async def test_what_is_granted_runs_as_its_owner_and_is_public_by_name(
    catalogue: Connection,
) -> None:
    for function in await functions(catalogue):
        if function["granted"]:
            assert function["prosecdef"], function["name"]
            assert not function["proname"].startswith("_"), function["name"]


async def test_what_is_private_is_not_granted_and_does_not_run_as_its_owner(
    catalogue: Connection,
) -> None:
    for function in await functions(catalogue):
        # A trigger's function is called by whoever changes the table.
        if function["proname"].startswith("_") and not function["is_trigger"]:
            assert (function["granted"], function["prosecdef"]) == (False, False), function["name"]


async def test_a_procedure_is_bare_since_it_commits(catalogue: Connection) -> None:
    procedures = [row for row in await functions(catalogue) if row["prokind"] == "p"]
    assert procedures
    for procedure in procedures:
        assert (procedure["prosecdef"], procedure["proconfig"]) == (False, None)
        assert procedure["proname"].startswith("run_")


async def test_no_function_is_overloaded(catalogue: Connection) -> None:
    names = [function["name"] for function in await functions(catalogue)]
    assert len(names) == len(set(names))


async def test_everything_belongs_to_the_owner(catalogue: Connection) -> None:
    others = await catalogue.fetch(
        f"""
        SELECT oid::regprocedure::text FROM pg_proc
        WHERE pronamespace IN {SCHEMAS} AND proowner <> $1::regrole
        UNION ALL
        SELECT oid::regclass::text FROM pg_class
        WHERE relnamespace IN {SCHEMAS} AND relowner <> $1::regrole
        UNION ALL
        SELECT oid::regtype::text FROM pg_type
        WHERE typnamespace IN {SCHEMAS} AND typowner <> $1::regrole
        UNION ALL
        SELECT nspname FROM pg_namespace
        WHERE oid IN {SCHEMAS} AND nspowner <> $1::regrole
        """,
        OWNER,
    )
    assert others == []


async def test_everything_has_a_comment(catalogue: Connection) -> None:
    bare = await catalogue.fetch(
        f"""
        SELECT 'table' AS what, oid::regclass::text AS name FROM pg_class
        WHERE relnamespace IN {SCHEMAS} AND relkind IN ('r', 'p')
            AND obj_description(oid, 'pg_class') IS NULL
        UNION ALL
        SELECT 'view', oid::regclass::text FROM pg_class
        WHERE relnamespace IN {SCHEMAS} AND relkind IN ('v', 'm')
            AND obj_description(oid, 'pg_class') IS NULL
        UNION ALL
        SELECT 'column', c.oid::regclass || '.' || a.attname
        FROM pg_class AS c
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace IN {SCHEMAS} AND c.relkind IN ('r', 'p')
            AND col_description(c.oid, a.attnum) IS NULL
        UNION ALL
        SELECT 'type', t.oid::regtype::text
        FROM pg_type AS t
        LEFT JOIN pg_class AS c ON c.oid = t.typrelid
        WHERE t.typnamespace IN {SCHEMAS} AND t.typcategory <> 'A'
            AND coalesce(c.relkind, 'c') = 'c'
            AND obj_description(t.oid, 'pg_type') IS NULL
        UNION ALL
        SELECT 'function', oid::regprocedure::text FROM pg_proc
        WHERE pronamespace IN {SCHEMAS} AND obj_description(oid, 'pg_proc') IS NULL
        UNION ALL
        SELECT 'trigger', tgrelid::regclass || '.' || tgname
        FROM pg_trigger JOIN pg_class AS c ON c.oid = tgrelid
        WHERE c.relnamespace IN {SCHEMAS} AND NOT tgisinternal
            AND obj_description(pg_trigger.oid, 'pg_trigger') IS NULL
        UNION ALL
        SELECT 'schema', nspname FROM pg_namespace
        WHERE oid IN {SCHEMAS} AND obj_description(oid, 'pg_namespace') IS NULL
        UNION ALL
        SELECT 'role', rolname FROM pg_roles
        WHERE rolname LIKE 'mana_credits_%' AND shobj_description(oid, 'pg_authid') IS NULL
        """
    )
    assert [tuple(row) for row in bare] == []


async def test_amounts_and_times_have_one_type_each(catalogue: Connection) -> None:
    columns = await catalogue.fetch(
        f"""
        SELECT c.oid::regclass || '.' || a.attname AS name, a.atttypid::regtype::text AS type
        FROM pg_class AS c
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace IN {SCHEMAS} AND c.relkind IN ('r', 'c', 'v')
        """
    )
    credits = re.compile(r"credits|amount|balance|price|cost|reserved|earned|spent|available|cents")
    for column in columns:
        name = column["name"].rpartition(".")[2]
        assert column["type"] not in {"timestamp without time zone", "numeric", "real", "money"}
        assert not column["type"].startswith("double"), column["name"]
        if credits.search(name) and column["type"] != "text" and "_id" not in name:
            assert column["type"] == "bigint", column["name"]
        if name.endswith("_at"):
            assert column["type"] == "timestamp with time zone", column["name"]


async def test_no_function_reads_the_time_of_the_transaction_or_sleeps(
    catalogue: Connection,
) -> None:
    frozen = re.compile(
        r"\bnow\s*\(|\bcurrent_(timestamp|date|time)\b|\blocaltime(stamp)?\b"
        r"|\b(transaction|statement)_timestamp\s*\(|'now'|\bpg_sleep",
        re.IGNORECASE,
    )
    for function in await functions(catalogue):
        source = without_comments(function["prosrc"])
        if function["name"] == "credits.run_recurring_charge":
            # Between two transactions, where it holds nothing.
            assert len(re.findall(r"\bpg_sleep", source)) == 1
            source = source.replace("pg_sleep", "")
        assert not frozen.search(source), function["name"]


async def test_no_update_reads_the_clock(catalogue: Connection) -> None:
    for function in await functions(catalogue):
        source = without_comments(function["prosrc"])
        for update in re.findall(r"\bUPDATE\s+(?:credits|gifts)\.[^;]*", source):
            assert "clock_timestamp" not in update, function["name"]


async def test_times_are_added_up_in_utc_alone(catalogue: Connection) -> None:
    # An interval is either an argument of _utc_add, or on its way to be one.
    interval = re.compile(
        r"(?<![\w'.])(make_interval\s*\(|interval\s*')|::\s*interval"
        r"|[+-]\s*'\s*\d+\s*(second|minute|hour|day|week|month|year)",
        re.IGNORECASE,
    )
    for function in await functions(catalogue):
        if function["proname"] != "_utc_add":
            source = without_calls(without_comments(function["prosrc"]), "credits._utc_add")
            assert not interval.search(source), function["name"]


async def test_dates_are_cut_in_utc_alone(catalogue: Connection) -> None:
    for function in await functions(catalogue):
        source = without_comments(function["prosrc"])
        for before in re.findall(r"(.{30})::\s*date\b", source, re.DOTALL):
            assert before.endswith("AT TIME ZONE 'UTC')"), function["name"]
        assert "date_trunc" not in source, function["name"]


async def test_errors_are_told_apart_by_sqlstate_alone(catalogue: Connection) -> None:
    for function in await functions(catalogue):
        source = without_comments(function["prosrc"])
        assert "CONSTRAINT_NAME" not in source.upper(), function["name"]
        for raised in re.findall(r"\bRAISE\s+EXCEPTION\b[^;]*", source):
            assert "ERRCODE" in raised, function["name"]


async def test_every_lock_and_write_names_the_user(catalogue: Connection) -> None:
    # Tables of one user's rows; those of a notice's or event's own id are not among them.
    for function in await functions(catalogue):
        source = without_comments(function["prosrc"])
        for statement in re.findall(
            r"\b(?:UPDATE|DELETE FROM)\s+credits\."
            r"(?:balances|reservations|purchases|sync_subscriptions|usage_stats|debit_refunds)"
            r"\b[^;]*",
            source,
        ):
            assert "user_id" in statement, function["name"]


async def test_plpgsql_check_finds_nothing(database: Clone, admin: Connection) -> None:
    await admin.execute("CREATE EXTENSION plpgsql_check SCHEMA public")
    # What the functions run with, so that an unqualified name is found.
    await admin.execute("SET search_path = pg_catalog, pg_temp")
    found = await admin.fetch(
        f"""
        SELECT p.oid::regprocedure::text AS function, c.lineno, c.level, c.sqlstate, c.message,
            c.detail
        FROM pg_proc AS p
        JOIN pg_language AS l ON l.oid = p.prolang AND l.lanname = 'plpgsql'
        LEFT JOIN pg_trigger AS t ON t.tgfoid = p.oid
        CROSS JOIN LATERAL public.plpgsql_check_function_tb(
            p.oid, coalesce(t.tgrelid, 0), fatal_errors => false, extra_warnings => true,
            security_warnings => true
        ) AS c
        WHERE p.pronamespace IN {SCHEMAS}
        ORDER BY 1, 2
        """
    )
    assert [tuple(row) for row in found] == []
    checked = await admin.fetchval(
        f"SELECT count(*) FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang"
        f" WHERE p.pronamespace IN {SCHEMAS} AND l.lanname = 'plpgsql'"
    )
    assert checked > 80


def test_migrations_call_no_function_of_the_other_folder() -> None:
    names = {f"{path.parent.name}.{path.stem}" for path in FUNCTIONS.glob("*/*.sql")}
    for path in MIGRATIONS.glob("*.sql"):
        text = without_comments(path.read_text("utf-8"))
        called = set(re.findall(r"\b((?:credits|gifts)\.\w+)\s*\(", text))
        # INSERT INTO credits.jobs (job, …) looks like a call; no table has a function's name.
        assert called & names == set(), path.name


@pytest.mark.parametrize(
    ("type_", "result"),
    [
        ("credits.move", Move),
        ("credits.balance_summary", BalanceSummary),
        ("credits.hold", Hold),
        ("credits.committed_hold", CommittedHold),
        ("credits.sync_status", SyncStatus),
        ("credits.batch_call", BatchCall),
    ],
)
async def test_the_service_reads_results_by_the_order_of_their_columns(
    catalogue: Connection, type_: str, result: Any
) -> None:
    columns = await catalogue.fetch(
        "SELECT a.attname FROM pg_type AS t JOIN pg_attribute AS a ON a.attrelid = t.typrelid"
        " WHERE t.oid = $1::text::regtype AND a.attnum > 0 AND NOT a.attisdropped"
        " ORDER BY a.attnum",
        type_,
    )
    assert [name for (name,) in columns] == list(
        getattr(result, "__struct_fields__", None) or result._fields
    )
