"""`mana-credits check`: what works and what does not, a line each."""

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import aiohttp

from service import migrate
from service.auth import KeySet
from service.db import Database, loses_statements
from service.errors import is_not_migrated
from service.queries import connections, login
from service.queries import doctor as queries
from service.settings import Settings
from service.stripe_gateway import StripeGateway

OLDEST_VERSION: Final = 150000
CLOCK_SECONDS: Final = 5
"""More than this between our clock and the database's is worth a word."""

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    state: State
    what: str
    text: str


def main(settings: Settings, *, workers: int = 1) -> int:
    """Print the report; the exit status is 1 when anything failed.

    `workers`: how many processes there are to be.
    """
    failed = False
    for finding in asyncio.run(_examine(settings, workers)):
        failed = failed or finding.state == "fail"
        sys.stdout.write(f"{finding.state:<5} {finding.what}: {finding.text}\n")
    return 1 if failed else 0


async def _examine(settings: Settings, workers: int) -> list[Finding]:
    findings = [Finding("ok", "settings", f"{settings.env}, port {settings.port}")]
    steps: tuple[tuple[str, Callable[[Settings], Awaitable[list[Finding]]]], ...] = (
        ("database", _database),
        ("login", _login),
        ("connections", functools.partial(_connections, workers=workers)),
        ("migrations", _migrations),
        ("jobs", _jobs),
        ("ledger", _ledger),
        ("stripe", _stripe),
        ("keys", _keys),
    )
    for what, step in steps:
        try:
            findings += await step(settings)
        except Exception as error:  # a doctor goes on to the next question
            findings.append(Finding("fail", what, _said(error)))
    return findings


def _said(error: BaseException) -> str:
    """What kept a question from being answered, in words that hold no data."""
    while error.__cause__ is not None:
        error = error.__cause__
    if is_not_migrated(error):
        return "not there, or not allowed: run mana-credits migrate and mana-credits cron install"
    state = getattr(error, "sqlstate", None)
    name = type(error).__name__
    return f"cannot be examined: {name} {state}" if state else f"cannot be examined: {name}"


@asynccontextmanager
async def _connected(url: str, database: str | None = None) -> AsyncIterator[Database]:
    db = Database(url, pool_max=1, database=database)
    await db.open()
    try:
        yield db
    finally:
        await db.close()


async def _database(settings: Settings) -> list[Finding]:
    async with _connected(settings.database_url) as db:
        server = await queries.server(db)
    findings = [
        Finding(
            "ok" if server.version >= OLDEST_VERSION else "fail",
            "database",
            f"PostgreSQL {server.version_text}, database {server.database}",
        )
    ]
    apart = abs((datetime.now(UTC) - server.now).total_seconds())
    if apart > CLOCK_SECONDS:
        findings.append(
            Finding("warn", "clock", f"{apart:.0f} s between the database's clock and ours")
        )
    return findings


async def _login(settings: Settings) -> list[Finding]:
    async with _connected(settings.database_url) as db:
        server = await queries.server(db)
        mighty = await login.mighty_role(db)
    if mighty is not None:
        state: State = "fail" if settings.production else "warn"
        return [Finding(state, "login", f"{server.login} is, or can become, {mighty}")]
    if server.role != "mana_credits_service":
        text = f"{server.login} does not act as mana_credits_service: run mana-credits migrate"
        return [Finding("fail", "login", text)]
    return [Finding("ok", "login", f"{server.login} acts as {server.role}")]


async def _connections(settings: Settings, *, workers: int) -> list[Finding]:
    async with _connected(settings.database_url) as db:
        room = await connections.room(db)
    if room is None:
        findings = [await _behind_a_pooler(settings)]
    else:
        findings = [examine_room(room, settings, workers)]
    async with _connected(settings.listen_database_url) as db:
        await queries.server(db)
    if db.pooled:
        text = (
            "LISTEN_DATABASE_URL leads to a pooler: in transaction mode nothing is heard there,"
            " and notices wait for up to 30 s"
        )
        findings.append(Finding("warn", "listening", text))
    return findings


async def _behind_a_pooler(settings: Settings) -> Finding:
    if not settings.database_statement_cache:
        text = "through a pooler, whose limits decide how many; prepared statements are not kept"
        return Finding("ok", "connections", text)
    name = "DATABASE_STATEMENT_CACHE"
    if await loses_statements(settings.database_url):
        text = f"the pooler loses prepared statements: {name} has to be 0 or not set"
        return Finding("fail", "connections", text)
    text = f"through a pooler: {name} has to be 0 or not set, unless it keeps prepared statements"
    return Finding("warn", "connections", text)


def examine_room(room: connections.Room, settings: Settings, workers: int) -> Finding:
    """Whether so many processes get the connections that they may want."""
    needed = workers * settings.connections
    processes = "one process" if workers == 1 else f"{workers} processes"
    text = f"{processes} may want {needed}, and {room.limit} gives {room.connections}"
    if needed > room.connections:
        return Finding("fail", "connections", f"{text}: lower DATABASE_POOL_MAX, or raise that")
    return Finding("ok", "connections", text)


async def _migrations(settings: Settings) -> list[Finding]:
    if settings.admin_database_url is None:
        return [_not_examined("migrations")]
    try:
        differences = await asyncio.to_thread(migrate.check, settings)
    except migrate.MigrateError as error:
        return [Finding("fail", "migrations", str(error))]
    if differences:
        return [Finding("fail", "migrations", difference) for difference in differences]
    return [Finding("ok", "migrations", "tables, functions and privileges are up to date")]


async def _jobs(settings: Settings) -> list[Finding]:
    if settings.admin_database_url is None:
        return [_not_examined("jobs")]
    async with _connected(settings.admin_database_url) as db:
        server = await queries.server(db)
        runs = await queries.last_runs(db)
    async with _connected(settings.admin_database_url, settings.cron_database) as cron:
        scheduled = await queries.scheduled(cron, server.database)
    return [examine_job(run, scheduled.get(run.job)) for run in runs]


def examine_job(run: queries.LastRun, active: bool | None) -> Finding:
    """What there is to say of a job; `active` is None where pg_cron does not have it."""
    what = f"job {run.job}"
    if active is None:
        return Finding("fail", what, "not scheduled: run mana-credits cron install")
    if not active:
        return Finding("fail", what, "scheduled, but not active")
    if run.started_at is None:
        return Finding("warn", what, "scheduled, has not run yet")
    when = run.started_at.astimezone(UTC).isoformat(sep=" ", timespec="seconds")
    if run.error is not None:
        return Finding("fail", what, f"failed at {when}: {run.error}")
    if run.ended_at is None:
        return Finding("warn", what, f"began at {when} and has not ended")
    return Finding("ok", what, f"last ran at {when}")


async def _ledger(settings: Settings) -> list[Finding]:
    if settings.admin_database_url is None:
        return [_not_examined("ledger")]
    async with _connected(settings.admin_database_url) as db:
        violations = await queries.ledger_violations(db)
    if violations:
        text = f"{violations} violations, which credits.check_ledger() lists"
        return [Finding("fail", "ledger", text)]
    return [Finding("ok", "ledger", "sound")]


async def _stripe(settings: Settings) -> list[Finding]:
    if settings.stripe is None:
        return [Finding("warn", "stripe", "not configured: nothing can be bought")]
    async with StripeGateway.connected(settings.stripe) as gateway:
        await gateway.reachable()
    return [Finding("ok", "stripe", "answers, and takes the key")]


async def _keys(settings: Settings) -> list[Finding]:
    async with aiohttp.ClientSession() as session:
        count = await KeySet(session, settings.jwks_url).load()
    if not count:
        return [Finding("fail", "keys", f"{settings.jwks_url} gives no usable key set")]
    return [Finding("ok", "keys", f"{count} at {settings.jwks_url}")]


def _not_examined(what: str) -> Finding:
    return Finding("warn", what, "not examined: ADMIN_DATABASE_URL is not set")
