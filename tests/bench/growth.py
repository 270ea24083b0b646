"""What a ledger that grows does to debits, history, ledger check, expiry and charges.

python -m tests.bench.growth --rows 10000000

Fills one database with a million ledger rows and as many users as fit to that, another one with
what was asked for, and measures both in turns. Writes growth.json to build/bench.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from service.dev.postgres import Cluster
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
from tests.bench.wrk import load

SMALL_ROWS: Final = 1_000_000
ROWS_A_USER: Final = 10
DUE: Final = 10_000
"""Charges and holds that are due at once."""
GIFTS: Final = 2_000
CONNECTIONS: Final = 32
CLIENTS: Final = 8
WARM_SECONDS: Final = 10.0
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
    with (
        tempfile.TemporaryDirectory(prefix="mana-credits-bench-logs-", dir=options.folder) as logs,
        durable_cluster(options.folder, settings) as cluster,
        servers.tokens(_made(Path(logs) / "small"), _some(small.users)) as of_small,
        servers.tokens(_made(Path(logs) / "large"), _some(large.users)) as of_large,
    ):
        about = [
            *describe(options.folder),
            str(require_safe(cluster)),
            str(settings),
            f"commit {commit()}",
        ]
        both = [Grown("small", small, of_small), Grown("large", large, of_large)]
        for grown in both:
            _fill(cluster, grown)
        measure = _Measure(cluster, Path(logs), options.seconds, samples)
        with Progress("measurements", options.rounds * len(both) * len(MEASURED)) as progress:
            for round_ in range(options.rounds):
                for grown in both:
                    measure.all(grown, round_, progress)
        found = _found(both, samples, about)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
    print(found["table"])
    return 0


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

    def all(self, grown: Grown, round_: int, progress: Progress) -> None:
        """Everything once, in one of the databases."""

        def keep(name: str, rate: float, **more: float) -> None:
            self.samples.add(grown.name, name, 1, round_, rate=rate, **more)
            progress.add(1)

        users = grown.shape.users
        with connect(self.cluster, grown.name) as db:
            url = self.cluster.service_url(grown.name)
            # The first change of a page after a checkpoint writes the whole page to the log. There
            # are more pages in the larger one, and so more of that for the first minutes.
            pgbench(self.cluster, url, "debit_any", CLIENTS, WARM_SECONDS, users=users)
            for name, script in (("debit", "debit_any"), ("history", "history")):
                before = _count(db, _LOGGED)
                pace = pgbench(self.cluster, url, script, CLIENTS, self.seconds, users=users)
                logged = (_count(db, _LOGGED) - before) / max(pace.rate * self.seconds, 1)
                keep(name, pace.rate, p50=pace.p50, p99=pace.p99, cpu=pace.cpu, logged=logged)
            with servers.service(self.cluster, grown.name, self.logs, grown.tokens) as server:
                caller = servers.caller(server, grown.tokens, users)
                load(caller, "history_any", CONNECTIONS, 1)
                for name, kind in (
                    ("debit over HTTP", "debit"),
                    ("history over HTTP", "history_any"),
                ):
                    answered = load(caller, kind, CONNECTIONS, self.seconds)
                    if answered.refused:
                        raise RuntimeError(f"{answered.refused} calls were refused")
                    keep(name, answered.rate, p50=answered.p50, p99=answered.p99)
            _let_charges_come_due(db, users)
            keep("charge", **_timed(db, DUE, lambda: _charge(db)))
            _let_holds_run_out(db, users)
            keep("expiry", **_timed(db, DUE, lambda: _expire(db)))
            # The last of all, so that nothing which was measured goes unchecked.
            rows = _count(db, "SELECT count(*) FROM credits.transactions")
            keep("ledger check", **_timed(db, rows, lambda: _check(db, grown.name)))


_LOGGED: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"


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


def _found(both: Sequence[Grown], samples: Samples, about: Sequence[str]) -> dict[str, Any]:
    small, large = both
    ratios: dict[str, float | None] = {}
    rows = []
    for name, what in MEASURED.items():
        rates = [samples.figure(grown.name, name, 1, "rate") for grown in both]
        ratios[name] = ratio(rates[1], rates[0])
        late = [_middle(samples.figure(grown.name, name, 1, "p99")) for grown in both]
        work = [samples.figure(grown.name, name, 1, "cpu") for grown in both]
        rows.append(
            [
                *(what, shown(rates[0]), shown(rates[1]), _times(ratios[name])),
                *late,
                *(_middle(figure) for figure in work),
                _times(ratio(work[1], work[0])),
            ]
        )
    logged = [samples.figure(grown.name, "debit", 1, "logged") for grown in both]
    head = ["a second", f"{small.shape.total:,} rows", f"{large.shape.total:,} rows", "ratio"]
    sizes = [
        [name, number(value), number(large.numbers[name]), _times(large.numbers[name] / value)]
        for name, value in small.numbers.items()
        if value
    ]
    sizes.append(
        [
            "log (WAL) a debit, bytes",
            shown(logged[0]),
            shown(logged[1]),
            _times(ratio(*logged[::-1])),
        ]
    )
    tables = [
        f"{small.shape.users:,} and {large.shape.users:,} users.\n",
        table([*head, "p99 ms", "p99 ms", "CPU µs", "CPU µs", "ratio"], rows),
        "CPU is what the server worked for one: this depends less on what else goes on.\n",
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
    parser.add_argument("--seconds", type=float, default=5, metavar="S")
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
