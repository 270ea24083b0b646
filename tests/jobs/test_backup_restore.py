"""Backup and restore as the README has it: its own blocks are run, under load."""

import asyncio
import contextlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from service import cron
from service.dev.postgres import SERVICE_LOGIN, SUPERUSER, Cluster, PostgresError, temporary_cluster
from service.migrate import migrate
from tests.support.calls import rows
from tests.support.databases import Connection, as_settings, connect
from tests.support.load import Load, done, require_exactly_once, require_told_well
from tests.support.races import blocked_by, require_sound, subscribe, until
from tests.support.running import Answer, Running, running_service

ROOT = Path(__file__).parents[2]
DATABASE = "mana_credits"
DOCUMENTED_FOLDER = "/srv/backup"
CALLERS = 6
SYNCED = ["sync-1", "sync-2"]
PACKAGE = "0192f0c1-0000-7000-8000-000000000001"

# What belongs to the server and not to the database, and what a dump is apt to lose.
SERVER_FACTS = """
SELECT format('role %s %s %s %s %s', rolname, rolcanlogin, rolsuper, rolpassword,
    shobj_description(oid, 'pg_authid')) AS fact
FROM pg_authid WHERE rolname !~ '^pg_'
UNION ALL
SELECT format('member %s of %s, admin %s, by %s', member::regrole, roleid::regrole, admin_option,
    grantor::regrole)
FROM pg_auth_members WHERE roleid::regrole::text !~ '^pg_'
UNION ALL
SELECT format('setting of %s in %s: %s', setrole::regrole, d.datname, setconfig)
FROM pg_db_role_setting LEFT JOIN pg_database AS d ON d.oid = setdatabase
UNION ALL
SELECT format('database %s of %s, %s, %s: %s', datname, datdba::regrole,
    pg_encoding_to_char(encoding), datcollate, a.acl)
FROM pg_database
LEFT JOIN LATERAL (SELECT x::text AS acl FROM unnest(datacl) AS x) AS a ON true
WHERE datname = current_database()
UNION ALL
SELECT format('default of %s on %s: %s', defaclrole::regrole, defaclobjtype, a.acl)
FROM pg_default_acl
LEFT JOIN LATERAL (SELECT x::text AS acl FROM unnest(defaclacl) AS x) AS a ON true
UNION ALL
SELECT format('due %s %s', user_id, due_at) FROM credits.sync_subscriptions
ORDER BY fact
"""
JOBS = (
    "SELECT jobid, schedule, command, database, username, active, jobname FROM cron.job ORDER BY 1"
)


def blocks(heading: str, language: str = "sh") -> list[str]:
    """The blocks of code below a heading of the README, in order."""
    text = (ROOT / "README.md").read_text()
    (section,) = re.findall(
        rf"^### {re.escape(heading)}\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL
    )
    found = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found, f"the README has no block of {language} below {heading}"
    return found


def settings(folder: Path) -> dict[str, str]:
    """The server's settings, as the README has them for a base backup, and for safe commits."""
    (block,) = blocks("A base backup, and the WAL", "conf")
    lines = re.findall(r"^(\w+) = (?:'(.*)'|(\w+))$", here(block, folder), re.MULTILINE)
    assert len(lines) == len(block.splitlines())
    documented = {name: quoted or bare for name, quoted, bare in lines}
    return {"synchronous_commit": "on", "full_page_writes": "on", **documented}


def here(block: str, folder: Path) -> str:
    """A block of the README, with the folder for backups where it is."""
    return block.replace(DOCUMENTED_FOLDER, str(folder))


@dataclass(frozen=True)
class Account:
    """The account that the servers run under, which their data and archives belong to."""

    popen: dict[str, Any]
    uid: int
    gid: int

    @classmethod
    def choose(cls) -> "Account":
        """The one that service.dev.postgres chooses."""
        if os.geteuid() != 0:
            return cls({}, os.geteuid(), os.getegid())
        entry = pwd.getpwnam("postgres")
        popen = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": ()}
        return cls(popen, entry.pw_uid, entry.pw_gid)


@dataclass(frozen=True)
class Operator:
    """Somebody who types what the README says, at a server and in a folder for backups."""

    cluster: Cluster
    folder: Path

    def run(
        self, block: str, env: Mapping[str, str] | None = None, *, at_the_server: bool = False
    ) -> tuple[str, str]:
        """Run a block of the README, which must succeed; its two outputs.

        At the server means under its account, and perhaps before it has started.
        """
        bindir = self.cluster.programs.bindir
        known = {
            "PATH": f"{self.folder.parent / 'bin'}:{bindir}:{os.defpath}",
            "PGDATA": str(self.cluster.data_dir / "pgdata"),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }
        # A server that is yet to be restored has none.
        with contextlib.suppress(PostgresError):
            known["PGPORT"] = str(self.cluster.port)
        known |= {
            "PGHOST": "127.0.0.1",
            "PGUSER": SUPERUSER,
            "PGPASSWORD": self.cluster.password(SUPERUSER),
        }
        ran = subprocess.run(
            ["sh", "-euc", here(block, self.folder)],
            check=False,
            cwd=self.folder,
            env=known | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            **(Account.choose().popen if at_the_server else {}),
        )
        assert ran.returncode == 0, (block, ran.stdout, ran.stderr)
        return ran.stdout, ran.stderr

    def psql(self, statements: str) -> str:
        """Run SQL of the README in the application's database; what psql printed."""
        arguments = "--no-psqlrc --no-align --tuples-only --set=ON_ERROR_STOP=1"
        out, _ = self.run(
            f'psql {arguments} --dbname={DATABASE} --command="$SQL"', {"SQL": statements}
        )
        return out


@dataclass
class Backups:
    """What was backed up, what had been acknowledged by when, and what the server was like."""

    folder: Path
    passwords: dict[str, str] = field(default_factory=dict)
    before_dump: set[str] = field(default_factory=set)
    """Acknowledged when the dump began."""
    after_dump: set[str] = field(default_factory=set)
    """Asked for after the dump's moment, and acknowledged while it was made."""
    before_point: Load | None = None
    after_point: Load | None = None
    facts: list[str] = field(default_factory=list)
    schema: str = ""
    jobs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def loads(self) -> tuple[Load, Load]:
        """All that was asked for: before the restore point, and after it."""
        assert self.before_point is not None
        assert self.after_point is not None
        return self.before_point, self.after_point


def acknowledged(load: Load) -> set[str]:
    """The moves of which the callers were told that they are done."""
    return {sent.marker for sent in load.sent if sent.done}


async def use(service: Running, amount: int, key: str) -> Answer:
    """Debit the one user that no load touches."""
    body = {"userId": "keeper", "amount": amount, "appId": "chat", "description": "By hand"}
    return await service.call(
        "POST", "/internal/credits/use", internal=True, json={**body, "idempotencyKey": key}
    )


def schema_of(operator: Operator) -> str:
    """All that pg_dump knows of the database but its rows."""
    text, _ = operator.run(f"pg_dump --schema-only --create {DATABASE}")
    # Newer ones put a key of its own into each, and a condition that was dumped and made again has
    # fewer parentheses than the one that was written with BETWEEN.
    return re.sub(r"^\\(un)?restrict .*$|[()]", "", text, flags=re.MULTILINE)


@contextlib.asynccontextmanager
async def superuser(cluster: Cluster, database: str = DATABASE) -> AsyncIterator[Connection]:
    """A connection as the administrator."""
    connection = await connect(cluster.admin_url(database))
    try:
        yield connection
    finally:
        await connection.close()


async def plant(operator: Operator, admin: Connection, service: Running) -> None:
    """What a server in use has, and a restore may lose."""
    await service.grant("keeper", 100)
    assert (await use(service, 10, "before the backups")).status == 200
    await subscribe(admin, SYNCED, 100)
    await admin.execute(
        "INSERT INTO credits.packages (id, name, credits, price_euro_cents)"
        " VALUES ($1, '500 credits', 500, 500)",
        PACKAGE,
    )
    await admin.execute(
        f"""
        CREATE ROLE support LOGIN PASSWORD 'of the support' IN ROLE mana_credits_readonly;
        ALTER ROLE support IN DATABASE {DATABASE} SET statement_timeout = '5s';
        ALTER DATABASE {DATABASE} SET idle_in_transaction_session_timeout = '10min';
        """
    )
    operator.run("mana-credits cron install", environment(operator.cluster))
    async with superuser(operator.cluster, "postgres") as server:
        # It runs once whenever pg_cron starts, and the cluster that is backed up is not restarted.
        await server.execute(
            "CREATE TABLE public.pg_cron_starts (at timestamptz);"
            "SELECT cron.schedule('starts', '@reboot',"
            " 'INSERT INTO public.pg_cron_starts VALUES (now())')"
        )


def environment(cluster: Cluster, **env: str) -> dict[str, str]:
    """The settings of mana-credits for a server."""
    return {
        "MANA_ENV": "development",
        "DATABASE_URL": cluster.service_url(DATABASE),
        "ADMIN_DATABASE_URL": cluster.admin_url(DATABASE),
        **env,
    }


async def dump(operator: Operator, admin: Connection, load: Load, made: Backups) -> None:
    """Dump, and let moves happen when the dump's moment has passed and its rows are not read."""
    (block,) = blocks("A dump")
    async with superuser(operator.cluster) as holder:
        made.before_dump = acknowledged(load)
        async with holder.transaction():
            # A table that no caller reads; pg_dump locks all of them, once it has its snapshot.
            await holder.execute("LOCK TABLE credits.sync_prices IN ACCESS EXCLUSIVE MODE")
            dumping = asyncio.create_task(asyncio.to_thread(operator.run, block))
            try:
                await blocked_by(admin, holder, 1)
            except AssertionError:
                await dumping
                raise
            asked = {sent.marker for sent in load.sent}
            await load.more(40)
            made.after_dump = acknowledged(load) - asked
        await dumping


async def archive(operator: Operator, admin: Connection) -> None:
    """Have all WAL so far in the archive."""
    last: str = await admin.fetchval("SELECT pg_walfile_name(pg_switch_wal())")

    async def is_archived() -> bool:
        return (operator.folder / "wal" / last).exists()

    await until(is_archived, f"the file {last} in the archive")


async def back_up(operator: Operator) -> Backups:
    """Serve, and meanwhile make a dump and a base backup, go on, and lose the server."""
    cluster = operator.cluster
    made = Backups(operator.folder)
    async with (
        running_service(as_settings(cluster, DATABASE, DATABASE_POOL_MAX="8")) as service,
        superuser(cluster) as admin,
    ):
        await plant(operator, admin, service)
        users = [f"{when}-{number}" for when in ("before", "after") for number in range(4)]
        for user in users:
            await service.grant(user, 1_000_000)

        load = made.before_point = Load(service, users[:4])
        load.start(CALLERS)
        await load.more(40)
        await dump(operator, admin, load, made)
        (block,) = blocks("A base backup, and the WAL")
        await asyncio.to_thread(operator.run, block, at_the_server=True)
        await load.more(40)
        await load.stop()
        await admin.execute("SELECT pg_create_restore_point('before_the_change')")

        load = made.after_point = Load(service, users[4:])
        load.start(CALLERS)
        await load.more(40)
        await load.stop()

        await archive(operator, admin)
        made.facts = [row["fact"] for row in await admin.fetch(SERVER_FACTS)]
        made.schema = await asyncio.to_thread(schema_of, operator)
        async with superuser(cluster, "postgres") as server:
            made.jobs = [dict(row) for row in await server.fetch(JOBS)]
    made.passwords = {login: cluster.password(login) for login in (SUPERUSER, SERVICE_LOGIN)}
    for load in made.loads:
        require_told_well(load.told)
    return made


@pytest.fixture(scope="module")
def workplace() -> Iterator[Path]:
    """A folder that the servers' account can reach, with a `mana-credits` to type."""
    account = Account.choose()
    folder = Path(tempfile.mkdtemp(prefix="mana-credits-backup-"))
    folder.chmod(0o711)
    try:
        command = folder / "bin" / "mana-credits"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m service "$@"\n')
        command.chmod(0o755)
        (folder / "backup" / "wal").mkdir(parents=True, mode=0o700)
        for path in (folder / "backup", folder / "backup" / "wal"):
            os.chown(path, account.uid, account.gid)
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def backups(workplace: Path) -> Backups:
    """Backups of a server that is no more."""
    folder = workplace / "backup"
    with temporary_cluster(settings(folder)) as cluster:
        cluster.ensure_database(DATABASE)
        migrate(as_settings(cluster, DATABASE))
        made = asyncio.run(back_up(Operator(cluster, folder)))
        cluster.stop("immediate")
    return made


@pytest.fixture
def elsewhere(backups: Backups, workplace: Path) -> Iterator[Operator]:
    """An operator at a server that is not made yet, with a copy of the backups."""
    folder = Path(tempfile.mkdtemp(prefix="mana-credits-"))
    copy = workplace / f"copy-{folder.name}"
    subprocess.run(["cp", "--archive", str(backups.folder), str(copy)], check=True)
    operator = Operator(Cluster(folder, durable=False, settings=settings(copy)), copy)
    try:
        # A restore brings the old passwords: here they hold from the start.
        for login, password in backups.passwords.items():
            (operator.cluster.data_dir / f"{login}.password").write_text(password)
        yield operator
    finally:
        operator.cluster.destroy()
        shutil.rmtree(folder, ignore_errors=True)


async def require_as_it_was(operator: Operator, backups: Backups, admin: Connection) -> None:
    """Fail unless roles, privileges, settings and schema are those of the server that is gone."""
    assert [row["fact"] for row in await admin.fetch(SERVER_FACTS)] == backups.facts
    assert await asyncio.to_thread(schema_of, operator) == backups.schema
    await require_sound(admin)


async def look(operator: Operator) -> None:
    """Do what the README wants before the jobs run, and see what it wants to be seen."""
    (block, *_) = blocks("Before callers come in")
    out, err = await asyncio.to_thread(operator.run, block, environment(operator.cluster))
    assert err == ""
    assert out.startswith("up to date\n")
    assert "(0 rows)" in out


async def require_in_service(operator: Operator, *, newly: int) -> None:
    """Fail unless it passes the README's checks, and the service then runs on it."""
    cluster = operator.cluster
    (*_, block) = blocks("Before callers come in")
    async with running_service(as_settings(cluster, DATABASE)) as service:
        env = environment(cluster, MANA_AUTH_URL=service.settings.auth_url)
        out, err = await asyncio.to_thread(operator.run, block, env)
        assert err == ""
        assert f"{newly} scheduled or changed, 0 removed" in out
        for what in ("login", "migrations", "ledger", *(f"job {job}" for job in cron.JOBS[:-1])):
            assert re.search(rf"^(ok|warn) +{what}: ", out, re.MULTILINE), out

        assert await service.balance("keeper") == 90
        again = await use(service, 10, "before the backups")
        assert (again.status, again.headers.get("Idempotent-Replayed")) == (200, "true")
        assert (await use(service, 5, "after the restore")).status == 200
        assert await service.balance("keeper") == 85
        status = await service.call("GET", "/sync/status", user=SYNCED[0])
        assert status.body["active"] is True
    async with superuser(cluster) as admin:
        await require_sound(admin)
    report = await asyncio.to_thread(migrate, as_settings(cluster, DATABASE))
    assert (report.migrations, report.changes, report.login) == ((), (), ())


async def test_a_dump_under_load_is_restored_elsewhere(
    backups: Backups, elsewhere: Operator
) -> None:
    cluster = elsewhere.cluster
    cluster.ensure_started()
    for name in ("roles.sql", "mana_credits.dump"):
        assert stat.S_IMODE((elsewhere.folder / name).stat().st_mode) == 0o600

    (block,) = blocks("Restore a dump")
    _, err = await asyncio.to_thread(elsewhere.run, block)
    assert [line.partition("ERROR:  ")[2] for line in err.splitlines()] == [
        f'role "{SUPERUSER}" already exists'
    ]

    async with superuser(cluster) as admin:
        await require_as_it_was(elsewhere, backups, admin)
        there = await done(admin)
        assert backups.before_dump
        assert backups.before_dump <= there.keys()
        assert backups.after_dump
        assert not backups.after_dump & there.keys()
        assert {there[move] for move in backups.before_dump} == {1}
    async with superuser(cluster, "postgres") as server:
        assert await server.fetchval("SELECT to_regclass('cron.job')") is None
        await look(elsewhere)
        await require_in_service(elsewhere, newly=len(cron.JOBS))
        ours = [job for job in backups.jobs if job["jobname"] != "starts"]
        assert [dict(job) | {"jobid": 0} for job in await server.fetch(JOBS)] == [
            job | {"jobid": 0} for job in ours
        ]


async def starts(cluster: Cluster) -> int:
    """How often pg_cron has run the job that it runs when it starts."""
    async with superuser(cluster, "postgres") as server:
        count: int = await server.fetchval("SELECT count(*) FROM public.pg_cron_starts")
    return count


async def require_jobs_held(cluster: Cluster, backups: Backups) -> None:
    """Fail unless the jobs are there, and nothing that would run them."""
    async with superuser(cluster, "postgres") as server:
        assert [dict(row) for row in await server.fetch(JOBS)] == backups.jobs
        launcher = "SELECT FROM pg_stat_activity WHERE backend_type ~ 'cron'"
        assert await server.fetch(launcher) == []
        assert await server.fetchval("SHOW archive_mode") == "off"
    assert await starts(cluster) == 0


async def let_go(operator: Operator) -> None:
    """Bring back pg_cron and the archive as the README has it, and see both at work."""
    cluster = operator.cluster
    _look, block, _check = blocks("Before callers come in")
    assert await starts(cluster) == 0
    await asyncio.to_thread(cluster.stop)
    await asyncio.to_thread(operator.run, block, at_the_server=True)
    await asyncio.to_thread(cluster.ensure_started)

    async def has_started() -> bool:
        return await starts(cluster) > 0

    await until(has_started, "the jobs, once they are let go")
    assert await starts(cluster) == 1
    async with superuser(cluster) as admin:
        await archive(operator, admin)


async def test_a_base_backup_is_restored_to_the_end_of_the_wal(
    backups: Backups, elsewhere: Operator
) -> None:
    cluster = elsewhere.cluster
    restore, _to_a_point = blocks("Restore a base backup")
    await asyncio.to_thread(elsewhere.run, restore, at_the_server=True)
    await asyncio.to_thread(cluster.ensure_started)

    async with superuser(cluster) as admin:
        await require_as_it_was(elsewhere, backups, admin)
        for load in backups.loads:
            await require_exactly_once(load, admin)
    await require_jobs_held(cluster, backups)
    await look(elsewhere)
    await let_go(elsewhere)
    await require_in_service(elsewhere, newly=0)


async def test_a_base_backup_is_restored_to_a_point_in_time(
    backups: Backups, elsewhere: Operator
) -> None:
    cluster = elsewhere.cluster
    for block in blocks("Restore a base backup"):
        await asyncio.to_thread(elsewhere.run, block, at_the_server=True)
    await asyncio.to_thread(cluster.ensure_started)

    before, after = backups.loads
    async with superuser(cluster) as admin:
        await require_as_it_was(elsewhere, backups, admin)
        await require_exactly_once(before, admin)
        assert acknowledged(after)
        assert not acknowledged(after) & (await done(admin)).keys()
    await require_jobs_held(cluster, backups)
    await look(elsewhere)
    await let_go(elsewhere)
    await require_in_service(elsewhere, newly=0)
    await require_lost_purchase_comes_back(elsewhere)


async def require_lost_purchase_comes_back(operator: Operator) -> None:
    """Fail unless a payment for a purchase that the backup does not know is credited once."""
    (statements,) = blocks("What going back in time means", "sql")
    purchase = "0192f0c1-0000-7000-8000-00000000aaaa"
    metadata = {"purchaseId": purchase, "userId": "buyer", "credits": "500"}
    intent = {"id": "pi_lost", "object": "payment_intent", "status": "succeeded"}
    paid = {"amount": 500, "amount_received": 500, "currency": "eur", "metadata": metadata}
    async with superuser(operator.cluster) as admin:
        at = await admin.fetchval("SELECT date_trunc('second', now())")
        (result,) = await rows(
            admin,
            "credits.apply_stripe_event",
            id="evt_lost",
            type="payment_intent.succeeded",
            created_at=at,
            payload={"id": "evt_lost", "data": {"object": {**intent, **paid}}},
        )
        assert result["state"] == "ignored"

        out = await asyncio.to_thread(operator.psql, statements)
        assert out.splitlines()[0] == f"buyer|{purchase}|500"
        assert out.splitlines()[1].startswith("evt_lost|payment_intent.succeeded|applied|")
        assert await asyncio.to_thread(operator.psql, statements) == ""

        bought = await admin.fetchrow(
            "SELECT status::text, stripe_payment_intent_id FROM credits.purchases WHERE id = $1",
            purchase,
        )
        assert bought is not None
        assert tuple(bought) == ("completed", "pi_lost")
        ledger = "SELECT type::text, amount FROM credits.transactions WHERE user_id = 'buyer'"
        assert [tuple(row) for row in await admin.fetch(ledger)] == [("purchase", 500)]
        await require_sound(admin)
