"""A service as a process, called like the one in the test's own loop, that can be killed."""

import contextlib
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientSession, ClientTimeout, TCPConnector
from aiohttp.test_utils import TestServer

from service.app import create_app
from service.dev import issuer
from service.dev.issuer import SigningKey
from service.dev.ports import free_port
from service.keys import PAGES
from service.settings import Settings
from tests.support.contract import contract_of
from tests.support.databases import Connection
from tests.support.processes import Process, serving
from tests.support.races import until
from tests.support.running import Running

BLOCKED_BY = "SELECT pid FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))"


@dataclass
class Mortal:
    """Where it serves stays the same, however often it is started."""

    running: Running
    _folder: Path
    _env: Mapping[str, str]
    _port: int
    _stack: contextlib.AsyncExitStack
    _process: Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._process = await self._stack.enter_async_context(
            serving(self._folder, env=self._env, port=self._port)
        )
        await self._process.listening()

    def freeze(self) -> None:
        """Let it do nothing any more, and its connections stand."""
        assert self._process is not None
        self._process.process.send_signal(signal.SIGSTOP)

    async def kill(self) -> None:
        """End it as `kill -9` does, and wait until it is gone."""
        assert self._process is not None
        self._process.process.kill()
        await self._process.ended()

    async def kill_while_writing(
        self, admin: Connection, holder: Connection, number: int, *, committed: bool
    ) -> None:
        """Kill it while so many statements of its wait for what `holder` has locked.

        `committed`: they are done all the same, and nobody hears of it; else none of them is.
        """
        waiting: list[int] = []

        async def are_blocked() -> bool:
            rows = await admin.fetch(BLOCKED_BY, holder.get_server_pid())
            waiting[:] = [row["pid"] for row in rows]
            return len(waiting) == number

        async def are_over() -> bool:
            return not await admin.fetchval(
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY ($1))", waiting
            )

        await until(are_blocked, f"{number} statements of the service that wait for a lock")
        await self.kill()
        if not committed:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", waiting
            )
            await until(are_over, "the end of those statements")
        await holder.execute("COMMIT")
        await until(are_over, "the end of those statements")


@contextlib.asynccontextmanager
async def mortal_service(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[Mortal]:
    """Serve on a free port of loopback, with an issuer that outlives it."""
    key = SigningKey.generate()
    port = free_port()
    async with (
        TestServer(issuer.create_app(key)) as auth,
        # A connection for each call: none is left of a process that is gone.
        ClientSession(
            connector=TCPConnector(force_close=True, limit=0), timeout=ClientTimeout(total=60)
        ) as session,
        contextlib.AsyncExitStack() as stack,
    ):
        env = {**environment, "MANA_AUTH_URL": str(auth.make_url("")).rstrip("/")}
        settings = Settings.from_env(env)
        contract = contract_of(create_app(settings)[PAGES]["openapi.json"].body)
        running = Running(f"http://127.0.0.1:{port}", settings, session, key, contract)
        mortal = Mortal(running, folder, env, port, stack)
        await mortal.start()
        yield mortal
