"""The requests in flight, and the end of them."""

import asyncio
import contextlib


class Drain:
    """Counts the requests in flight, and lets them end.

    aiohttp drops what still arrives on a connection once it shuts down, the rest of a body
    included. So requests are let end before that, each the last of its connection.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds` is how long the requests may take once they are to end."""
        self._seconds = seconds
        self._open = 0
        self.ending = False
        """Whether each answer is to be the last of its connection."""
        self._empty = asyncio.Event()

    def enter(self) -> None:
        """A request begins."""
        self._open += 1

    def leave(self) -> None:
        """A request has ended, however it did."""
        self._open -= 1
        if self._open == 0:
            self._empty.set()

    async def end(self) -> None:
        """Wait until no request is left, for a bounded time."""
        self.ending = True
        if self._open:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._empty.wait()
