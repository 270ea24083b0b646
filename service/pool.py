"""asyncpg's pool, with connections that stay at hand for a moment after a call.

To take a connection from the pool and to give it back costs a task, a time limit and some rounds
of the event loop, which is as much as a small query. So the one that was just used waits a moment
for the next call, unless somebody waits for the pool to have one.
"""

import asyncio
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    PooledConnection = PoolConnectionProxy[asyncpg.Record]

FAILURES: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What asyncpg raises where a connection cannot be had, or not be given back."""
KEPT_SECONDS: Final = 0.05
"""For a connection to stay at hand."""
KEPT_CALLS: Final = 100
"""Calls on a connection until the pool has it back, which replaces those that have become old."""
RELEASE_SECONDS: Final = 5.0
"""For a connection to be given back."""

_log = structlog.get_logger(__name__)


class Pool:
    """Connections to one database. Whoever acquires one has to release it."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool
        # Calls so far on each connection that the pool has given away, and those at hand of them.
        self._calls: dict[PooledConnection, int] = {}
        self._kept: dict[PooledConnection, asyncio.TimerHandle] = {}
        self._wanting = 0
        self._closing = False
        self._releases: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        """How many connections there are."""
        return self._pool.get_size()

    @property
    def idle(self) -> int:
        """How many of them nobody uses."""
        return self._pool.get_idle_size() + len(self._kept)

    async def acquire(self) -> "PooledConnection":
        """A connection that is open as far as is known; raises FAILURES."""
        while self._kept:
            connection, timer = self._kept.popitem()
            timer.cancel()
            if not is_closed(connection):
                return connection
            self.release_later(connection)
        self._wanting += 1
        try:
            connection = await self._pool.acquire()
        finally:
            self._wanting -= 1
        self._calls[connection] = 0
        return connection

    async def release(self, connection: "PooledConnection", *, keep: bool = False) -> None:
        """Take a connection back; with `keep` it may stay at hand."""
        calls = self._calls[connection] = self._calls[connection] + 1
        if keep and calls < KEPT_CALLS and not self._wanting and not self._closing:
            self._kept[connection] = asyncio.get_running_loop().call_later(
                KEPT_SECONDS, self._end_keeping, connection
            )
            return
        del self._calls[connection]
        # One that cannot be given back is terminated by asyncpg; the answer that was got on it
        # stands.
        try:
            await self._pool.release(connection, timeout=RELEASE_SECONDS)
        except FAILURES as error:
            _log.debug("a connection was dropped", cause=type(error).__name__)

    def release_later(self, connection: "PooledConnection") -> None:
        """Take a connection back without being waited for."""
        task = asyncio.get_running_loop().create_task(self.release(connection))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def expire(self) -> None:
        """Let no connection of now be used for another call: the next ones are new."""
        await self._pool.expire_connections()
        for connection in self._calls:
            self._calls[connection] = KEPT_CALLS
        self._end_all_keeping()

    async def close(self) -> None:
        """Close every connection as soon as nobody uses it."""
        self._closing = True
        self._end_all_keeping()
        if self._releases:
            await asyncio.wait(self._releases)
        await self._pool.close()

    def terminate(self) -> None:
        """Cut every connection."""
        self._pool.terminate()

    def _end_all_keeping(self) -> None:
        for connection, timer in list(self._kept.items()):
            timer.cancel()
            self._end_keeping(connection)

    def _end_keeping(self, connection: "PooledConnection") -> None:
        del self._kept[connection]
        self.release_later(connection)


def is_closed(connection: "PooledConnection") -> bool:
    """Whether a connection has ended."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True  # the pool has taken it back, as it does when a connection ends
