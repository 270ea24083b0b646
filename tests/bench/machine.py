"""What the machine is, and what a process takes of it."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in megabytes (10^6 bytes)."""

    rss: float
    peak: float
    """The most that was resident at once so far (VmHWM)."""
    pss: float
    """Resident, with shared pages counted by how many share them."""


def memory(pid: int) -> Memory:
    """What a process has in memory now."""
    status = _kilobytes(Path(f"/proc/{pid}/status"))
    rollup = _kilobytes(Path(f"/proc/{pid}/smaps_rollup"))
    return Memory(*(kb * 1024 / 1e6 for kb in (status["VmRSS"], status["VmHWM"], rollup["Pss"])))


def _kilobytes(path: Path) -> dict[str, int]:
    parts = [line.split() for line in path.read_text().splitlines()]
    return {p[0].rstrip(":"): int(p[1]) for p in parts if len(p) == 3 and p[2] == "kB"}


def cpu_seconds(pid: int) -> float:
    """What the threads of a process have used of any core so far."""
    # Nanoseconds, where /proc/PID/stat counts in hundredths of a second.
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def ended_children_seconds(pid: int) -> float:
    """What those children of a process have used that have ended, and their own children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / _TICKS


def children(pid: int) -> set[int]:
    """The processes that a process has started and not yet waited for."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for thread in threads for child in thread.read_text().split()}


class Busy:
    """How busy a process and the whole machine were since this was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = time.monotonic()
        self._cpu = cpu_seconds(pid)
        self._all = _machine_seconds()

    def process(self) -> float:
        """What the process took, in cores."""
        return (cpu_seconds(self._pid) - self._cpu) / (time.monotonic() - self._began)

    def machine(self) -> float:
        """What everything took, in cores."""
        return (_machine_seconds() - self._all) / (time.monotonic() - self._began)


def _machine_seconds() -> float:
    """What all processes have used of all cores since the start."""
    user, nice, system, _idle, _io, irq, softirq, steal = (
        int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS


def describe(folder: Path) -> list[str]:
    """What a reader of figures needs to know about the machine; `folder` is where the data are."""
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    total = _kilobytes(Path("/proc/meminfo"))["MemTotal"] / 1024**2
    load = os.getloadavg()[0]
    busy = "" if load < 0.5 else ": **something else was running, so that figures scatter**"
    free = shutil.disk_usage(folder).free / 1e9
    return [
        f"{os.cpu_count()} cores ({cpu[0] if cpu else os.uname().machine}), {total:.0f} GiB",
        f"Linux {os.uname().release}; data on {_filesystem(folder)}, {free:.0f} GB free",
        f"Load average at the start: {load:.1f}{busy}",
    ]


def _filesystem(folder: Path) -> str:
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    fitting = [m for m in mounts if folder.is_relative_to(m[1])]
    device, _, kind = max(fitting, key=lambda m: len(m[1]))
    return f"{kind} ({device})"
