"""What a ledger that grows does to debits, history, ledger check, expiry and charges.

python -m tests.bench.growth --rows 10000000

Fills one database with a million ledger rows and as many users as fit to that, another one with
what was asked for, and measures both in short turns: a ratio is the median of the ratios within
the turns. Writes growth.json to build/bench.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from service.dev.postgres import Cluster, PostgresError
from tests.bench import ledger, servers
from tests.bench.__main__ import FOLDER, OUT, commit, stop_on_signals
from tests.bench.cluster import SETTINGS, connect, durable_cluster, make_database, require_safe
from tests.bench.figures import Figure, Samples, ratio
from tests.bench.ledger import Shape
from tests.bench.machine import cpu_seconds, describe
from tests.bench.pgbench import pgbench
from tests.bench.progress import Progress
from tests.bench.report import number, shown, table
from tests.bench.servers import Tokens
from tests.bench.wrk import Caller, load

SMALL_ROWS: Final = 1_000_000
ROWS_A_USER: Final = 10
DUE: Final = 10_000
"""Charges and holds that are due at once."""
GIFTS: Final = 2_000
CONNECTIONS: Final = 32
CLIENTS: Final = 8
WARM_SECONDS: Final = 10.0
TURNS: Final = 5
"""How often in a round each of the two has its turn with debits and history."""
TOKENS: Final = 9_000
"""Users whose histories are read over HTTP; fewer than the tokens that the service remembers."""

MEASURED: Final = {
    "debit": "debits by pgbench, 8 clients",
    "debit over HTTP": "debits over HTTP, 32 connections",
    "history": "history by pgbench, 8 clients",
    "history over HTTP": "history over HTTP, 32 connections",
    "charge": f"charge of {DUE:,} due",
    "expiry": f"expiry of {DUE:,} holds",
    "ledger check": "ledger check, rows",
}
"""Each as a rate a second."""
IN_TURNS: Final = ("debit", "debit over HTTP", "history", "history over HTTP")
"""Those of which each turn has some; the others have one in a round."""


@dataclass
class Grown:
    """A filled database of this many ledger rows."""

    name: str
    shape: Shape
    tokens: Tokens
    """Of users all over it."""
    numbers: dict[str, float] = field(default_factory=dict)
    """What filling it took, and how large it is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill and measure; the exit status."""
    options = _parser().parse_args(arguments)
    stop_on_signals()
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    users = options.users or options.rows // ROWS_A_USER
    large = Shape.of_total(options.rows, users)
    small = Shape.of_total(options.small_rows, max(1, users * options.small_rows // options.rows))
    if (least := min(shape.users // shape.subscribed_every for shape in (small, large))) < DUE:
        # Said before hours of filling rather than after them.
        raise SystemExit(
            f"{DUE:,} are to be charged, and only {least:,} have Cloud Sync: more --users"
        )
    settings = {**SETTINGS, "shared_buffers": "2GB", **dict(options.set)}
    samples = Samples()
    with tempfile.TemporaryDirectory(prefix="mana-credits-bench-logs-", dir=options.folder) as logs:
        try:
            both, about = _measure(options, settings, (small, large), Path(logs), samples)
        except PostgresError as error:
            raise SystemExit(f"{error}\nThe settings were {settings}") from error
    found = compared(both, samples, about)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
    print(found["table"])
    return 0


def _measure(
    options: argparse.Namespace,
    settings: Mapping[str, str],
    shapes: tuple[Shape, Shape],
    logs: Path,
    samples: Samples,
) -> tuple[list[Grown], list[str]]:
    """The two databases, and what a reader needs to know of where they were."""
    small, large = shapes
    with (
        durable_cluster(options.folder, settings) as cluster,
        servers.tokens(_made(logs / "small"), _some(small.users)) as of_small,
        servers.tokens(_made(logs / "large"), _some(large.users)) as of_large,
    ):
        about = [
            *describe(options.folder),
            str(require_safe(cluster)),
            str(dict(settings)),
            f"commit {commit()}",
        ]
        both = [Grown("small", small, of_small), Grown("large", large, of_large)]
        for grown in both:
            _fill(cluster, grown)
        steps = options.rounds * len(both) * (TURNS * len(IN_TURNS) + len(MEASURED) - len(IN_TURNS))
        with Progress("measurements", steps) as progress:
            measure = _Measure(cluster, logs, options.seconds, samples, progress)
            for round_ in range(options.rounds):
                measure.round(both, round_)
    return both, about


def _fill(cluster: Cluster, grown: Grown) -> None:
    """Make the database and fill it; raises RuntimeError if it is not sound then."""
    make_database(cluster, grown.name)
    shape = grown.shape
    with connect(cluster, grown.name) as db:
        began = time.monotonic()
        with Progress(f"{grown.name}: ledger rows", shape.total) as progress:
            # Foreign keys are triggers, and looking each row's up takes a third of the time. The
            # ledger check below holds every row to its user's balance as well, all at once.
            db.execute("SET session_replication_role = replica")
            ledger.fill(db, shape, progress.add)
            db.execute("RESET session_replication_role")
        grown.numbers["filling, s"] = time.monotonic() - began
        db.execute(
            "SELECT count(*) FROM generate_series(1, %s::bigint) AS n, LATERAL gifts.create_gift("
            "    p_user_id => 'user-' || n * %s::bigint, p_credits => 10) AS g",
            [GIFTS, max(1, shape.users // GIFTS)],
        )
        began = time.monotonic()
        ledger.settle(db)
        grown.numbers["vacuum and analyze, s"] = time.monotonic() - began
        began = time.monotonic()
        if (violations := ledger.violations(db)) != 0:
            raise RuntimeError(f"the ledger check finds {violations} violations in {grown.name}")
        grown.numbers["first ledger check, s"] = time.monotonic() - began
        for part in ("credits.transactions", "credits.usage_stats", "credits.balances"):
            row = db.execute(
                "SELECT pg_table_size(%s::regclass) / 1e6, pg_indexes_size(%s::regclass) / 1e6",
                [part, part],
            ).fetchone()
            assert row is not None
            grown.numbers[f"{part}, MB"] = float(row[0])
            grown.numbers[f"indexes of {part}, MB"] = float(row[1])


@dataclass
class _Measure:
    cluster: Cluster
    logs: Path
    seconds: float
    samples: Samples
    progress: Progress

    def round(self, both: Sequence[Grown], round_: int) -> None:
        """Everything in both of them."""
        for grown in both:
            # The first change of a page after a checkpoint writes the whole page to the log. There
            # are more pages in the larger one, and so more of that for the first minutes.
            url = self.cluster.service_url(grown.name)
            users = grown.shape.users
            pgbench(self.cluster, url, "debit_any", CLIENTS, WARM_SECONDS, users=users)
        with contextlib.ExitStack() as stack:
            serving = []
            for grown in both:
                server = stack.enter_context(
                    servers.service(self.cluster, grown.name, self.logs, grown.tokens)
                )
                caller = servers.caller(server, grown.tokens, grown.shape.users)
                load(caller, "history_any", CONNECTIONS, 1)
                serving.append((grown, caller))
            for turn in range(round_ * TURNS, (round_ + 1) * TURNS):
                # Every second turn the other one comes first.
                order = serving[:: -1 if turn % 2 else 1]
                for name, script in (("debit", "debit_any"), ("history", "history")):
                    for grown, _ in order:
                        self._on_the_database(grown, name, script, turn)
                for name, kind in (
                    ("debit over HTTP", "debit"),
                    ("history over HTTP", "history_any"),
                ):
                    for grown, caller in order:
                        self._over_http(grown, caller, name, kind, turn)
        for grown in both[:: -1 if round_ % 2 else 1]:
            self._jobs(grown, round_)

    def _on_the_database(self, grown: Grown, name: str, script: str, turn: int) -> None:
        url, users = self.cluster.service_url(grown.name), grown.shape.users
        with connect(self.cluster, grown.name) as db:
            logged, fetched = _count(db, _LOGGED), _count(db, _FETCHED)
            pace = pgbench(self.cluster, url, script, CLIENTS, self.seconds, users=users)
            calls = max(pace.rate * self.seconds, 1)
            self._keep(
                grown,
                name,
                turn,
                rate=pace.rate,
                p50=pace.p50,
                p99=pace.p99,
                cpu=pace.cpu,
                logged=(_count(db, _LOGGED) - logged) / calls,
                fetched=(_count(db, _FETCHED) - fetched) / calls,
            )

    def _over_http(self, grown: Grown, caller: Caller, name: str, kind: str, turn: int) -> None:
        answered = load(caller, kind, CONNECTIONS, self.seconds)
        if answered.refused:
            raise RuntimeError(f"{answered.refused} calls were refused")
        self._keep(grown, name, turn, rate=answered.rate, p50=answered.p50, p99=answered.p99)

    def _jobs(self, grown: Grown, round_: int) -> None:
        users = grown.shape.users
        with connect(self.cluster, grown.name) as db:
            _let_charges_come_due(db, users)
            self._keep(grown, "charge", round_, **_timed(db, DUE, lambda: _charge(db)))
            _let_holds_run_out(db, users)
            self._keep(grown, "expiry", round_, **_timed(db, DUE, lambda: _expire(db)))
            # The last of all, so that nothing which was measured goes unchecked.
            rows = _count(db, "SELECT count(*) FROM credits.transactions")
            checked = _timed(db, rows, lambda: _check(db, grown.name))
            self._keep(grown, "ledger check", round_, **checked)

    def _keep(self, grown: Grown, name: str, turn: int, **values: float) -> None:
        self.samples.add(grown.name, name, 1, turn, **values)
        self.progress.add(1)


_LOGGED: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"
_FETCHED: Final = "SELECT blks_read FROM pg_stat_database WHERE datname = current_database()"
"""Pages that were not in shared_buffers."""


def _let_charges_come_due(db: Any, users: int) -> None:
    """So many subscriptions, all over the table."""
    step = max(1, users // 5 // DUE)
    db.execute(
        """
        UPDATE credits.sync_subscriptions SET next_charge_at = now() - interval '1 hour'
        WHERE user_id IN (SELECT 'user-' || n * 5 * %s FROM generate_series(1, %s::bigint) AS n)
        """,
        [step, DUE],
    )
    if (
        found := _count(db, f"SELECT count(*) FROM credits.sync_subscriptions WHERE {_OVER}")
    ) < DUE:
        raise RuntimeError(f"only {found} subscriptions are due: more users are needed")


_OVER: Final = "due_at <= now()"


def _let_holds_run_out(db: Any, users: int) -> None:
    """So many new holds whose time is over."""
    with db.transaction():
        db.execute(
            """
            INSERT INTO credits.reservations (user_id, id, amount, reason, expires_at, created_at)
            SELECT
                'user-' || n * %s, credits._new_id(), 3, 'chat: a message',
                now() - interval '1 hour', now() - interval '2 hours'
            FROM generate_series(1, %s::bigint) AS n
            """,
            [max(1, users // DUE), DUE],
        )
        db.execute(
            """
            UPDATE credits.balances SET reserved = reserved + 3
            WHERE user_id IN (SELECT 'user-' || n * %s FROM generate_series(1, %s::bigint) AS n)
            """,
            [max(1, users // DUE), DUE],
        )


def _charge(db: Any) -> None:
    db.execute("CALL credits.run_recurring_charge()")
    if _count(db, f"SELECT count(*) FROM credits.sync_subscriptions WHERE {_OVER}"):
        raise RuntimeError("the job has left something due")


def _expire(db: Any) -> None:
    db.execute("CALL credits.run_reservation_expiry()")
    if _count(
        db,
        "SELECT count(*) FROM credits.reservations WHERE status = 'open' AND expires_at <= now()",
    ):
        raise RuntimeError("the job has left a hold that is over")


def _check(db: Any, name: str) -> None:
    if ledger.violations(db):
        raise RuntimeError(f"the ledger check finds violations in {name}")


def _count(db: Any, query: str) -> int:
    (found,) = db.execute(query).fetchone()
    return int(found)


def _timed(db: Any, number: int, do: Callable[[], None]) -> dict[str, float]:
    """How many of something were done a second, and what the server worked for each (µs)."""
    pid = db.info.backend_pid
    began, worked = time.monotonic(), cpu_seconds(pid)
    do()
    seconds, worked = time.monotonic() - began, cpu_seconds(pid) - worked
    return {"rate": number / seconds, "seconds": seconds, "cpu": worked * 1e6 / number}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _some(users: int) -> list[str]:
    step = max(1, users // TOKENS)
    return [f"user-{n}" for n in range(1, users + 1, step)]


def compared(both: Sequence[Grown], samples: Samples, about: Sequence[str]) -> dict[str, Any]:
    """What growth.json holds: the larger one by the smaller, turn by turn, and all of it."""
    small, large = both
    ratios: dict[str, float | None] = {}
    rows = []

    def each(name: str, value: str) -> list[Figure | None]:
        return [samples.figure(grown.name, name, 1, value) for grown in both]

    for name, what in MEASURED.items():
        rate, work = (
            samples.ratio((large.name, name), (small.name, name), 1, value)
            for value in ("rate", "cpu")
        )
        ratios[name] = None if rate is None else rate.median
        rows.append(
            [
                *(what, *map(shown, each(name, "rate")), shown(rate)),
                *map(_middle, each(name, "p99")),
                *map(_middle, each(name, "cpu")),
                _middle(work),
            ]
        )
    head = ["a second", f"{small.shape.total:,} rows", f"{large.shape.total:,} rows", "ratio"]
    sizes = [
        [name, number(value), number(large.numbers[name]), _times(large.numbers[name] / value)]
        for name, value in small.numbers.items()
        if value
    ]
    for what, name, value in (
        ("log (WAL) a debit, bytes", "debit", "logged"),
        ("pages a debit finds outside shared_buffers", "debit", "fetched"),
        ("pages a history finds outside shared_buffers", "history", "fetched"),
    ):
        found = each(name, value)
        sizes.append([what, *map(shown, found), _times(ratio(found[1], found[0]))])
    tables = [
        f"{small.shape.users:,} and {large.shape.users:,} users.\n",
        table([*head, "p99 ms", "p99 ms", "CPU µs", "CPU µs", "ratio"], rows),
        "CPU is what the server worked for one: this depends less on what else goes on. Pages that "
        "are not in shared_buffers come from the kernel, or from the disk.\n",
        table(["", *head[1:]], sizes),
    ]
    return {
        "about": list(about),
        "rows": [grown.shape.total for grown in both],
        "ratios": ratios,
        "numbers": {grown.name: grown.numbers for grown in both},
        "samples": samples.plain(),
        "table": "\n".join(tables),
    }


def _middle(figure: Figure | None) -> str:
    return "" if figure is None else number(figure.median)


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _setting(said: str) -> tuple[str, str]:
    name, equals, value = said.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError("NAME=VALUE is wanted")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the larger ledger")
    parser.add_argument(
        "--users", type=int, help=f"of the larger ledger; without it one for {ROWS_A_USER} rows"
    )
    parser.add_argument(
        "--small-rows", type=int, default=SMALL_ROWS, help="of the one it is compared with"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument(
        "--seconds", type=float, default=2, metavar="S", help="of a turn with debits or history"
    )
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of PostgreSQL, such as shared_buffers=4GB (2GB) or wal_compression=lz4",
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the data go ({FOLDER})")
    parser.add_argument("--out", type=Path, default=OUT, help="where growth.json goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
