"""Load on the database itself, by PostgreSQL's own pgbench."""

import re
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.dev.postgres import Cluster
from tests.bench.figures import percentile
from tests.bench.machine import children, ended_children_seconds

SQL: Final = Path(__file__).with_name("sql")
END_SECONDS: Final = 5.0
"""For the processes of a run to end, which are counted then. An autovacuum that has begun
meanwhile may take longer."""


class PgbenchError(RuntimeError):
    """pgbench did not do what was asked."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What came of one run; times in milliseconds."""

    rate: float
    """Transactions a second, the time to connect left out."""
    p50: float
    p99: float
    cpu: float = 0.0
    """What the server worked for a transaction, in microseconds: this depends less on what else
    the machine is doing."""


def parse_rate(output: str) -> float:
    """Transactions a second, as pgbench tells them; raises PgbenchError where it does not."""
    found = re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)
    if found is None:
        raise PgbenchError(f"pgbench said nothing of use: {output.strip()}")
    return float(found[1])


def parse_times(lines: Iterable[str]) -> list[float]:
    """How long each transaction of a log took, in milliseconds."""
    return [int(line.split()[2]) / 1e3 for line in lines]


def pgbench(
    cluster: Cluster,
    url: str,
    script: str,
    clients: int,
    seconds: float,
    *,
    users: int = 1,
    rate: int | None = None,
) -> Pace:
    """Run one of the scripts in sql/; `rate`: so many a second rather than as many as go.

    At a rate, a transaction's time counts from when it was due.
    """
    with tempfile.TemporaryDirectory(prefix="mana-credits-pgbench-") as folder:
        command = [str(cluster.programs.bindir / "pgbench"), "--no-vacuum", "--protocol=prepared"]
        command += [f"--client={clients}", "--jobs=1", f"--time={max(1, round(seconds))}"]
        command += ["--log", f"--log-prefix={folder}/log", f"--define=users={users}"]
        command += [f"--file={SQL / script}.sql"]
        command += [] if rate is None else [f"--rate={rate}"]
        assert cluster.pid is not None
        before, worked = children(cluster.pid), ended_children_seconds(cluster.pid)
        done = subprocess.run([*command, url], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PgbenchError(f"pgbench {script}: {done.stderr.strip()}")
        # A process that had much of a large shared memory in use takes its time to end.
        deadline = time.monotonic() + END_SECONDS
        while children(cluster.pid) - before and time.monotonic() < deadline:
            time.sleep(0.05)
        worked = ended_children_seconds(cluster.pid) - worked
        times: list[float] = []
        for log in Path(folder).glob("log*"):
            with log.open() as lines:
                times += parse_times(lines)
    times.sort()
    return Pace(
        parse_rate(done.stdout),
        percentile(times, 50),
        percentile(times, 99),
        worked * 1e6 / max(len(times), 1),
    )
