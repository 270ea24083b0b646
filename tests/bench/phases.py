"""The measurements, one kind after the other."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psycopg

from service.dev.postgres import Cluster
from tests.bench import ledger, servers
from tests.bench.cluster import cloned, connect, connections, make_database
from tests.bench.figures import Samples
from tests.bench.ledger import Shape
from tests.bench.machine import Busy, cpu_seconds, memory
from tests.bench.pgbench import SQL, pgbench
from tests.bench.plans import CONNECTIONS, SCENARIOS, TOKEN_USERS, USERS, WATCHED, Plan
from tests.bench.progress import Progress
from tests.bench.servers import Server, Tokens
from tests.bench.wrk import Caller, load

TEMPLATE = "bench"
FLOOR_CLIENTS = 8
DEBITS_A_SECOND = 200
"""While charges go on: a load that leaves the machine room, so that waiting shows."""
BUSY_CONNECTIONS = 32


class BrokenError(RuntimeError):
    """What was measured has not done what it should: its figures say nothing."""


@dataclass
class Bench:
    """Where it is measured, and what was seen so far."""

    plan: Plan
    cluster: Cluster
    folder: Path
    tokens: Tokens
    progress: Progress
    samples: Samples = field(default_factory=Samples)

    def call(
        self,
        subject: str,
        server: Server,
        caller: Caller,
        kind: str,
        number: int,
        round_: int,
        *,
        name: str | None = None,
        users: int | None = None,
        seconds: float | None = None,
    ) -> None:
        """Make one kind of call over so many connections, and keep what came of it."""
        busy = Busy(server.pid)
        found = load(caller, kind, number, seconds or self.plan.seconds, users=users)
        self.samples.add(
            subject,
            name or kind,
            number,
            round_,
            rate=found.rate,
            p50=found.p50,
            p99=found.p99,
            longest=found.longest,
            refused=found.refused,
            broken=found.broken,
            wrk_cores=found.cpu,
            cpu=busy.process() * 1e6 / found.rate if found.rate else 0.0,
            machine_cores=busy.machine(),
        )
        server.forget_log()
        self.progress.add(1)


def prepare(cluster: Cluster, plan: Plan) -> None:
    """Make the databases that are copied for every round."""
    make_database(cluster, TEMPLATE)
    with connect(cluster, TEMPLATE) as db:
        ledger.fill(db, Shape(USERS))
        ledger.fill_one(db, "user-hot", 2)
        ledger.fill_one(db, "user-deep", servers.HISTORY_ROWS)
        _require_sound(db)
        ledger.settle(db)
    for due in sorted({due for due, *_ in plan.charges} | ({plan.meanwhile} - {0})):
        make_database(cluster, due_template(due))
        with connect(cluster, due_template(due)) as db:
            shape = Shape.of_due(due)
            with Progress(f"subscriptions of {due:,}, ledger rows", shape.total) as progress:
                ledger.fill(db, shape, progress.add)
            ledger.settle(db)


def due_template(due: int) -> str:
    """The database in which so many subscriptions are due."""
    return f"due_{due}"


def token_users() -> list[str]:
    """Whose tokens there are, beside the one of user-deep."""
    step = USERS // TOKEN_USERS
    return [f"user-{number}" for number in range(step, USERS + 1, step)]


def over_http(bench: Bench, round_: int, *, last: bool) -> None:
    """The floor, the service, it with every call alone, and batches alone, in turns."""
    plan = bench.plan
    with (
        cloned(bench.cluster, TEMPLATE, "service"),
        cloned(bench.cluster, TEMPLATE, "alone"),
        cloned(bench.cluster, TEMPLATE, "bare"),
        servers.floor(bench.cluster, bench.folder, plan.pools, plan.usual_pools) as floor,
        _service(bench, "service") as service,
        _service(bench, "alone", DATABASE_BATCH_MAX="1") as alone,
        servers.bare(bench.cluster, "bare", bench.folder) as bare,
    ):
        callers = {
            server.pid: servers.caller(server, bench.tokens, USERS)
            for server in (service, alone, bare)
        }
        floor_caller = Caller(floor.port, 0)
        load(floor_caller, "one", FLOOR_CLIENTS, plan.warm_up, users=plan.pools[-1])
        for server in (service, alone):
            for kind in ("mixed", "balance_jwt"):
                load(callers[server.pid], kind, FLOOR_CLIENTS, plan.warm_up)
        for kind in plan.bare:
            load(callers[bare.pid], kind, FLOOR_CLIENTS, plan.warm_up / 2)
        for number, turn in itertools.product(CONNECTIONS, _turns(plan, round_)):
            floors = [
                ("floor", floor, floor_caller, "nothing", "nothing", None),
                *_pools("pools", floor, floor_caller, "one", plan.pools),
                *_pools("usual pools", floor, floor_caller, "usual", plan.usual_pools),
            ]
            calls = [
                (subject, server, callers[server.pid], kind, kind, None)
                for kind in SCENARIOS
                for subject, server, load_ in (
                    ("service", service, plan.service),
                    ("alone", alone, plan.alone),
                    ("bare", bare, plan.bare),
                )
                if number in load_.get(kind, ())
            ]
            steps = [*floors, *calls]
            # Every second turn goes the other way round: what comes first after a pause, or after
            # something that writes much, has its disadvantages.
            for subject, server, caller, kind, name, users in steps[:: -1 if turn % 2 else 1]:
                bench.call(subject, server, caller, kind, number, turn, name=name, users=users)
        for subject, server in (("service", service), ("alone", alone)):
            taken = memory(server.pid)
            bench.samples.add(
                subject,
                "process",
                0,
                round_,
                rss=taken.rss,
                peak=taken.peak,
                pss=taken.pss,
                pool=connections(bench.cluster, subject),
            )
        _watch(bench, round_)
        if last:
            with connect(bench.cluster, "service") as db:
                _require_sound(db)


def _pools(
    subject: str, floor: Server, caller: Caller, kind: str, sizes: Sequence[int]
) -> Iterator[tuple[str, Server, Caller, str, str, int | None]]:
    return ((subject, floor, caller, kind, f"pool of {size}", size) for size in sizes)


def _turns(plan: Plan, round_: int) -> range:
    """The numbers of a round's turns, which no other round has."""
    return range(round_ * plan.turns, (round_ + 1) * plan.turns)


def _watch(bench: Bench, round_: int) -> None:
    """How long the event loop is held up, in a process of its own: watching costs a little."""
    file = bench.folder / "watched.json"
    with _service(bench, "service", watch=file) as server:
        caller = servers.caller(server, bench.tokens, USERS)
        for kind, number in WATCHED:
            load(caller, kind, number, bench.plan.long_seconds)
            bench.progress.add(1)
    told = servers.watched(file)
    bench.samples.add(
        "service",
        "loop",
        0,
        round_,
        late=told["late"],
        held=told["held"],
        worked=told["worked"],
        collected=told["collected"],
    )


def on_the_database(bench: Bench, round_: int) -> None:
    """The debit function, the bare statement, and what a commit costs, in turns."""
    with cloned(bench.cluster, TEMPLATE, "sql") as name:
        # The bare statement needs the tables. As their owner and not as superuser, for whom
        # PostgreSQL would skip the privileges that the function's statements are held to.
        url = f"{bench.cluster.admin_url(name)}?options=-c%20role%3Dmana_credits_owner"
        for clients, turn in itertools.product(bench.plan.clients, _turns(bench.plan, round_)):
            for script in ("bare_debit", "use_credits", "commit")[:: -1 if turn % 2 else 1]:
                pace = pgbench(
                    bench.cluster, url, script, clients, bench.plan.sql_seconds, users=USERS
                )
                bench.samples.add("sql", script, clients, turn, **asdict(pace))
                bench.progress.add(1)


def charging(bench: Bench, due: int, turn: int) -> None:
    """All that is due: by the job, and by one statement, each on a copy of its own."""
    ways = (
        ("statement", (SQL / "charge_all.sql").read_text()),
        ("job", "CALL credits.run_recurring_charge()"),
    )
    for subject, statement in ways[:: -1 if turn % 2 else 1]:
        with (
            cloned(bench.cluster, due_template(due), "charge") as name,
            connect(bench.cluster, name) as db,
        ):
            pid = db.info.backend_pid
            began, worked = time.monotonic(), cpu_seconds(pid)
            db.execute(statement.encode())
            seconds, worked = time.monotonic() - began, cpu_seconds(pid) - worked
            row = db.execute(
                "SELECT count(*) FILTER (WHERE active), count(*) FILTER (WHERE NOT active),"
                " count(*) FILTER (WHERE due_at <= now()) FROM credits.sync_subscriptions"
            ).fetchone()
            if row != (due * 9 // 10, due // 10, 0):
                raise BrokenError(f"the charge of {due} by the {subject} left {row}")
            if turn == 0:
                _require_sound(db)
        bench.samples.add(
            subject,
            f"charge_{due}",
            1,
            turn,
            rate=due / seconds,
            seconds=seconds,
            cpu=worked * 1e6 / due,
        )
        bench.progress.add(1)


def meanwhile(bench: Bench) -> None:
    """Debits while charges go on, against debits alone; the same users, on one copy."""
    due = bench.plan.meanwhile
    with (
        cloned(bench.cluster, due_template(due), "meanwhile") as name,
        _service(bench, name) as server,
    ):
        caller = servers.caller(server, bench.tokens, due)
        load(caller, "debit_payers", BUSY_CONNECTIONS, bench.plan.warm_up)
        for round_ in range(bench.plan.rounds):
            for subject in ("idle", "charging"):
                with (
                    contextlib.nullcontext()
                    if subject == "idle"
                    else _charging(bench.cluster, name)
                ):
                    bench.call(
                        subject,
                        server,
                        caller,
                        "debit_payers",
                        BUSY_CONNECTIONS,
                        round_,
                        seconds=bench.plan.long_seconds,
                    )
                    pace = pgbench(
                        bench.cluster,
                        bench.cluster.service_url(name),
                        "debit_payers",
                        FLOOR_CLIENTS,
                        bench.plan.long_seconds,
                        users=due,
                        rate=DEBITS_A_SECOND,
                    )
                    bench.samples.add(subject, "sql", FLOOR_CLIENTS, round_, **asdict(pace))
                    bench.progress.add(1)


@contextlib.contextmanager
def _charging(cluster: Cluster, name: str) -> Iterator[None]:
    """The charge job goes on as long as the context lasts; raises BrokenError if it ends before."""
    with connect(cluster, name) as db, connect(cluster, name) as other:
        pid = db.info.backend_pid

        def charge() -> None:
            with contextlib.suppress(psycopg.OperationalError):
                db.execute("CALL credits.run_recurring_charge()")

        thread = threading.Thread(target=charge)
        thread.start()
        try:
            yield
            ended = not thread.is_alive()
        finally:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
            thread.join()
    if ended:
        raise BrokenError("all was charged before the debits were over")


def _service(
    bench: Bench, database: str, *, watch: Path | None = None, **env: str
) -> contextlib.AbstractContextManager[Server]:
    return servers.service(bench.cluster, database, bench.folder, bench.tokens, watch=watch, **env)


def _require_sound(db: "psycopg.Connection[tuple[object, ...]]") -> None:
    if (found := ledger.violations(db)) != 0:
        raise BrokenError(f"the ledger check finds {found} violations")
