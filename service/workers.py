"""Several processes that share the port, who replaces those that die, and what each has of that.

The parent serves nothing, and imports nothing of what serving takes.
"""

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client.multiprocess import mark_process_dead

from service.settings import Settings

HOST: Final = "0.0.0.0"  # noqa: S104 - every IPv4 address: containers and proxies reach it there
DRAIN_SECONDS: Final = 25.0
"""How long requests in flight may take after the signal; a charge run is the longest."""
MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"
"""By this variable prometheus-client knows of the folder in which workers keep their metrics."""
WORKER_STOP_SECONDS: Final = DRAIN_SECONDS + 15
RESPAWN_MAX_SECONDS: Final = 30.0
RESPAWN_CALM_SECONDS: Final = 60.0
"""A worker that lived this long is replaced at once."""

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 1
EXIT_WORKER_REFUSED: Final = 78
"""What a worker says to its parent when another one would be refused as well (EX_CONFIG)."""

_log = structlog.get_logger(__name__)


class Stop:
    """The wish to stop, with the reason when it is not the operator's."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.refusal: str | None = None

    def ask(self) -> None:
        """Stop as the operator wants it."""
        self._event.set()

    def refuse(self, reason: str) -> None:
        """Stop for a reason that is told, and the exit status tells of."""
        self.refusal = reason
        self._event.set()

    async def wait(self) -> None:
        """Wait until either was done."""
        await self._event.wait()


@dataclass(frozen=True, slots=True)
class Worker:
    """One of several processes that share the port."""

    number: int
    """Its place among them, from 0; whoever replaces it takes the same."""
    workers: int
    parent_fd: int
    """That descriptor ends when the parent does."""


def port_refused(name: str, port: int, error: OSError) -> str:
    """Why it cannot be served on a port, by the name of its setting."""
    return f"{name} {port} cannot be used: {os.strerror(error.errno or 0)}"


def on_signals(ask: Callable[[], None]) -> None:
    """Call that for SIGTERM and SIGINT, instead of ending."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)


def serve_workers(settings: Settings, workers: int) -> int:
    """Serve in `workers` processes that share the port, and replace those that die."""
    # Bound but not listening: it takes no connection, and keeps the port for the workers.
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            reserved.bind((HOST, settings.port))
        except OSError as error:
            sys.stderr.write(f"mana-credits: {port_refused('PORT', settings.port, error)}\n")
            return EXIT_REFUSED
        # The workers' metrics, which each of them adds up.
        with tempfile.TemporaryDirectory(prefix="mana-credits-metrics-") as folder:
            return asyncio.run(_tend(workers, folder))


async def _tend(workers: int, metrics: str) -> int:
    stop = Stop()
    on_signals(stop.ask)
    # The workers hold the reading end: when this process ends, however it does, they see it.
    reading, writing = os.pipe()
    try:
        tending = [
            asyncio.create_task(
                _tend_one(stop, Worker(number, workers, reading), metrics),
            )
            for number in range(workers)
        ]
        try:
            await asyncio.gather(*tending)
        finally:
            for task in tending:
                task.cancel()
    finally:
        os.close(reading)
        os.close(writing)
    return EXIT_OK if stop.refusal is None else EXIT_REFUSED


async def _tend_one(stop: Stop, place: Worker, metrics: str) -> None:
    failures = 0
    stopping = asyncio.create_task(stop.wait())
    try:
        while not stopping.done():
            started = time.monotonic()
            worker = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "service",
                "serve",
                f"--worker={place.parent_fd}",
                f"--number={place.number}",
                f"--workers={place.workers}",
                pass_fds=(place.parent_fd,),
                env={**os.environ, MULTIPROCESS: metrics},
                # Ctrl-C reaches the parent alone, which forwards it.
                start_new_session=True,
            )
            ended = asyncio.create_task(worker.wait())
            ended.add_done_callback(functools.partial(_forget_gauges, metrics, place.number))
            await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await _stop_worker(worker)
                return
            if worker.returncode == EXIT_WORKER_REFUSED:
                stop.refuse("a worker was refused")  # it has said why
                return
            lived = time.monotonic() - started
            failures = 0 if lived >= RESPAWN_CALM_SECONDS else failures + 1
            pause = min(0.5 * 2**failures, RESPAWN_MAX_SECONDS) if failures else 0.0
            _log.error("a worker died", status=worker.returncode, again_in=pause)
            await asyncio.wait((stopping,), timeout=pause)
    finally:
        stopping.cancel()


def _forget_gauges(metrics: str, number: int, _ended: object) -> None:
    """What a worker had open goes with it; what it has counted stays."""
    mark_process_dead(number, metrics)  # type: ignore[no-untyped-call]


async def _stop_worker(worker: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        worker.terminate()
    try:
        async with asyncio.timeout(WORKER_STOP_SECONDS):
            await worker.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        await worker.wait()
