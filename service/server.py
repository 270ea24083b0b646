"""Serving in one process, alone or as one of several, and how it stops.

On SIGTERM or SIGINT no new connection is taken, requests in flight end, then the background
tasks, then the pool closes, and the exit status is 0.
"""

import asyncio
import contextlib
import gc
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http import RawRequestMessage

from service.app import create_app, create_metrics_app
from service.db import Database
from service.draining import Drain
from service.errors import UnavailableError, bad_request, internal_error
from service.ids import uuid7
from service.keys import DB, DRAIN
from service.metrics import count_as
from service.middleware import tell
from service.queries import connections, login
from service.settings import Settings
from service.workers import (
    DRAIN_SECONDS,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_WORKER_REFUSED,
    HOST,
    Stop,
    Worker,
    on_signals,
    port_refused,
)

CLOSE_SECONDS: Final = 2.0
"""For the last bytes of an answer after its request has ended."""
IDLE_SECONDS: Final = 75.0
"""For a connection to bring a whole head of a request, from its beginning or the last answer on;
above the 60 s that proxies keep theirs."""
UNREAD_SECONDS: Final = 60.0
"""For a client to take more of an answer; Linux alone can tell (TCP_USER_TIMEOUT)."""
ACCEPTED_AT_ONCE: Final = 16
"""New connections in one round of the loop: each costs as much as a request, and those who come
back all at once, as after a restart, are not to hold up the others."""
WAITING_MAX: Final = 1024
"""Connections that wait to be accepted; beyond it clients try again, after a second at first."""
YOUNG_OBJECTS: Final = 10_000
"""How many more objects there are before new ones are looked through for garbage."""
LOGIN_CHECK_SECONDS: Final = 1.0
CONNECTIONS_CHECK_SECONDS: Final = 1.0
CONNECTIONS_CHECK_MAX_SECONDS: Final = 30.0

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


class Runner(web.AppRunner):
    """Runs an application behind the service's own protocol and limits."""

    def __init__(
        self, app: web.Application, *, unread_seconds: float = UNREAD_SECONDS, **options: Any
    ) -> None:
        super().__init__(app, **options)
        self._unread_seconds = unread_seconds

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        make_request = made.request_factory

        def with_path(message: RawRequestMessage, *more: Any) -> web.BaseRequest:
            # `GET http://host` and CONNECT may name no path, for which aiohttp asks no resource;
            # it means `/` (RFC 9110, section 4.2.3).
            if message.url.absolute and message.url.raw_path == "/":
                message = message._replace(url=message.url.with_path("/", keep_query=True))
            return make_request(message, *more)

        return _Server(
            made.request_handler,
            unread_seconds=self._unread_seconds,
            request_factory=with_path,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
        )


def serve(settings: Settings, worker: Worker | None = None) -> int:
    """Serve in this process until a signal; the exit status."""
    if worker is not None:
        count_as(worker.number)
    # Requests in flight are thousands of young objects, which end by themselves.
    gc.set_threshold(YOUNG_OBJECTS)
    # To look through what was loaded takes some 40 ms: once, now that nobody waits.
    gc.collect()
    gc.freeze()
    refusal = asyncio.run(_serve(settings, worker))
    if refusal is None:
        return EXIT_OK
    sys.stderr.write(f"mana-credits: {refusal}\n")
    return EXIT_REFUSED if worker is None else EXIT_WORKER_REFUSED


async def _serve(settings: Settings, worker: Worker | None) -> str | None:
    stop = Stop()
    on_signals(stop.ask)
    app = create_app(settings)
    drain = app[DRAIN] = Drain(DRAIN_SECONDS)
    runner = Runner(
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
        # What was made until now stays, and is never looked through again.
        gc.freeze()
        shared = worker is not None
        try:
            await _listen(runner, settings.port, shared=shared)
        except OSError as error:
            return port_refused("PORT", settings.port, error)
        if settings.metrics_port is not None:
            # Whichever worker answers tells the sum.
            metrics = web.AppRunner(create_metrics_app(runner.app), access_log=None)
            await metrics.setup()
            closing.push_async_callback(metrics.cleanup)
            try:
                await _listen(metrics, settings.metrics_port, shared=shared)
            except OSError as error:
                return port_refused("METRICS_PORT", settings.metrics_port, error)
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


async def _listen(runner: web.BaseRunner, port: int, *, shared: bool) -> None:
    """Serve on a port; `shared`: together with other processes."""
    connections = socket.create_server((HOST, port), reuse_port=shared)
    try:
        # As many are accepted in one round of the loop.
        await web.SockSite(runner, connections, backlog=ACCEPTED_AT_ONCE).start()
        # Said once more, since asyncio takes the same number for those that may wait for it.
        connections.listen(WAITING_MAX)
    except BaseException:
        connections.close()
        raise


async def _check_login(db: Database, stop: Stop) -> bool:
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


async def _check_login_later(db: Database, stop: Stop) -> None:
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


def _on_end(descriptor: int, ask: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(descriptor)
        ask()

    loop.add_reader(descriptor, ended)
