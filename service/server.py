"""Serving: one process, or several that share the port, and how they stop.

On SIGTERM or SIGINT no new connection is taken, requests in flight end, then the background
tasks, then the pool closes, and the exit status is 0.
"""

import asyncio
import contextlib
import functools
import gc
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web
from prometheus_client.multiprocess import mark_process_dead

from service.app import create_app, create_metrics_app
from service.db import Database
from service.draining import Drain
from service.errors import UnavailableError, bad_request, internal_error
from service.ids import uuid7
from service.keys import DB, DRAIN
from service.metrics import MULTIPROCESS, count_as
from service.middleware import tell
from service.queries import connections, login
from service.settings import Settings

HOST: Final = "0.0.0.0"  # noqa: S104 - every IPv4 address: containers and proxies reach it there
DRAIN_SECONDS: Final = 25.0
"""How long requests in flight may take after the signal; a charge run is the longest."""
CLOSE_SECONDS: Final = 2.0
"""For the last bytes of an answer after its request has ended."""
IDLE_SECONDS: Final = 75.0
"""For a connection to bring a whole head of a request, from its beginning or the last answer on;
above the 60 s that proxies keep theirs."""
UNREAD_SECONDS: Final = 60.0
"""For a client to take more of an answer; Linux alone can tell (TCP_USER_TIMEOUT)."""
WORKER_STOP_SECONDS: Final = DRAIN_SECONDS + 15
LOGIN_CHECK_SECONDS: Final = 1.0
CONNECTIONS_CHECK_SECONDS: Final = 1.0
CONNECTIONS_CHECK_MAX_SECONDS: Final = 30.0
RESPAWN_MAX_SECONDS: Final = 30.0
RESPAWN_CALM_SECONDS: Final = 60.0
"""A worker that lived this long is replaced at once."""

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 1
EXIT_WORKER_REFUSED: Final = 78
"""What a worker says to its parent when another one would be refused as well (EX_CONFIG)."""

_log = structlog.get_logger(__name__)


class _Protocol(web.RequestHandler):
    """Tells what is no HTTP, and so never reaches the application, in the envelope too.

    A client that asks for nothing, or takes its time over the head of a request, is cut off after
    the keep-alive time, and one that takes no answer after the unread time.
    """

    __slots__ = ("_unread_seconds",)

    def __init__(self, manager: web.Server, *, unread_seconds: float, **options: Any) -> None:
        super().__init__(manager, **options)
        self._unread_seconds = unread_seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound the time for which what was written may stay unread."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._unread_seconds * 1000)
            )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer, and close the connection."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        request_id = str(uuid7())
        if status == 400:
            _log.info("request", route="malformed", status=status, request_id=request_id)
        else:
            _log.error("unhandled error", exc_info=exc, request_id=request_id)
        response = (
            tell(bad_request("The request is not valid HTTP"))
            if status == 400
            else tell(internal_error(request_id))
        )
        response.headers["X-Request-Id"] = request_id
        response.force_close()
        return response


class _Server(web.Server):
    def __init__(self, *args: Any, unread_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unread_seconds = unread_seconds

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, unread_seconds=self._unread_seconds, **self._kwargs)


class _Runner(web.AppRunner):
    def __init__(
        self, app: web.Application, *, unread_seconds: float = UNREAD_SECONDS, **options: Any
    ) -> None:
        super().__init__(app, **options)
        self._unread_seconds = unread_seconds

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            unread_seconds=self._unread_seconds,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
        )


class _Stop:
    """The wish to stop, with the reason when it is not the operator's."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.refusal: str | None = None

    def ask(self) -> None:
        self._event.set()

    def refuse(self, reason: str) -> None:
        self.refusal = reason
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()


@dataclass(frozen=True, slots=True)
class Worker:
    """One of several processes that share the port."""

    number: int
    """Its place among them, from 0; whoever replaces it takes the same."""
    workers: int
    parent_fd: int
    """That descriptor ends when the parent does."""


def serve(settings: Settings, worker: Worker | None = None) -> int:
    """Serve in this process until a signal; the exit status."""
    if worker is not None:
        count_as(worker.number)
    refusal = asyncio.run(_serve(settings, worker))
    if refusal is None:
        return EXIT_OK
    sys.stderr.write(f"mana-credits: {refusal}\n")
    return EXIT_REFUSED if worker is None else EXIT_WORKER_REFUSED


async def _serve(settings: Settings, worker: Worker | None) -> str | None:
    stop = _Stop()
    _on_signals(stop.ask)
    app = create_app(settings)
    drain = app[DRAIN] = Drain(DRAIN_SECONDS)
    runner = _Runner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=CLOSE_SECONDS,
        keepalive_timeout=IDLE_SECONDS,
    )
    await runner.setup()
    closing = contextlib.AsyncExitStack()
    checking: list[asyncio.Task[None]] = []
    try:
        if worker is not None:
            _on_end(worker.parent_fd, stop.ask)
        if settings.production:
            # Once before anything is served; where the database is away, as soon as it comes.
            if not await _check_login(runner.app[DB], stop):
                checking.append(asyncio.create_task(_check_login_later(runner.app[DB], stop)))
            if stop.refusal is not None:
                return stop.refusal
        if worker is None or worker.number == 0:
            # One speaks for all of them.
            processes = 1 if worker is None else worker.workers
            checking.append(
                asyncio.create_task(_check_connections(runner.app[DB], settings, processes))
            )
        shared = worker is not None
        try:
            await web.TCPSite(runner, HOST, settings.port, reuse_port=shared).start()
        except OSError as error:
            return _port_refused("PORT", settings.port, error)
        if settings.metrics_port is not None:
            # Whichever worker answers tells the sum.
            metrics = web.AppRunner(create_metrics_app(runner.app), access_log=None)
            await metrics.setup()
            closing.push_async_callback(metrics.cleanup)
            try:
                await web.TCPSite(metrics, HOST, settings.metrics_port, reuse_port=shared).start()
            except OSError as error:
                return _port_refused("METRICS_PORT", settings.metrics_port, error)
        # What was made until now stays: to look through it for garbage, again and again, would hold
        # up the loop for some 40 ms each time.
        gc.collect()
        gc.freeze()
        _log.info("serving", port=settings.port)
        await stop.wait()
        _log.info("stopping")
    finally:
        for task in checking:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for site in list(runner.sites):
            await site.stop()
        await drain.end()
        await closing.aclose()
        await runner.cleanup()
    return stop.refusal


def _port_refused(name: str, port: int, error: OSError) -> str:
    return f"{name} {port} cannot be used: {os.strerror(error.errno or 0)}"


async def _check_login(db: Database, stop: _Stop) -> bool:
    """Whether the login could be checked; a mighty one stops the process."""
    try:
        role = await login.mighty_role(db)
    except UnavailableError:
        return False
    if role is not None:
        stop.refuse(
            f"the login of DATABASE_URL is refused in production: it is, or can become, {role}"
        )
    return True


async def _check_login_later(db: Database, stop: _Stop) -> None:
    while True:
        await asyncio.sleep(LOGIN_CHECK_SECONDS)
        if await _check_login(db, stop):
            return


async def _check_connections(db: Database, settings: Settings, processes: int) -> None:
    """Once the database is there, say when these processes may want more than it gives."""
    pause = CONNECTIONS_CHECK_SECONDS
    while True:
        try:
            room = await connections.room(db)
        except UnavailableError:
            await asyncio.sleep(pause)
            pause = min(pause * 2, CONNECTIONS_CHECK_MAX_SECONDS)
            continue
        except Exception:
            _log.exception("it is not known how many connections the database gives")
            return
        needed = processes * settings.connections
        if room is not None and needed > room.connections:
            # No reason to refuse: a pool grows with the load, and does without what it is refused.
            _log.warning(
                "too few connections: lower DATABASE_POOL_MAX or --workers, or raise the limit",
                processes=processes,
                needed=needed,
                allowed=room.connections,
                limit=room.limit,
            )
        return


def _on_signals(ask: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)


def _on_end(descriptor: int, ask: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(descriptor)
        ask()

    loop.add_reader(descriptor, ended)


# Several processes


def serve_workers(settings: Settings, workers: int) -> int:
    """Serve in `workers` processes that share the port, and replace those that die."""
    # Bound but not listening: it takes no connection, and keeps the port for the workers.
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            reserved.bind((HOST, settings.port))
        except OSError as error:
            sys.stderr.write(f"mana-credits: {_port_refused('PORT', settings.port, error)}\n")
            return EXIT_REFUSED
        # The workers' metrics, which each of them adds up.
        with tempfile.TemporaryDirectory(prefix="mana-credits-metrics-") as folder:
            return asyncio.run(_tend(workers, folder))


async def _tend(workers: int, metrics: str) -> int:
    stop = _Stop()
    _on_signals(stop.ask)
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


async def _tend_one(stop: _Stop, place: Worker, metrics: str) -> None:
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
