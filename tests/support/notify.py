"""A mana-notify on loopback that keeps what it gets, and can be told to fail."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclasses.dataclass
class Notify:
    """What it got, and how it answers."""

    url: str = ""
    letters: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    times: list[float] = dataclasses.field(default_factory=list)
    """When each letter came, in the time of the loop."""
    accepted: list[str] = dataclasses.field(default_factory=list)
    """The externalId of each letter that was answered with 200."""
    headers: list[dict[str, str]] = dataclasses.field(default_factory=list)
    statuses: list[int] = dataclasses.field(default_factory=list)
    """How the next calls are answered; then with 200."""
    retry_after: str | None = None
    """What is told beside a status that is no success."""
    hold: asyncio.Event | None = None
    """Calls wait for it."""
    under_way: int = 0

    async def take(self, request: web.Request) -> web.Response:
        """Take a letter, or refuse it."""
        self.letters.append(await request.json())
        self.times.append(asyncio.get_running_loop().time())
        number = len(self.letters) - 1
        self.headers.append(dict(request.headers))
        self.under_way += 1
        try:
            if self.hold is not None:
                await self.hold.wait()
        finally:
            self.under_way -= 1
        status = self.statuses.pop(0) if self.statuses else 200
        headers = {"Location": f"{self.url}/elsewhere"} if 300 <= status < 400 else {}
        if status >= 400 and self.retry_after is not None:
            headers["Retry-After"] = self.retry_after
        if status == 200:
            self.accepted.append(self.letters[number]["externalId"])
        return web.json_response({"success": status == 200}, status=status, headers=headers)

    @property
    def ids(self) -> list[str]:
        """The externalId of each letter."""
        return [letter["externalId"] for letter in self.letters]


@contextlib.asynccontextmanager
async def notified(port: int | None = None) -> AsyncIterator[Notify]:
    """Run a mana-notify, on a port of its own unless one is given."""
    notify = Notify()
    app = web.Application()
    app.router.add_post("/api/v1/notifications/send", notify.take)
    async with TestServer(app, port=port) as server:
        notify.url = str(server.make_url("")).rstrip("/")
        yield notify
        if notify.hold is not None:
            notify.hold.set()
