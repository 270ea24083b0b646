"""Bring a database up to date: migrations, then functions and privileges, then the login.

Everything runs under one advisory lock, so that any number of `migrate` at once, also from
several machines, take their turn. Each part is a transaction of its own and changes nothing
where nothing differs.

Functions are compared with the database itself, not with a note of what was applied last: the
files are applied in a transaction, the catalogue before is compared with the catalogue after,
and the transaction is committed only if they differ. That finds what a hand has changed in the
database as well as what has changed in the files. A fingerprint of both, kept in yoyo's log,
spares a database in which neither has changed since the locks that this takes.
"""

import hashlib
import logging
import re
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from yoyo import internalmigrations, read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import parse_uri

from service.paths import FUNCTIONS, MIGRATIONS, migration_files, migration_ids
from service.settings import Settings

OWNER = "mana_credits_owner"
SERVICE = "mana_credits_service"
READONLY = "mana_credits_readonly"

Say = Callable[[str], None]
Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

_SCHEMAS = ["credits", "gifts"]
ADVISORY_LOCK = 0x6D616E6163726564  # "manacred"

# A waiting ALTER TABLE makes everybody behind it wait too, so it gives up and tries again.
_LOCK_TIMEOUT = "3s"
_ATTEMPTS = 20
_ATTEMPTS_TO_CHECK = 3

_LINES_SHOWN = 20


class MigrateError(Exception):
    """What stops a migrate; the message is written for a person and may have several lines."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a migrate has done; all empty when the database was up to date."""

    migrations: tuple[str, ...]
    changes: tuple[str, ...]
    login: tuple[str, ...]


def _silent(_line: str) -> None:
    pass


def migrate(
    settings: Settings,
    *,
    say: Say = _silent,
    migrations: Path = MIGRATIONS,
    functions: Path = FUNCTIONS,
) -> Report:
    """Apply what is missing, and return what was done.

    Raises MigrateError when the files contradict themselves or the database, and psycopg.Error
    when the database refuses; what was committed by then stays, and a repeat goes on from there.
    """
    tree = _read_tree(functions)
    _stop_for(_file_differences(migrations))
    with _locked_connection(settings, say) as connection:
        applied = _apply_migrations(connection, migrations, say)
        changes = _apply_functions(connection, tree, say)
        login = _apply_login(connection, settings.database_url, say)
    return Report(tuple(applied), tuple(changes), tuple(login))


def check(
    settings: Settings,
    *,
    say: Say = _silent,
    migrations: Path = MIGRATIONS,
    functions: Path = FUNCTIONS,
) -> list[str]:
    """Return what `migrate` would change or refuse, one line each; none when all is in order.

    Writes nothing that stays, but where functions or privileges differ it takes the locks of a
    migrate for a moment. Raises MigrateError when it cannot compare, and psycopg.Error when the
    database cannot be reached or the locks are not to be had.
    """
    tree = _read_tree(functions)
    differences = _file_differences(migrations)
    with _locked_connection(settings, say) as connection:
        history = _history(connection)
        differences += _history_differences(history, migrations)
        pending = [name for name in migration_ids(migrations) if name not in history]
        if pending:
            # The functions may need what a migration brings, so there is nothing to compare yet.
            return [*differences, *(f"migration {name}: not applied" for name in pending)]
        differences += _retried(
            say, "functions", lambda: _compare_functions(connection, tree), _ATTEMPTS_TO_CHECK
        )
        try:
            steps, _notes = _login_steps(connection, settings.database_url)
        except MigrateError as error:
            return [*differences, str(error)]
        return differences + [step.lacking for step in steps]


def main(settings: Settings, check: bool = False) -> int:
    """Run `mana-credits migrate`, print what happens, and return the exit status."""

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    # yoyo logs every migration that it marks, which `say` has told already.
    logging.getLogger("yoyo").setLevel(logging.WARNING)
    try:
        if check:
            return _print_check(settings, say)
        report = migrate(settings, say=say)
    except (MigrateError, psycopg.Error) as error:
        message = _describe(error) if isinstance(error, psycopg.Error) else str(error)
        sys.stderr.write(f"migrate: {message}\n")
        return 1
    say("done" if any((report.migrations, report.changes, report.login)) else "up to date")
    return 0


def _print_check(settings: Settings, say: Say) -> int:
    differences = check(settings, say=say)
    for line in differences:
        say(line)
    say("something differs" if differences else "up to date")
    return 1 if differences else 0


# Connections, the lock, and trying again


@contextmanager
def _locked_connection(settings: Settings, say: Say) -> Iterator[Connection]:
    """Yield a connection of the administrator, while another one holds the advisory lock."""
    url = settings.require_admin_database_url()
    with _connect(url) as guard:
        # Not pg_advisory_lock: a statement that waits holds a snapshot, for which a CREATE INDEX
        # CONCURRENTLY of the one who has the lock would wait in turn.
        waiting = False
        while not _value(guard, b"SELECT pg_try_advisory_lock(%s)", ADVISORY_LOCK):
            if not waiting:
                say("waiting for another migrate to end")
                waiting = True
            time.sleep(0.2)
        with _connect(url) as connection:
            yield connection


def _connect(url: str) -> Connection:
    parameters: dict[str, Any] = {"connect_timeout": 10, **conninfo_to_dict(url)}
    parameters |= {"application_name": "mana-credits migrate", "client_encoding": "UTF8"}
    connection = psycopg.connect(make_conninfo("", **parameters), autocommit=True)
    # The time limits of a login are made for requests; a migration may take longer.
    connection.execute("SET statement_timeout = 0")
    connection.execute("SET idle_in_transaction_session_timeout = 0")
    connection.execute("SET idle_session_timeout = 0")
    connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'".encode())
    # yoyo's tables are unqualified, and are to be found again by another administrator.
    connection.execute("SET search_path = public")
    return connection


def _value(connection: Connection, query: bytes, *parameters: Any) -> Any:
    row = connection.execute(query, parameters).fetchone()
    return row[0] if row else None


def _retried(say: Say, what: str, work: Callable[[], T], attempts: int = _ATTEMPTS) -> T:
    """Return what `work`, one transaction, returns; run it again when others are in its way."""
    for attempt in range(1, attempts + 1):
        try:
            return work()
        except psycopg.Error as error:
            if attempt == attempts or not _is_transient(error):
                raise
            say(f"{what}: {error.diag.message_primary}; trying again")
            time.sleep(min(0.1 * 2**attempt, 5))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _is_transient(error: psycopg.Error) -> bool:
    if isinstance(error, errors.LockNotAvailable | errors.DeadlockDetected):
        return True
    # Roles belong to the cluster and the advisory lock to one database of it, so that two
    # databases that are migrated at once meet in the shared catalogues.
    if isinstance(error, errors.UniqueViolation):
        return error.diag.schema_name == "pg_catalog"
    return isinstance(error, errors.InternalError_) and "tuple concurrently" in str(error)


def _describe(error: psycopg.Error) -> str:
    diag = error.diag
    if diag.message_primary is None:
        return str(error).strip()
    parts = [diag.message_primary, diag.message_detail, diag.message_hint, diag.context]
    return "\n  ".join(part for part in parts if part)


def _stop_for(problems: Iterable[str]) -> None:
    message = "\n".join(problems)
    if message:
        raise MigrateError(message)


def _execute_file(connection: Connection, name: str, text: str) -> None:
    """Send a file as it is: PostgreSQL knows best where its statements end."""
    try:
        connection.execute(text.encode())
    except psycopg.Error as error:
        if _is_transient(error) or isinstance(error, psycopg.OperationalError):
            raise
        position = error.diag.statement_position
        line = f":{text.count(chr(10), 0, int(position)) + 1}" if position else ""
        raise MigrateError(f"{name}{line}: {_describe(error)}") from error


# Migrations


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]  # yoyo has no types
    """yoyo's own backend, on a connection that is open already.

    yoyo's get_backend would first create and drop tables to see what the database can do, and
    its apply_one marks a migration in a second transaction, on another connection than the one
    that applied it: a crash between the two would leave it applied and unmarked.
    """

    def __init__(self, connection: Connection) -> None:
        self._given = connection
        uri = parse_uri(f"postgresql+psycopg:///{quote(connection.info.dbname)}")
        super().__init__(uri, "_yoyo_migration")
        if internalmigrations.needs_upgrading(self):
            internalmigrations.upgrade(self)
        self._internal_schema_updated = True

    def connect(self, dburi: object) -> Connection:
        return self._given


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _file_differences(folder: Path) -> list[str]:
    """Compare the migration files with SHA256SUMS."""
    sums = {}
    for line in (folder / "SHA256SUMS").read_text("utf-8").splitlines():
        digest, name = line.split(maxsplit=1)
        sums[name.removeprefix("*")] = digest
    differences = []
    for file in migration_files(folder):
        expected = sums.pop(file.name, None)
        if expected is None:
            differences.append(f"migration {file.name}: not in SHA256SUMS")
        elif expected != _sha256(file):
            differences.append(f"migration {file.name}: not the file that SHA256SUMS knows")
    differences += [f"migration {name}: in SHA256SUMS, but there is no such file" for name in sums]
    return differences


def _history(connection: Connection) -> dict[str, str | None]:
    """Return the applied migrations' ids with the digest of the file that was applied.

    The digest is None for one that yoyo's own command applied.
    """
    if not _value(connection, b"SELECT to_regclass('public._yoyo_migration') IS NOT NULL"):
        return {}
    rows = connection.execute(
        b"""
        SELECT m.migration_id, (
            SELECT substr(l.comment, 8)
            FROM public._yoyo_log AS l
            WHERE l.migration_hash = m.migration_hash AND l.comment LIKE 'sha256:%'
            ORDER BY l.created_at_utc DESC
            LIMIT 1
        )
        FROM public._yoyo_migration AS m
        ORDER BY m.migration_id
        """
    )
    return dict(rows.fetchall())


def _history_differences(history: Mapping[str, str | None], folder: Path) -> list[str]:
    files = {file.stem: file for file in migration_files(folder)}
    differences = []
    for name, digest in history.items():
        if name not in files:
            differences.append(f"migration {name}: applied, but this version does not know it")
        elif digest is not None and digest != _sha256(files[name]):
            differences.append(f"migration {name}: edited since it was applied")
    return differences


def _apply_migrations(connection: Connection, folder: Path, say: Say) -> list[str]:
    backend = _retried(say, "yoyo's tables", lambda: _Backend(connection))
    _stop_for(_history_differences(_history(connection), folder))
    applied = []
    for migration in backend.to_apply(read_migrations(str(folder))):
        say(f"migration {migration.id}")
        _retried(say, migration.id, lambda m=migration: _apply_one(backend, m))  # type: ignore[misc]
        applied.append(migration.id)
    return applied


def _apply_one(backend: _Backend, migration: Any) -> None:
    connection: Connection = backend.connection
    file = Path(migration.path)
    if not migration.use_transactions:
        # CREATE INDEX CONCURRENTLY waits for every transaction that is open, and stops nobody.
        connection.execute("SET lock_timeout = 0")
        migration.process_steps(backend, "apply")
        connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'".encode())
    with backend.transaction():
        if migration.use_transactions and migration.is_raw_sql():
            _execute_file(connection, file.name, file.read_text("utf-8"))
        elif migration.use_transactions:
            migration.process_steps(backend, "apply")
        # The file may have become the owner, and yoyo's tables belong to the administrator.
        connection.execute("RESET ROLE")
        backend.mark_one(migration, log=False)
        _log(connection, "apply", f"sha256:{_sha256(file)}", migration)


def _log(connection: Connection, operation: str, comment: str, migration: Any = None) -> None:
    connection.execute(
        b"""
        INSERT INTO public._yoyo_log
            (id, migration_hash, migration_id, operation, username, hostname, comment,
             created_at_utc)
        VALUES
            (gen_random_uuid(), %s, %s, %s, session_user, %s, %s,
             clock_timestamp() AT TIME ZONE 'UTC')
        """,
        [
            migration.hash if migration else None,
            migration.id if migration else None,
            operation,
            socket.gethostname(),
            comment,
        ],
    )


# Functions, views, triggers and privileges


@dataclass(frozen=True, slots=True)
class _File:
    name: str  # below sql/functions
    text: str
    replaces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Tree:
    files: tuple[_File, ...]
    privileges: _File
    digest: str


@dataclass(frozen=True, slots=True)
class _Thing:
    """One object of the catalogue, as far as the files decide about it."""

    kind: str
    name: str  # with the argument types, and quoted where needed
    plain: str  # schema and name alone
    mark: str  # changes whenever the object is written, even if it stays the same
    definition: str
    owner: str
    comment: str
    privileges: frozenset[tuple[str, str]]  # what, to whom

    @property
    def label(self) -> str:
        return f"{self.kind} {self.name}"


_Catalogue = dict[tuple[str, str], _Thing]

_FROM_FILES = {"function", "procedure", "view", "materialized view", "trigger"}
_GRANTABLE = {
    "function": "ROUTINE",
    "procedure": "ROUTINE",
    "table": "TABLE",
    "view": "TABLE",
    "materialized view": "TABLE",
    "sequence": "SEQUENCE",
    "schema": "SCHEMA",
}
_NOT_YET = (errors.UndefinedFunction, errors.UndefinedTable, errors.UndefinedObject)
_REPLACES = re.compile(r"^--\s*Replaces:\s*(.+?)\s*$", re.MULTILINE)


def _read_tree(folder: Path) -> _Tree:
    files = []
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.sql")):
        text = path.read_text("utf-8")
        name = path.relative_to(folder).as_posix()
        files.append(_File(name, text, tuple(_REPLACES.findall(text))))
        digest.update(f"{name}\0{text}\0".encode())
    privileges = [file for file in files if file.name == "privileges.sql"]
    if not privileges:
        raise MigrateError(f"{folder / 'privileges.sql'} is missing")
    others = [file for file in files if file.name != "privileges.sql"]
    return _Tree(tuple(others), privileges[0], digest.hexdigest())


def _apply_functions(connection: Connection, tree: _Tree, say: Say) -> list[str]:
    def work() -> list[str]:
        if _is_as_applied(connection, tree):
            return []
        with connection.transaction() as transaction:
            differences, problems, fingerprint = _apply_tree(connection, tree)
            _stop_for(problems)
            if not differences:
                raise psycopg.Rollback(transaction)
            _log(connection, "functions", fingerprint)
        if not differences:
            # The fingerprint alone is old: PostgreSQL was upgraded, or a comment has changed.
            _log(connection, "functions", fingerprint)
        return differences

    differences = _retried(say, "functions", work)
    if differences:
        say(f"functions and privileges: {len(differences)} changes")
        # The first migrate makes everything, which is not worth a line each.
        for line in differences if len(differences) <= _LINES_SHOWN else []:
            say(f"  {line}")
    return differences


def _compare_functions(connection: Connection, tree: _Tree) -> list[str]:
    if _is_as_applied(connection, tree):
        return []
    with connection.transaction(force_rollback=True):
        try:
            differences, problems, _fingerprint = _apply_tree(connection, tree)
        except MigrateError as error:
            return str(error).splitlines()
        return problems + differences


def _is_as_applied(connection: Connection, tree: _Tree) -> bool:
    applied = _value(
        connection,
        b"""
        SELECT comment FROM public._yoyo_log WHERE operation = 'functions'
        ORDER BY created_at_utc DESC LIMIT 1
        """,
    )
    return applied is not None and applied == _fingerprint(tree, _catalogue(connection))


def _fingerprint(tree: _Tree, catalogue: _Catalogue) -> str:
    things = sorted(
        (
            thing.kind,
            thing.name,
            thing.definition,
            thing.owner,
            thing.comment,
            sorted(thing.privileges),
        )
        for thing in catalogue.values()
    )
    return f"files {tree.digest} database {hashlib.sha256(repr(things).encode()).hexdigest()}"


def _apply_tree(connection: Connection, tree: _Tree) -> tuple[list[str], list[str], str]:
    """Apply all files in the open transaction; return what they changed, and what is wrong.

    The third is the fingerprint of the result. At the end the role is the administrator again.
    """
    before = _catalogue(connection)
    connection.execute(f"SET LOCAL ROLE {OWNER}".encode())
    connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
    # Functions call each other in circles, so their bodies are checked when all are there.
    connection.execute("SET LOCAL check_function_bodies = off")
    for statement in _drops(tree.files):
        connection.execute(statement)
    _apply_in_some_order(connection, tree.files)
    made = _catalogue(connection)
    problems = _problems(before, made, tree)
    if not problems:
        _check_bodies(connection)
        # What is granted is what privileges.sql says, not that and what was granted before.
        for statement in _revokes(made):
            connection.execute(statement)
        _execute_file(connection, tree.privileges.name, tree.privileges.text)
    after = _catalogue(connection)
    connection.execute("RESET ROLE")
    return _differences(before, after), problems, _fingerprint(tree, after)


def _drops(files: Iterable[_File]) -> list[bytes]:
    """Return the DROP statements for what the files replace, dependent objects first."""
    statements = []
    for replaced in (entry for file in files for entry in file.replaces):
        if " ON " in replaced:
            statements.append((0, f"DROP TRIGGER IF EXISTS {replaced}"))
        elif "(" in replaced:
            statements.append((2, f"DROP ROUTINE IF EXISTS {replaced}"))
        else:
            statements.append((1, f"DROP VIEW IF EXISTS {replaced}"))
    return [statement.encode() for _rank, statement in sorted(statements)]


def _apply_in_some_order(connection: Connection, files: Iterable[_File]) -> None:
    """Apply the files, and those that need another one after that one."""
    waiting = list(files)
    while waiting:
        failed: list[tuple[_File, MigrateError]] = []
        for file in waiting:
            try:
                with connection.transaction():
                    _execute_file(connection, file.name, file.text)
            except MigrateError as error:
                if not isinstance(error.__cause__, _NOT_YET):
                    raise
                failed.append((file, error))
        if len(failed) == len(waiting):
            raise failed[0][1]
        waiting = [file for file, _error in failed]


def _check_bodies(connection: Connection) -> None:
    connection.execute("SET LOCAL check_function_bodies = on")
    try:
        connection.execute(
            b"""
            SELECT CASE l.lanname
                WHEN 'plpgsql' THEN pg_catalog.plpgsql_validator(p.oid)::text
                WHEN 'sql' THEN pg_catalog.fmgr_sql_validator(p.oid)::text
            END
            FROM pg_catalog.pg_proc AS p
            JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
            WHERE p.pronamespace::regnamespace::text = ANY (%s)
            """,
            [_SCHEMAS],
        )
    except psycopg.Error as error:
        if _is_transient(error) or isinstance(error, psycopg.OperationalError):
            raise
        raise MigrateError(_describe(error)) from error


def _problems(before: _Catalogue, made: _Catalogue, tree: _Tree) -> list[str]:
    """Return what in the catalogue no file accounts for, and the files that made nothing."""
    problems = []
    by_name: dict[str, list[_Thing]] = defaultdict(list)
    for key, thing in made.items():
        if thing.kind in {"function", "procedure"}:
            by_name[thing.plain].append(thing)
        if thing.owner != OWNER:
            problems.append(f"{thing.label}: belongs to {thing.owner}, not to {OWNER}")
        if thing.kind in _FROM_FILES and key in before and before[key].mark == thing.mark:
            problems.append(
                f"{thing.label}: orphan, no file makes it; drop it in a migration, or name it"
                f" in the file that replaces it (-- Replaces: {thing.name})"
            )
    for name, things in by_name.items():
        if len(things) > 1:
            names = ", ".join(sorted(thing.name for thing in things))
            problems.append(f"function {name}: overload, {names}")
    plain = {thing.plain for thing in made.values() if thing.kind in _FROM_FILES}
    for file in tree.files:
        name = file.name.removesuffix(".sql").replace("/", ".")
        if name not in plain:
            problems.append(f"{file.name}: missing, the file makes no {name}")
    return sorted(problems)


def _revokes(catalogue: _Catalogue) -> list[bytes]:
    statements = {
        f"REVOKE ALL ON {_GRANTABLE[thing.kind]} {thing.name} FROM {grantee} CASCADE"
        for thing in catalogue.values()
        if thing.kind in _GRANTABLE
        for _privilege, grantee in thing.privileges
        if grantee != thing.owner
    }
    return [statement.encode() for statement in sorted(statements)]


def _differences(before: _Catalogue, after: _Catalogue) -> list[str]:
    """Return in what the database differs from the files: `before` is its state, `after` theirs."""
    lines = []
    for key in sorted(before.keys() | after.keys()):
        had, has = before.get(key), after.get(key)
        if has is None and had is not None:
            lines.append(f"{had.label}: has been replaced, and is still there")
        elif had is None and has is not None:
            lines.append(f"{has.label}: missing")
        elif had is not None and has is not None:
            lines += [f"{has.label}: {text}" for text in _thing_differences(had, has)]
    return lines


def _thing_differences(had: _Thing, has: _Thing) -> list[str]:
    lines = []
    if had.definition != has.definition:
        lines.append("not as in its file")
    if had.comment != has.comment:
        lines.append("its comment is not as in its file")
    lacking = sorted(has.privileges - had.privileges)
    extra = sorted(had.privileges - has.privileges)
    lines += [f"lacks {privilege} for {grantee}" for privilege, grantee in lacking]
    lines += [f"has {privilege} for {grantee}, ungranted" for privilege, grantee in extra]
    return lines


def _catalogue(connection: Connection) -> _Catalogue:
    # In a transaction, so that the search_path of the moment decides which names are qualified.
    with connection.transaction():
        connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        rows = connection.execute(_CATALOGUE, {"schemas": _SCHEMAS, "owner": OWNER}).fetchall()
    catalogue = {}
    for kind, name, plain, mark, definition, owner, comment, grants in rows:
        privileges = frozenset((privilege, grantee) for privilege, grantee in grants)
        catalogue[kind, name] = _Thing(
            kind, name, plain, mark, definition, owner, comment, privileges
        )
    return catalogue


_CATALOGUE = b"""
WITH schemas AS (
    SELECT * FROM pg_namespace WHERE nspname = ANY (%(schemas)s)
), things (kind, name, plain, mark, definition, owner, comment, acl, columns) AS (
    SELECT
        CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END,
        p.oid::regprocedure::text,
        n.nspname || '.' || p.proname,
        p.xmin::text,
        CASE p.prokind WHEN 'a' THEN '' ELSE pg_get_functiondef(p.oid) END,
        p.proowner,
        obj_description(p.oid, 'pg_proc'),
        coalesce(p.proacl, acldefault('f', p.proowner)),
        NULL::oid
    FROM pg_proc AS p
    JOIN schemas AS n ON n.oid = p.pronamespace
    UNION ALL
    SELECT
        CASE c.relkind
            WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
            ELSE 'table'
        END,
        c.oid::regclass::text,
        n.nspname || '.' || c.relname,
        (SELECT r.xmin::text FROM pg_rewrite AS r
         WHERE r.ev_class = c.oid AND r.rulename = '_RETURN'),
        CASE WHEN c.relkind IN ('v', 'm')
            THEN concat_ws(E'\n', pg_get_viewdef(c.oid), c.reloptions::text) END,
        c.relowner,
        CASE WHEN c.relkind IN ('v', 'm') THEN (
            SELECT string_agg(concat_ws(': ', a.attname, d.description), E'\n'
                ORDER BY d.objsubid)
            FROM pg_description AS d
            LEFT JOIN pg_attribute AS a ON a.attrelid = d.objoid AND a.attnum = d.objsubid
            WHERE d.classoid = 'pg_class'::regclass AND d.objoid = c.oid
        ) END,
        coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char",
            c.relowner)),
        c.oid
    FROM pg_class AS c
    JOIN schemas AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S')
    UNION ALL
    SELECT
        'trigger',
        format('%%I ON %%s', t.tgname, t.tgrelid::regclass),
        n.nspname || '.' || t.tgname,
        t.xmin::text,
        -- tgenabled: a trigger that a hand has disabled is not as in its file.
        pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text,
        c.relowner,
        obj_description(t.oid, 'pg_trigger'),
        NULL,
        NULL
    FROM pg_trigger AS t
    JOIN pg_class AS c ON c.oid = t.tgrelid
    JOIN schemas AS n ON n.oid = c.relnamespace
    WHERE NOT t.tgisinternal
    UNION ALL
    SELECT
        'type', format_type(t.oid, NULL), n.nspname || '.' || t.typname, NULL, NULL, t.typowner,
        NULL, coalesce(t.typacl, acldefault('T', t.typowner)), NULL
    FROM pg_type AS t
    JOIN schemas AS n ON n.oid = t.typnamespace
    LEFT JOIN pg_class AS c ON c.oid = t.typrelid
    WHERE t.typtype IN ('d', 'e', 'r') OR c.relkind = 'c'
    UNION ALL
    SELECT
        'schema', quote_ident(n.nspname), n.nspname, NULL, NULL, n.nspowner, NULL,
        coalesce(n.nspacl, acldefault('n', n.nspowner)), NULL
    FROM schemas AS n
    UNION ALL
    SELECT
        'default privileges',
        concat_ws(' ', d.defaclobjtype, 'in', coalesce(n.nspname, 'all schemas')),
        NULL, NULL, NULL, d.defaclrole, NULL, d.defaclacl, NULL
    FROM pg_default_acl AS d
    LEFT JOIN schemas AS n ON n.oid = d.defaclnamespace
    WHERE d.defaclrole = to_regrole(%(owner)s) AND (d.defaclnamespace = 0 OR n.oid IS NOT NULL)
)
SELECT
    t.kind, t.name, coalesce(t.plain, ''), coalesce(t.mark, ''), coalesce(t.definition, ''),
    pg_get_userbyid(t.owner), coalesce(t.comment, ''),
    (
        SELECT coalesce(jsonb_agg(jsonb_build_array(
            concat(
                e.privilege_type, ' (' || g.attname || ')',
                CASE WHEN e.is_grantable THEN ' with grant option' END
            ),
            CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(e.grantee)) END
        )), '[]')
        FROM (
            SELECT NULL::name AS attname, t.acl
            UNION ALL
            SELECT a.attname, a.attacl FROM pg_attribute AS a
            WHERE a.attrelid = t.columns AND a.attacl IS NOT NULL
        ) AS g
        CROSS JOIN aclexplode(g.acl) AS e
    )
FROM things AS t
"""


# The service's login, and who may connect


@dataclass(frozen=True, slots=True)
class _Step:
    lacking: str
    statement: sql.Composed


def _apply_login(connection: Connection, database_url: str, say: Say) -> list[str]:
    def work() -> tuple[list[_Step], list[str], list[_Step]]:
        with connection.transaction():
            steps, notes = _login_steps(connection, database_url)
            for step in steps:
                connection.execute(step.statement)
        # A GRANT by one who may not is a warning, not an error.
        return steps, notes, _login_steps(connection, database_url)[0]

    steps, notes, left = _retried(say, "login", work)
    for line in [*notes, *(f"put right: {step.lacking}" for step in steps)]:
        say(line)
    _stop_for(f"{step.lacking}, and ADMIN_DATABASE_URL may not change that" for step in left)
    return [step.lacking for step in steps]


def _login_steps(connection: Connection, database_url: str) -> tuple[list[_Step], list[str]]:
    """Return what has to be done for the login in `database_url`, and what is to be said."""
    steps = [
        *_connect_steps(connection),
        *_readiness_steps(connection),
    ]
    target = conninfo_to_dict(database_url)
    login = str(target.get("user") or "")
    if not login:
        return steps, ["DATABASE_URL names no user: no login is set up"]
    if login in {OWNER, _value(connection, b"SELECT session_user")}:
        return steps, [f"{login} is the login of DATABASE_URL and the administrator: left alone"]
    if _value(connection, b"SELECT rolsuper FROM pg_roles WHERE rolname = %s", login):
        return steps, [f"{login}, the login of DATABASE_URL, is a superuser: left alone"]
    return [*steps, *_member_steps(connection, login, target.get("password"))], []


def _connect_steps(connection: Connection) -> Iterator[_Step]:
    database = _value(connection, b"SELECT current_database()")
    granted = {
        (row[0], row[1])
        for row in connection.execute(
            b"""
            SELECT coalesce(r.rolname, 'PUBLIC'), a.privilege_type
            FROM pg_database AS d
            CROSS JOIN aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a
            LEFT JOIN pg_roles AS r ON r.oid = a.grantee
            WHERE d.datname = current_database()
            """
        )
    }
    # The owner too: pg_cron connects as the owner to run the jobs.
    for role in (OWNER, SERVICE, READONLY):
        if (role, "CONNECT") not in granted:
            yield _Step(
                f"database {database}: {role} lacks CONNECT",
                sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
                    sql.Identifier(database), sql.Identifier(role)
                ),
            )
    if any(grantee == "PUBLIC" for grantee, _privilege in granted):
        yield _Step(
            f"database {database}: PUBLIC may connect",
            sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)),
        )


def _readiness_steps(connection: Connection) -> Iterator[_Step]:
    """Readiness reads which migrations are applied, whoever the service runs as."""
    for role in (OWNER, SERVICE, READONLY):
        if not _value(connection, b"SELECT has_schema_privilege(%s, 'public', 'USAGE')", role):
            yield _Step(
                f"schema public: {role} lacks USAGE",
                sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(sql.Identifier(role)),
            )
        if not _value(
            connection, b"SELECT has_table_privilege(%s, 'public._yoyo_migration', 'SELECT')", role
        ):
            yield _Step(
                f"table public._yoyo_migration: {role} lacks SELECT",
                sql.SQL("GRANT SELECT ON public._yoyo_migration TO {}").format(
                    sql.Identifier(role)
                ),
            )


def _member_steps(connection: Connection, login: str, password: object) -> Iterator[_Step]:
    role = sql.Identifier(login)
    if not _value(connection, b"SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", login):
        if not password:
            raise MigrateError(
                f"{login}, the login of DATABASE_URL, does not exist, and DATABASE_URL has no"
                " password to create it with"
            )
        # Hashed here, so that the server's log cannot hold the password itself.
        verifier = connection.pgconn.encrypt_password(
            str(password).encode(), login.encode(), b"scram-sha-256"
        )
        yield _Step(
            f"login {login}: missing",
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                role, sql.Literal(verifier.decode())
            ),
        )
    if not _is_member(connection, login):
        yield _Step(
            f"login {login}: not a member of {SERVICE}",
            sql.SQL("GRANT {} TO {}").format(sql.Identifier(SERVICE), role),
        )
    if not _value(
        connection,
        b"""
        SELECT EXISTS (
            SELECT FROM pg_db_role_setting AS s JOIN pg_roles AS r ON r.oid = s.setrole
            WHERE r.rolname = %s AND s.setdatabase = 0 AND %s = ANY (s.setconfig)
        )
        """,
        login,
        f"role={SERVICE}",
    ):
        yield _Step(
            f"login {login}: {SERVICE} is not its default role",
            sql.SQL("ALTER ROLE {} SET role = {}").format(role, sql.Literal(SERVICE)),
        )


def _is_member(connection: Connection, login: str) -> bool:
    # PostgreSQL 16 tells being a member from being allowed to SET ROLE, which the default role is.
    may_set = b" AND m.set_option" if connection.info.server_version >= 160000 else b""
    return bool(
        _value(
            connection,
            b"""
            SELECT EXISTS (
                SELECT FROM pg_auth_members AS m
                JOIN pg_roles AS l ON l.oid = m.member
                JOIN pg_roles AS r ON r.oid = m.roleid
                WHERE l.rolname = %s AND r.rolname = %s"""
            + may_set
            + b")",
            login,
            SERVICE,
        )
    )
