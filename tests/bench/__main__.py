"""How fast the service is, against what the machine can do.

python -m tests.bench            everything, repeated (about an hour)
python -m tests.bench --quick    about a minute

Writes report.md and report.json to build/bench, after every round. It ends with 0 also where a
target is missed, and says so.
"""

import argparse
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import phases, report, servers
from tests.bench.cluster import durable_cluster, require_safe
from tests.bench.machine import describe
from tests.bench.phases import Bench
from tests.bench.plans import FULL, QUICK, SCENARIOS, Plan
from tests.bench.progress import Progress
from tests.support.processes import ROOT

OUT = ROOT / "build" / "bench"
FOLDER = Path("/var/tmp")
"""Not /tmp, which may be memory: what a commit costs is measured."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; the exit status."""
    options = _parser().parse_args(arguments)
    stop_on_signals()
    if shutil.which("wrk") is None:
        print("wrk is missing: install the package wrk (or run make bench)", file=sys.stderr)
        return 1
    try:
        return _measure(_plan(options), options.folder, options.out)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def stop_on_signals() -> None:
    """Let SIGTERM and SIGHUP end it as Ctrl-C does: nothing is left behind."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def commit() -> str:
    """The commit that is measured, with a + where the files differ from it."""
    found = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def _measure(plan: Plan, parent: Path, out: Path) -> int:
    machine = describe(parent)
    with (
        tempfile.TemporaryDirectory(prefix="mana-credits-bench-logs-", dir=parent) as folder,
        durable_cluster(parent) as cluster,
        servers.tokens(Path(folder), phases.token_users()) as signed,
    ):
        settings = require_safe(cluster)
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        about = report.About(when, commit(), machine, settings, plan)
        phases.prepare(cluster, plan)
        with Progress("measurements", plan.steps) as progress:
            bench = Bench(plan, cluster, Path(folder), signed, progress)
            for round_ in range(plan.rounds):
                phases.over_http(bench, round_, last=round_ == plan.rounds - 1)
                phases.on_the_database(bench, round_)
                for due, rounds, turns in plan.charges:
                    if round_ < rounds:
                        for turn in range(round_ * turns, (round_ + 1) * turns):
                            phases.charging(bench, due, turn)
                report.write(out, about, bench.samples, grown(out))
            if plan.meanwhile:
                phases.meanwhile(bench)
    text, targets = report.write(out, about, bench.samples, grown(out))
    print(text)
    missed = [target.what for target in targets if target.held is False]
    for what in missed:
        print(f"MISSED: {what}", file=sys.stderr)
    print(f"The report is in {out / 'report.md'}", file=sys.stderr)
    return 0


def grown(out: Path) -> dict[str, Any] | None:
    """What tests.bench.growth has found before, if it has."""
    try:
        found: dict[str, Any] = json.loads((out / "growth.json").read_text())
    except FileNotFoundError:
        return None
    return found


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    changes: dict[str, Any] = {}
    if options.rounds is not None:
        changes["rounds"] = options.rounds
    if options.seconds is not None:
        changes["seconds"] = options.seconds
    if options.turns is not None:
        changes["turns"] = options.turns
    if options.only:
        for name in ("service", "alone", "bare"):
            load = getattr(plan, name)
            changes[name] = {kind: load[kind] for kind in options.only if kind in load}
    if options.no_charge:
        changes |= {"charges": (), "meanwhile": 0}
    return dataclasses.replace(plan, **changes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a minute's worth of it")
    parser.add_argument("--rounds", type=int, metavar="N", help="on fresh copies each")
    parser.add_argument("--turns", type=int, metavar="N", help="how often within a round")
    parser.add_argument("--seconds", type=float, metavar="S", help="of a turn over HTTP")
    parser.add_argument(
        "--only", action="append", choices=SCENARIOS, help="these calls; may be given again"
    )
    parser.add_argument("--no-charge", action="store_true", help="leave out the charges")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the data go ({FOLDER})")
    parser.add_argument("--out", type=Path, default=OUT, help="where the report goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
