"""`mana-credits check` as a process of a test's own, and what it says."""

import asyncio
import sys
from collections.abc import Mapping

from tests.support.processes import bare_environment

Report = dict[str, tuple[str, str]]


async def check(env: Mapping[str, str], *arguments: str) -> tuple[int, Report]:
    """The exit status and, by subject, the state and text of each line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        "check",
        *arguments,
        env=bare_environment() | {"MANA_ENV": "development"} | dict(env),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        output, errors = await process.communicate()
    assert errors == b""
    report: Report = {}
    for line in output.decode().splitlines():
        state, what, text = line[:5].strip(), *line[6:].split(": ", 1)
        assert state in ("ok", "warn", "fail")
        report[what] = (state, text)
    status = process.returncode
    assert status == (1 if "fail" in {state for state, _ in report.values()} else 0)
    return status, report


def states(report: Report) -> dict[str, str]:
    """Whether each subject is well."""
    return {what: state for what, (state, _) in report.items()}
