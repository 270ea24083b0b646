"""`mana-credits serve` as a process of a test's own."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.dev.ports import accepts_connections, free_port
from tests.support.waiting import PATIENCE_SECONDS, until

ROOT = Path(__file__).parents[2]
"""The checkout under test."""


def bare_environment() -> dict[str, str]:
    """What a child of a test needs to run this checkout, and nothing else of our environment.

    The environment's `service` may have been installed from another checkout.
    """
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**inherited, "PYTHONPATH": str(ROOT)}


@dataclass
class Process:
    """A running service, and everything it wrote."""

    process: asyncio.subprocess.Process
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def written(self) -> str:
        """What it wrote so far, to both of its outputs."""
        return self.log.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its log, line by line; every line is JSON."""
        return [json.loads(line) for line in self.written.splitlines()]

    async def listening(self) -> None:
        """Wait until it takes connections."""

        async def accepts() -> bool:
            assert self.process.returncode is None, self.written
            return await asyncio.to_thread(accepts_connections, self.port)

        await until(accepts)

    async def refusing(self) -> None:
        """Wait until it takes no connection any more."""

        async def refuses() -> bool:
            return not await asyncio.to_thread(accepts_connections, self.port)

        await until(refuses)

    async def ended(self) -> int:
        """Wait until it has ended; its exit status."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.process.wait()

    def children(self) -> list[int]:
        """Its own processes that live."""
        pid = self.process.pid
        try:
            found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except FileNotFoundError:
            return []
        return [int(one) for one in found if lives(int(one))]


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with."""
    block = Path(f"/proc/{pid}/environ").read_bytes().decode()
    return dict(line.split("=", 1) for line in block.split("\0") if line)


def lives(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.asynccontextmanager
async def serving(
    folder: Path, *arguments: str, env: Mapping[str, str], port: int | None = None
) -> AsyncIterator[Process]:
    """Run this checkout's `mana-credits serve` with nothing set but `env`; killed at the end."""
    port = port or free_port()
    log = folder / f"serve-{port}.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "serve", *arguments),
            cwd=folder,
            env={**bare_environment(), "PORT": str(port), **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield Process(process, port, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
