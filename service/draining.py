"""The requests in flight, and the end of them."""

import asyncio
import contextlib

from aiohttp import web


class Drain:
    """Counts the requests in flight, and lets them end.

    aiohttp drops what still arrives on a connection once it shuts down, the rest of a body
    included. So requests are let end before that, each the last of its connection.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds` is how long the requests may take once they are to end."""
        self._seconds = seconds
        self._open = 0
        self._ending = False
        self._empty = asyncio.Event()

    def enter(self) -> None:
        """A request begins."""
        self._open += 1

    def answered(self, response: web.StreamResponse) -> None:
        """A request has its answer, which may be the last of its connection."""
        if self._ending:
            response.force_close()

    def leave(self) -> None:
        """A request has ended, however it did."""
        self._open -= 1
        if self._open == 0:
            self._empty.set()

    async def end(self) -> None:
        """Wait until no request is left, for a bounded time."""
        self._ending = True
        if self._open:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._empty.wait()
