"""What one process works for a request, part by part: the profile behind the benchmark's rates.

python -m tests.bench.work

The service's part is measured without sockets and without a database: requests are put into the
server's own protocol, and a stand-in answers what PostgreSQL would. What asyncpg and PostgreSQL
take for a statement is measured on a cluster of its own. Each figure is the least of many, since
whatever else the machine does can only add to it. Under load everything takes up to twice as much,
on two cores that are shared with PostgreSQL and whoever makes the load.
"""

import argparse
import asyncio
import gc
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

import aiohttp
import asyncpg
from aiohttp import web

from service.api import internal
from service.auth import Authenticator, KeySet
from service.db import Database, set_json_codecs
from service.draining import Drain
from service.ids import uuid7
from service.keys import AUTHENTICATOR, DB, DRAIN, METRICS, REQUEST_LOG
from service.logs import RequestLog, WriteRequests
from service.metrics import Metrics
from service.middleware import application
from service.queries.credits import BatchCall
from service.server import Runner
from service.settings import Settings
from service.wire import Auth, Routes
from tests.bench import ledger
from tests.bench.__main__ import FOLDER, stop_on_signals
from tests.bench.cluster import connect, durable_cluster, make_database
from tests.bench.ledger import Shape
from tests.bench.machine import cpu_seconds
from tests.bench.plans import USERS
from tests.bench.report import number, table
from tests.bench.servers import SERVICE_KEY

CONNECTIONS: Final = 64
SIZES: Final = (1, 16, 64)
"""Calls in one statement."""

_WHEN: Final = datetime(2026, 5, 18, 0, 9, 41, 123456, UTC)
_BALANCE: Final = ("user-1", 990, 0, 1_000, 10, 2, 1, _WHEN, _WHEN)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.work",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--times", type=int, default=200, metavar="N", help="how often each")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the data go ({FOLDER})")
    options = parser.parse_args(arguments)
    stop_on_signals()
    try:
        with open(os.devnull, "w") as nowhere:
            print(_shown_requests(asyncio.run(requests(options.times, nowhere))))
        with durable_cluster(options.folder) as cluster:
            make_database(cluster, "work")
            with connect(cluster, "work") as db:
                ledger.fill(db, Shape(USERS))
                ledger.settle(db)
            url = cluster.service_url("work")
            print(_shown_statements(asyncio.run(statements(url, options.times))))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


# Requests


class _Answers:
    """One of every connection."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.complete = asyncio.Event()

    def add(self, answer: bytes) -> None:
        self.got.append(answer)
        if len(self.got) == CONNECTIONS:
            self.complete.set()

    def forget(self) -> None:
        self.got.clear()
        self.complete.clear()


class _Wire(asyncio.Transport):
    """A connection whose answers are kept."""

    def __init__(self, answers: _Answers) -> None:
        super().__init__()
        self._answers = answers

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._answers.add(bytes(data))

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class _StandIn(Database):
    """Answers as PostgreSQL would, one round of the event loop later."""

    async def row(self, sql: str, *args: object, **_: Any) -> Any:
        await asyncio.sleep(0)
        return _BALANCE

    async def rows(self, sql: str, *args: Any, **_: Any) -> list[Any]:
        await asyncio.sleep(0)
        return [_BALANCE] * len(args[0])

    async def move(self, sql: str, *args: object, **_: Any) -> Any:
        await asyncio.sleep(0)
        return (self._moved(),)

    async def move_together(self, sql: str, calls: Sequence[object]) -> list[Any]:
        await asyncio.sleep(0)
        said = {"alone": False, "error": None, "move": self._moved()}
        return [said | {"place": place} for place in range(1, len(calls) + 1)]

    @staticmethod
    def _moved() -> tuple[object, ...]:
        entry = (uuid7(), "user-1", 3, "usage", -1, 991, 990, "app", "Some words", None, None)
        return (*entry, None, _WHEN, False, 990, 0, 1_000, 10)


def _served(session: aiohttp.ClientSession, log: TextIO) -> web.Application:
    """The service's own application, with routes that stop at one part after the other."""
    routes = Routes()

    @routes.get("/public", auth=Auth.PUBLIC)
    @routes.get("/service", auth=Auth.SERVICE)
    @routes.get("/service/{userId}", auth=Auth.SERVICE)
    async def nothing(_request: web.Request) -> web.Response:
        return _nothing()

    settings = Settings.from_env({"MANA_ENV": "development", "MANA_SERVICE_KEY": SERVICE_KEY})
    app = application(settings, routes, internal.routes)
    app[DB] = db = _StandIn(settings.database_url)
    app[METRICS] = Metrics(db)
    app[DRAIN] = Drain(1)
    write: WriteRequests = RequestLog(log)
    app[REQUEST_LOG] = write
    app[AUTHENTICATOR] = Authenticator(
        KeySet(session, "http://127.0.0.1:9"), issuer="", service_keys=(SERVICE_KEY,)
    )
    return app


def _plain() -> web.Application:
    """A handler, and what aiohttp does for it."""

    async def nothing(_request: web.Request) -> web.Response:
        return _nothing()

    app = web.Application()
    app.router.add_get("/nothing", nothing)
    return app


def _nothing() -> web.Response:
    return web.Response(body=b'{"one":1}', content_type="application/json")


def _message(start: str, body: str | None = None) -> Callable[[], bytes]:
    """A request about any user, where it says {user}."""
    head = f"{start} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nX-Service-Key: {SERVICE_KEY}\r\n"

    def made() -> bytes:
        user = f"user-{random.randint(1, USERS)}"
        if body is None:
            return f"{head}\r\n".replace("{user}", user).encode()
        sent = body.replace("{user}", user)
        more = f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
        return f"{head}{more}{sent}".encode()

    return made


_DEBIT: Final = '{"userId":"{user}","amount":1,"appId":"app","description":"Some words"}'
_REQUESTS: Final = (
    ("aiohttp, a handler that answers at once", "plain", _message("GET /nothing")),
    ("the same behind what every request passes", "served", _message("GET /public")),
    ("and the service key", "served", _message("GET /service")),
    ("and a user id in the path", "served", _message("GET /service/{user}")),
    ("a balance", "served", _message("GET /api/v1/internal/credits/balance/{user}")),
    ("a debit", "served", _message("POST /api/v1/internal/credits/use", _DEBIT)),
)


async def requests(times: int, log: TextIO) -> dict[str, float]:
    """Microseconds for a request, by what is asked for; `log` gets its lines."""
    found: dict[str, float] = {}
    async with aiohttp.ClientSession() as session:
        apps = {"plain": _plain(), "served": _served(session, log)}
        for what, app, message in _REQUESTS:
            runner = Runner(apps[app], access_log=None, handle_signals=False)
            await runner.setup()
            found[what] = await _least(runner.server, message, times)
            await runner.cleanup()
    return found


async def _least(
    protocol: Callable[[], Any] | None, message: Callable[[], bytes], times: int
) -> float:
    assert protocol is not None
    answers = _Answers()
    made = [protocol() for _ in range(CONNECTIONS)]
    for one in made:
        one.connection_made(_Wire(answers))
    await asyncio.sleep(0.01)
    gc.collect()
    gc.freeze()
    least = float("inf")
    for _ in range(times):
        sent = [message() for _ in made]
        answers.forget()
        began = time.perf_counter()
        for one, data in zip(made, sent, strict=True):
            one.data_received(data)
        await answers.complete.wait()
        # What is counted and logged belongs to it.
        await asyncio.sleep(0)
        least = min(least, (time.perf_counter() - began) / CONNECTIONS)
        if not all(answer.startswith(b"HTTP/1.1 200") for answer in answers.got):
            raise RuntimeError(f"this is no answer: {answers.got[0]!r}")
    gc.unfreeze()
    for one in made:
        one.connection_lost(None)
    return least * 1e6


def _shown_requests(found: dict[str, float]) -> str:
    rows = [[what, number(least)] for what, least in found.items()]
    return table(["in process, without sockets and database", "µs a request"], rows)


# Statements


def _item() -> BatchCall:
    user = f"user-{random.randint(1, USERS)}"
    return BatchCall(
        "use_credits",
        user,
        id=uuid7(),
        amount=1,
        app_id="app",
        description="Some words",
        origin="service",
    )


def _statements(db: "asyncpg.Connection[asyncpg.Record]") -> Iterator[tuple[str, int, Any]]:
    """What each is called, how many calls it makes, and how it is sent."""

    async def one() -> object:
        return await db.fetchval("SELECT 1")

    async def debit() -> object:
        item = _item()
        return await db.fetch(
            "SELECT credits.use_credits("
            "p_user_id => $1, p_amount => $2, p_app_id => $3, p_description => $4, p_id => $5)",
            *(item.user_id, item.amount, item.app_id, item.description, item.id),
        )

    def balances(size: int) -> Callable[[], Awaitable[object]]:
        return lambda: db.fetch(
            "SELECT * FROM credits.get_balances($1)",
            [f"user-{random.randint(1, USERS)}" for _ in range(size)],
        )

    def debits(size: int) -> Callable[[], Awaitable[object]]:
        return lambda: db.fetch(
            "SELECT * FROM credits.run_batch($1)", [_item() for _ in range(size)]
        )

    yield "SELECT 1", 1, one
    for size in SIZES:
        yield f"balances, {size} in a statement", size, balances(size)
    yield "a debit by use_credits", 1, debit
    for size in SIZES[1:]:
        yield f"debits, {size} in a statement", size, debits(size)


async def statements(url: str, times: int) -> dict[str, tuple[float, float]]:
    """Microseconds for a call that asyncpg and that PostgreSQL take, by the statement."""
    db: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(url)
    found: dict[str, tuple[float, float]] = {}
    try:
        await set_json_codecs(db)
        pid = db.get_server_pid()
        for what, calls, send in _statements(db):
            least = (float("inf"), float("inf"))
            for _ in range(10):
                await send()
            for _ in range(times):
                ours, theirs = time.thread_time(), cpu_seconds(pid)
                await send()
                ours, theirs = time.thread_time() - ours, cpu_seconds(pid) - theirs
                least = (min(least[0], ours), min(least[1], theirs) if theirs else least[1])
            found[what] = (least[0] / calls * 1e6, least[1] / calls * 1e6)
    finally:
        await db.close()
    return found


def _shown_statements(found: dict[str, tuple[float, float]]) -> str:
    rows = [[what, number(ours), number(theirs)] for what, (ours, theirs) in found.items()]
    return table(["CPU µs a call", "asyncpg", "PostgreSQL"], rows)


if __name__ == "__main__":
    sys.exit(main())
