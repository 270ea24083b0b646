"""Who may do what: the service calls functions, the read-only role reads, nobody else anything."""

import contextlib
import re
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from service.dev.postgres import Cluster
from service.paths import FUNCTIONS
from tests.support.calls import call, grant, make_package, reverse, subscribe, utc
from tests.support.clones import shared_clone
from tests.support.databases import Clone, Connection, connect, detail

SCHEMAS = "('credits'::regnamespace, 'gifts'::regnamespace)"
DENIED = "42501"


async def fill(admin: Connection) -> None:
    """A row in every table whose rows a caller can make."""
    await grant(admin, "ann", 1000)
    taken = await call(
        admin, "credits.use_credits", user_id="ann", amount=5, app_id="app", description="x"
    )
    await call(
        admin,
        "credits.refund_credits",
        user_id="ann",
        amount=5,
        description="x",
        transaction_id=taken["id"],
    )
    held = await call(admin, "credits.reserve_credits", user_id="ann", amount=5, reason="x")
    await call(
        admin,
        "credits.commit_reservation",
        reservation_id=held["reservation_id"],
        idempotency_key="k",
    )
    await subscribe(admin, "ann", at=utc("2024-01-31 12:00"))
    purchase = await call(
        admin,
        "credits.start_purchase",
        user_id="ann",
        package_id=await make_package(admin),
        email="ann@example.org",
    )
    await call(
        admin,
        "credits.link_stripe_customer",
        user_id="ann",
        stripe_customer_id=f"cus_{purchase['id']}",
    )
    await admin.execute(
        "SELECT * FROM credits.apply_stripe_event('evt_1', 'x', clock_timestamp(), '{}')"
    )
    for email in (None, None, "bob@example.org"):
        gift = await call(
            admin,
            "gifts.create_gift",
            user_id="ann",
            credits=5,
            type="personalized" if email else "simple",
            target_email=email,
        )
    await call(admin, "gifts.redeem_gift", code=gift["code"], user_id="cat")
    redeemed = await call(admin, "gifts.create_gift", user_id="ann", credits=5)
    await call(admin, "gifts.redeem_gift", code=redeemed["code"], user_id="cat")
    # Past its time, and still to be had by its creator.
    await admin.execute(
        "UPDATE gifts.gift_codes SET expires_at = clock_timestamp() WHERE id = $1", gift["id"]
    )
    await call(
        admin, "credits.grant_as_admin", user_id="ann", amount=1, reason="x", admin_id="root"
    )
    await admin.execute("CALL credits.run_ledger_check()")
    await admin.execute("SELECT credits._write_notice('ann', 'sync_paused', '{}', now())")
    await reverse(admin, "ann", 1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(cluster: Cluster, template: str) -> AsyncIterator[Clone]:
    """A database in which there is something to see."""
    async with shared_clone(cluster, template) as clone:
        admin = await connect(clone.admin_url)
        try:
            await fill(admin)
            # Statistics hold samples of what is in the columns.
            await admin.execute("ANALYZE")
        finally:
            await admin.close()
        yield clone


@contextlib.asynccontextmanager
async def connected(clone: Clone, role: str) -> AsyncIterator[Connection]:
    """A connection with the privileges of a role: the service's is that of its real login."""
    if role == "mana_credits_service":
        connection = await connect(clone.service_url)
    else:
        connection = await connect(clone.admin_url, role=role)
    try:
        yield connection
    finally:
        await connection.close()


async def relations(clone: Clone, kinds: str = "rvmp") -> list[tuple[str, list[str]]]:
    """The tables and views of both schemas, and what migrate keeps, and what one could write."""
    async with connected(clone, "postgres") as admin:
        found = await admin.fetch(
            """
            SELECT c.oid::regclass::text AS name, array_agg(quote_ident(a.attname)) AS columns
            FROM pg_class AS c
            JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE c.relnamespace IN (
                'credits'::regnamespace, 'gifts'::regnamespace, 'public'::regnamespace
            ) AND strpos($1, c.relkind::text) > 0
                AND pg_column_is_updatable(c.oid, a.attnum, false) AND a.attgenerated = ''
            GROUP BY 1
            ORDER BY 1
            """,
            kinds,
        )
    assert found
    return [(row["name"], row["columns"]) for row in found]


async def sqlstate(connection: Connection, statement: str) -> str | None:
    """What a statement is refused with, or None when it is done; either way it is undone."""
    undone = connection.transaction()
    await undone.start()
    try:
        await connection.execute(statement)
    except asyncpg.PostgresError as error:
        return error.sqlstate
    else:
        return None
    finally:
        await undone.rollback()


def writes(table: str, columns: list[str]) -> list[str]:
    """Every way to write the rows of a table or view."""
    return [
        f"INSERT INTO {table} DEFAULT VALUES",
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['NULL'] * len(columns))})",
        *(f"UPDATE {table} SET {column} = DEFAULT WHERE false" for column in columns),
        f"DELETE FROM {table} WHERE false",
    ]


def changes(table: str) -> list[str]:
    """Other ways to change a table."""
    return [
        f"TRUNCATE {table} CASCADE",
        f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE",
        f"ALTER TABLE {table} ADD COLUMN more int",
        f"ALTER TABLE {table} DISABLE TRIGGER ALL",
        f"DROP TABLE {table} CASCADE",
    ]


@pytest.mark.parametrize("role", ["mana_credits_service", "mana_credits_readonly"])
async def test_no_table_is_written_by_the_service_or_the_reader(filled: Clone, role: str) -> None:
    tables = await relations(filled, "rmp")
    views = await relations(filled, "v")
    assert [view for view, _columns in views] == ["gifts.masked_gift_codes"]
    assert len(tables) > 20
    async with connected(filled, role) as connection:
        for name, columns in tables + views:
            for change in [
                *writes(name, columns),
                *(changes(name) if (name, columns) in tables else []),
            ]:
                assert await sqlstate(connection, change) == DENIED, change


async def test_the_service_reads_no_table(filled: Clone) -> None:
    async with connected(filled, "mana_credits_service") as connection:
        readable = [
            table
            for table, _columns in await relations(filled)
            if await sqlstate(connection, f"SELECT FROM {table}") is None
        ]
    # Readiness compares it with the files of this version.
    assert readable == ["_yoyo_migration"]


async def test_the_reader_reads_everything_but_gift_codes(filled: Clone) -> None:
    async with connected(filled, "mana_credits_readonly") as connection:
        unreadable = [
            table
            for table, _columns in await relations(filled)
            if await sqlstate(connection, f"SELECT * FROM {table}") is not None
        ]
    assert unreadable == ["_yoyo_log", "_yoyo_version", "gifts.gift_codes"]


@pytest.mark.parametrize("role", ["mana_credits_service", "mana_credits_readonly"])
async def test_nothing_is_made_by_the_service_or_the_reader(filled: Clone, role: str) -> None:
    async with connected(filled, role) as connection:
        for statement in (
            "CREATE TABLE credits.mine (a int)",
            "CREATE TABLE gifts.mine (a int)",
            "CREATE TABLE public.mine (a int)",
            "CREATE SCHEMA mine",
            "CREATE FUNCTION credits.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "ALTER FUNCTION credits.check_ledger(text) SECURITY INVOKER",
            "GRANT mana_credits_owner TO CURRENT_USER",
            "CREATE ROLE mine",
        ):
            assert await sqlstate(connection, statement) == DENIED, statement


async def test_the_service_cannot_become_another(filled: Clone) -> None:
    async with connected(filled, "mana_credits_service") as connection:
        row = await connection.fetchrow("SELECT current_user, session_user")
        assert row is not None
        assert tuple(row) == ("mana_credits_service", "mana")
        for role in ("mana_credits_owner", "mana_credits_readonly", "postgres"):
            assert await sqlstate(connection, f"SET ROLE {role}") == DENIED, role
            assert await sqlstate(connection, f"SET SESSION AUTHORIZATION {role}") == DENIED


def granted_in_file() -> dict[str, set[str]]:
    """The functions that privileges.sql grants, by role."""
    text = re.sub(r"--[^\n]*", "", (FUNCTIONS / "privileges.sql").read_text("utf-8"))
    granted: dict[str, set[str]] = {}
    for functions, roles in re.findall(r"GRANT EXECUTE ON FUNCTION\s([^;]*?)\bTO\s([^;]*);", text):
        for role in roles.split(","):
            granted.setdefault(role.strip(), set()).update(
                name.strip() for name in functions.split(",")
            )
    return granted


async def test_what_can_be_executed_is_what_is_listed(filled: Clone) -> None:
    listed = granted_in_file()
    assert set(listed) == {"mana_credits_service", "mana_credits_readonly"}
    async with connected(filled, "postgres") as admin:
        for role, functions in listed.items():
            found = await admin.fetch(
                f"""
                SELECT n.nspname || '.' || p.proname AS name
                FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
                WHERE p.pronamespace IN {SCHEMAS} AND has_function_privilege($1, p.oid, 'EXECUTE')
                """,
                role,
            )
            assert {row["name"] for row in found} == functions, role


async def test_private_functions_and_jobs_are_not_executed_by_the_service(filled: Clone) -> None:
    async with connected(filled, "mana_credits_service") as connection:
        for statement in (
            "SELECT credits._new_id()",
            "SELECT * FROM credits._charge_due(clock_timestamp(), 1)",
            "SELECT * FROM gifts._expire_gifts(clock_timestamp(), 1, '-infinity', '')",
            "SELECT * FROM credits.expire_reservations()",
            "SELECT * FROM gifts.expire_gifts()",
            "SELECT credits.prune_job_runs()",
            "CALL credits.run_recurring_charge()",
            "CALL credits.run_ledger_check()",
        ):
            assert await sqlstate(connection, statement) == DENIED, statement


async def test_what_the_reader_executes_changes_nothing(filled: Clone) -> None:
    async with connected(filled, "postgres") as admin:
        found = await admin.fetch(
            f"""
            SELECT oid::regprocedure::text FROM pg_proc
            WHERE pronamespace IN {SCHEMAS} AND provolatile = 'v'
                AND has_function_privilege('mana_credits_readonly', oid, 'EXECUTE')
            """
        )
    assert found == []


async def test_public_has_nothing(filled: Clone) -> None:
    async with connected(filled, "postgres") as admin:
        found = await admin.fetch(
            f"""
            SELECT 'function' AS what, p.oid::regprocedure::text AS name, a.privilege_type
            FROM pg_proc AS p
            CROSS JOIN aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
            WHERE p.pronamespace IN {SCHEMAS} AND a.grantee = 0
            UNION ALL
            SELECT 'relation', c.oid::regclass::text, a.privilege_type
            FROM pg_class AS c
            CROSS JOIN aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a
            WHERE c.relnamespace IN {SCHEMAS} AND c.relkind <> 'i' AND a.grantee = 0
            UNION ALL
            SELECT 'column', c.oid::regclass || '.' || t.attname, a.privilege_type
            FROM pg_attribute AS t
            JOIN pg_class AS c ON c.oid = t.attrelid
            CROSS JOIN aclexplode(t.attacl) AS a
            WHERE c.relnamespace IN {SCHEMAS} AND a.grantee = 0
            UNION ALL
            SELECT 'schema', n.nspname, a.privilege_type
            FROM pg_namespace AS n
            CROSS JOIN aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
            WHERE n.oid IN {SCHEMAS} AND a.grantee = 0
            """
        )
    assert [tuple(row) for row in found] == []


async def test_a_role_of_no_ones_sees_and_calls_nothing(filled: Clone) -> None:
    async with connected(filled, "pg_signal_backend") as connection:
        for statement in (
            "SELECT FROM credits.balances",
            "SELECT FROM gifts.masked_gift_codes",
            "SELECT * FROM credits.get_balance('ann')",
            "SELECT * FROM gifts.get_gift('ABCD')",
        ):
            assert await sqlstate(connection, statement) == DENIED, statement


async def test_what_is_made_later_is_nobodys_until_it_is_granted(
    database: Clone, admin: Connection
) -> None:
    async with connected(database, "mana_credits_owner") as owner:
        await owner.execute(
            "CREATE FUNCTION credits.later() RETURNS int LANGUAGE sql AS 'SELECT 1'"
        )
        await owner.execute("CREATE TABLE credits.later (a int)")
    async with connected(database, "mana_credits_service") as service:
        assert await sqlstate(service, "SELECT credits.later()") == DENIED
        assert await sqlstate(service, "SELECT FROM credits.later") == DENIED


async def live_codes(clone: Clone) -> list[str]:
    """The codes that are money."""
    async with connected(clone, "postgres") as admin:
        found = await admin.fetch("SELECT code FROM gifts.gift_codes WHERE status = 'active'")
    assert len(found) == 3
    return [row["code"] for row in found]


async def test_the_reader_sees_no_live_gift_code_anywhere(filled: Clone) -> None:
    codes = await live_codes(filled)
    async with connected(filled, "mana_credits_readonly") as reader:
        readable = await reader.fetch(
            """
            SELECT c.oid::regclass::text AS name FROM pg_class AS c
            WHERE c.relkind IN ('r', 'v', 'm', 'p') AND has_table_privilege(c.oid, 'SELECT')
                AND c.relnamespace::regnamespace::text NOT LIKE 'pg_toast%'
                AND c.relnamespace <> 'information_schema'::regnamespace
            """
        )
        names = [row["name"] for row in readable]
        assert {"credits.transactions", "gifts.masked_gift_codes", "pg_stats"} <= set(names)
        sources = [*names, "credits.check_ledger()", "credits.preview_charge()"]
        sources += ["credits.list_problems()", "credits.list_packages()"]
        sources += ["credits.list_operation_prices()", "credits.list_sync_prices()"]
        seen = ""
        for source in sources:
            found = await reader.fetch(f"SELECT t::text AS row FROM {source} AS t")
            text = "\n".join(row["row"] or "" for row in found)
            for code in codes:
                assert code not in text, source
            seen += text
        functions = granted_in_file()["mana_credits_readonly"]
        assert functions <= {source.removesuffix("()") for source in sources}
    # What it looked for would have been found: the code that was redeemed is there.
    async with connected(filled, "postgres") as admin:
        redeemed = await admin.fetchval(
            "SELECT code FROM gifts.gift_codes WHERE status = 'depleted'"
        )
    assert redeemed in seen


async def test_the_reader_sees_all_of_a_gift_but_its_live_code(filled: Clone) -> None:
    async with connected(filled, "mana_credits_readonly") as reader:
        masked = await reader.fetch("SELECT * FROM gifts.masked_gift_codes ORDER BY id")
    async with connected(filled, "postgres") as admin:
        gifts = await admin.fetch("SELECT * FROM gifts.gift_codes ORDER BY id")
    for gift, shown in zip(gifts, masked, strict=True):
        code = "*" * 12 if gift["status"] == "active" else gift["code"]
        assert dict(shown) == {**dict(gift), "code": code}


async def test_a_condition_of_the_readers_own_does_not_see_through_the_mask(
    filled: Clone,
) -> None:
    codes = await live_codes(filled)
    async with connected(filled, "mana_credits_readonly") as reader:
        for code in codes:
            found = await reader.fetch(
                "SELECT id FROM gifts.masked_gift_codes WHERE code LIKE $1", f"{code[:3]}%"
            )
            assert found == []
        plan = await reader.fetch(
            "EXPLAIN (VERBOSE) SELECT id FROM gifts.masked_gift_codes WHERE code = 'AAAA'"
        )
        # A condition on what is shown, not one on what is stored.
        assert "CASE" in "\n".join(row[0] for row in plan)


@pytest.mark.parametrize("table", ["transactions", "admin_actions"])
@pytest.mark.parametrize("statement", ["UPDATE", "DELETE", "TRUNCATE"])
async def test_the_ledger_is_changed_by_nobody(filled: Clone, statement: str, table: str) -> None:
    change = {
        "UPDATE": f"UPDATE credits.{table} SET created_at = created_at",
        "DELETE": f"DELETE FROM credits.{table} WHERE user_id = 'ann'",
        "TRUNCATE": f"TRUNCATE credits.{table}",
    }[statement]
    # The owner has no privilege; a superuser needs none and meets the trigger.
    for role, expected in [
        ("mana_credits_owner", DENIED),
        ("mana_credits_service", DENIED),
        ("mana_credits_readonly", DENIED),
        ("postgres", "MC014"),
    ]:
        async with connected(filled, role) as connection:
            assert await sqlstate(connection, change) == expected, role
            nothing = f"{change} AND false" if "WHERE" in change else f"{change} WHERE false"
            if statement != "TRUNCATE":
                assert await sqlstate(connection, nothing) == expected, role


@pytest.mark.parametrize("table", ["transactions", "admin_actions"])
async def test_what_erasing_changes_is_all_that_the_owner_may(filled: Clone, table: str) -> None:
    async with connected(filled, "mana_credits_owner") as owner:
        columns = await owner.fetch(
            "SELECT attname AS name, has_column_privilege(attrelid, attnum, 'UPDATE') AS may"
            " FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0",
            f"credits.{table}",
        )
        assert {row["name"] for row in columns if row["may"]} == {
            "transactions": {"user_id", "app_id", "description", "metadata", "idempotency_key"},
            "admin_actions": {"user_id", "admin_id", "admin_name", "reason", "details"},
        }[table]
        # And these he meets the trigger with, by whatever statement he tries.
        for row in columns:
            change = f"UPDATE credits.{table} SET {row['name']} = {row['name']} WHERE false"
            assert await sqlstate(owner, change) == ("MC014" if row["may"] else DENIED)


async def test_the_trigger_says_what_was_refused(filled: Clone) -> None:
    async with connected(filled, "postgres") as admin:
        with pytest.raises(asyncpg.PostgresError) as caught:
            await admin.execute("DELETE FROM credits.transactions")
        assert detail(caught.value) == {"operation": "DELETE"}
        # The ledger goes with nothing else, either.
        assert await sqlstate(admin, "TRUNCATE credits.balances CASCADE") == "MC014"
        assert await sqlstate(admin, "DELETE FROM credits.balances") is not None


async def test_the_jobs_are_the_owners(filled: Clone) -> None:
    async with connected(filled, "postgres") as admin:
        row = await admin.fetchrow(
            "SELECT rolcanlogin, rolsuper, rolcreaterole, rolbypassrls, rolpassword IS NULL AS bare"
            " FROM pg_authid WHERE rolname = 'mana_credits_owner'"
        )
        assert row is not None
        # pg_cron runs jobs for a role that can log in; without a password nobody does.
        assert tuple(row) == (True, False, False, False, True)
        others = await admin.fetch(
            "SELECT rolname, rolcanlogin FROM pg_authid WHERE rolname IN"
            " ('mana_credits_service', 'mana_credits_readonly') ORDER BY 1"
        )
    assert [tuple(row) for row in others] == [
        ("mana_credits_readonly", False),
        ("mana_credits_service", False),
    ]
