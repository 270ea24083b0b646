"""Load over HTTP by wrk, with what it costs wrk itself."""

import dataclasses
import itertools
import json
import os
import secrets
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CALLS: Final = Path(__file__).with_name("calls.lua")
_MARK: Final = "BENCH "


class LoadError(RuntimeError):
    """The load could not be made, or was not answered as it should be."""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of one run; times in milliseconds."""

    rate: float
    """Answers a second, those that refused left out."""
    p50: float
    p99: float
    longest: float
    seconds: float
    answers: int
    refused: int
    """Answers of another status than 2xx and 3xx."""
    broken: int
    """Connections that failed, and answers that took longer than 10 s."""
    cpu: float = 0.0
    """Of one core, what wrk itself took."""


def parse(output: str) -> Load:
    """Read what calls.lua prints at the end; raises LoadError when it is not there."""
    lines = [line for line in output.splitlines() if line.startswith(_MARK)]
    if not lines:
        raise LoadError(f"wrk said nothing of use: {output.strip()}")
    said = json.loads(lines[-1].removeprefix(_MARK))
    seconds = said["duration_us"] / 1e6
    return Load(
        rate=(said["answers"] - said["refused"]) / seconds,
        p50=said["p50_us"] / 1e3,
        p99=said["p99_us"] / 1e3,
        longest=said["max_us"] / 1e3,
        seconds=seconds,
        answers=said["answers"],
        refused=said["refused"],
        broken=said["broken"],
    )


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom wrk calls, and what it needs to know for that."""

    port: int
    users: int
    service_key: str = "-"
    tokens: Path | None = None
    before: int = 0

    def arguments(self, kind: str, seed: int, users: int | None = None) -> list[str]:
        """What calls.lua reads."""
        return [
            kind,
            str(self.users if users is None else users),
            str(seed),
            self.service_key,
            "-" if self.tokens is None else str(self.tokens),
            str(self.before),
        ]


# Each run draws other users and other idempotency keys.
_seeds = itertools.count(secrets.randbelow(1 << 24) << 16)


def load(
    caller: Caller, kind: str, connections: int, seconds: float, *, users: int | None = None
) -> Load:
    """Make one kind of call over so many connections for so long; raises LoadError."""
    arguments = caller.arguments(kind, next(_seeds), users)
    # One thread: two cores are shared by all, and one makes many times what a service answers.
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    command += ["-s", str(CALLS), f"http://127.0.0.1:{caller.port}", "--", *arguments]
    with tempfile.TemporaryFile("w+") as output:
        wrk = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            # It tells what the process has used, which `wait` does not.
            _, status, usage = os.wait4(wrk.pid, 0)
            wrk.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if wrk.returncode is None:
                wrk.kill()
                wrk.wait()
        output.seek(0)
        written = output.read()
    if wrk.returncode != 0:
        raise LoadError(f"wrk ended with {wrk.returncode}: {written.strip()}")
    found = parse(written)
    return dataclasses.replace(found, cpu=(usage.ru_utime + usage.ru_stime) / found.seconds)
