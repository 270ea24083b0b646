"""Serving as a process: without a database, several workers, and how it stops."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from service.dev.ports import accepts_connections, free_port
from service.dev.postgres import Cluster, temporary_cluster
from tests.api.http_support import until
from tests.support.processes import bare_environment

NOWHERE = "postgresql://mana:x@127.0.0.1:9/mana_credits"
PRODUCTION = {
    "MANA_ENV": "production",
    "MANA_AUTH_URL": "http://127.0.0.1:9",
    "MANA_SERVICE_KEY": "a-service-key",
}


class Served:
    """A `mana-credits serve` of the test's own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def listening(self) -> None:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(accepts_connections, self.port):
                assert self.process.returncode is None, await self.errors()
                await asyncio.sleep(0.05)

    async def errors(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    async def ended(self) -> int:
        async with asyncio.timeout(60):
            return await self.process.wait()

    def children(self) -> list[int]:
        return children(self.process.pid)


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


Serve = Callable[..., Any]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    running: list[Served] = []

    async def serve_(*arguments: str, port: int | None = None, **env: str) -> Served:
        port = port or free_port()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service",
            "serve",
            *arguments,
            cwd=tmp_path,
            env=bare_environment()
            | {"MANA_ENV": "development", "PORT": str(port), "DATABASE_URL": NOWHERE}
            | env,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        running.append(Served(process, port))
        return running[-1]

    yield serve_
    for served in running:
        with contextlib.suppress(ProcessLookupError):
            served.process.kill()
        await served.process.wait()
        # What is left in the pipe, so that its transport closes.
        await served.errors()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with temporary_cluster() as made:
        yield made


async def get(url: str, **options: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
    async with aiohttp.ClientSession() as session, session.get(url, **options) as answer:
        return answer.status, await answer.json(), answer


async def test_hundreds_who_come_at_once_are_served(serve: Serve) -> None:
    served = await serve()
    await served.listening()
    # It answers, so that its start is over.
    assert (await get(f"{served.url}/health"))[0] == 200
    # Nobody accepts them meanwhile: they wait in the kernel, and are not sent away.
    served.process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(60):
            came = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(400)]
    finally:
        served.process.send_signal(signal.SIGCONT)
    for _, writer in came:
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(60):
        answers = [await reader.read() for reader, _ in came]
    assert [answer.partition(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 200 OK"] * len(came)
    for _, writer in came:
        writer.close()


async def test_without_a_database(serve: Serve) -> None:
    served = await serve()
    await served.listening()
    status, body, _ = await get(f"{served.url}/health")
    assert status == 200
    assert (body["status"], body["service"]) == ("ok", "mana-credits")
    assert body["timestamp"].endswith("Z")
    status, body, answer = await get(f"{served.url}/health/ready")
    assert status == 503
    assert body["status"] == "unavailable"
    assert body["reasons"]
    assert "Retry-After" in answer.headers
    status, body, answer = await get(
        f"{served.url}/api/v1/internal/credits/balance/user-1",
        headers={"X-Service-Key": "dev-service-key"},
    )
    assert (status, body["error"]) == (503, "unavailable")
    assert "Retry-After" in answer.headers
    served.process.terminate()
    assert await served.ended() == 0
    written = await served.errors()
    assert "Traceback" not in written
    assert "dev-service-key" not in written


@pytest.mark.parametrize(
    "sent",
    [
        b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"not http at all\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
async def test_what_is_no_http_is_told_in_the_envelope(serve: Serve, sent: bytes) -> None:
    served = await serve()
    await served.listening()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(sent)
    async with asyncio.timeout(30):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert b"X-Request-Id: " in head
    assert json.loads(body)["error"] == "invalid_request"
    served.process.terminate()
    assert await served.ended() == 0
    assert "Traceback" not in await served.errors()


async def test_a_request_in_flight_ends(serve: Serve) -> None:
    served = await serve()
    await served.listening()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(
        b"POST /api/v1/internal/credits/init HTTP/1.1\r\nHost: x\r\n"
        b"X-Service-Key: dev-service-key\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\nContent-Length: 19\r\n\r\n"
    )
    async with asyncio.timeout(30):
        assert b"100" in await reader.readline()  # it is being handled
    served.process.terminate()
    await until(lambda: not accepts_connections(served.port))
    writer.write(b'{"userId":"user-1"}')
    async with asyncio.timeout(30):
        answer = (await reader.read()).strip()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 503"), answer
    assert b'"unavailable"' in answer
    assert await served.ended() == 0


async def test_an_idle_connection_does_not_hold_it(serve: Serve) -> None:
    served = await serve()
    await served.listening()
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{served.url}/health") as answer:
            assert answer.status == 200
        served.process.send_signal(signal.SIGINT)
        assert await served.ended() == 0


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
async def test_a_port_in_use(serve: Serve, arguments: tuple[str, ...]) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        served = await serve(*arguments, port=port)
        assert await served.ended() == 1
    last = (await served.errors()).splitlines()[-1]
    assert last == f"mana-credits: PORT {port} cannot be used: Address already in use"


async def test_workers(serve: Serve) -> None:
    served = await serve("--workers", "2")
    await served.listening()
    await until(lambda: len(served.children()) == 2)
    first, second = served.children()
    assert (await get(f"{served.url}/health"))[0] == 200
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(served.children()) == 2 and first not in served.children())
    assert second in served.children()
    await served.listening()
    assert (await get(f"{served.url}/health"))[0] == 200
    workers = served.children()
    served.process.terminate()
    assert await served.ended() == 0
    assert not [worker for worker in workers if lives(worker)]


async def test_workers_end_with_their_parent(serve: Serve) -> None:
    served = await serve("--workers", "2")
    await served.listening()
    await until(lambda: len(served.children()) == 2)
    workers = served.children()
    served.process.kill()
    await served.ended()
    await until(lambda: not [worker for worker in workers if lives(worker)])


def logins(cluster: Cluster) -> dict[str, str]:
    """Logins that are too mighty, and one that is not."""
    with psycopg.connect(cluster.admin_url(), autocommit=True) as connection:
        for statement in (
            "CREATE ROLE mana_credits_owner LOGIN PASSWORD 'x'",
            "CREATE ROLE plain LOGIN PASSWORD 'x'",
            "CREATE ROLE heir LOGIN NOINHERIT PASSWORD 'x' IN ROLE mana_credits_owner",
            "CREATE ROLE second_heir LOGIN PASSWORD 'x' IN ROLE heir",
            "CREATE ROLE role_maker LOGIN CREATEROLE PASSWORD 'x'",
        ):
            with contextlib.suppress(psycopg.errors.DuplicateObject):
                connection.execute(statement)
        version = connection.info.server_version
    names = ["mana_credits_owner", "heir", "second_heir", "plain"]
    names += ["role_maker"] if version < 160000 else []
    urls = {name: f"postgresql://{name}:x@127.0.0.1:{cluster.port}/postgres" for name in names}
    return urls | {"postgres": cluster.admin_url()}


async def test_mighty_logins_are_refused_in_production(serve: Serve, cluster: Cluster) -> None:
    for name, url in logins(cluster).items():
        served = await serve(**PRODUCTION, DATABASE_URL=url)
        if name == "plain":
            await served.listening()
            served.process.terminate()
            assert await served.ended() == 0
            continue
        assert await served.ended() == 1, name
        written = await served.errors()
        assert written.splitlines()[-1].startswith("mana-credits: the login of DATABASE_URL"), name
        assert "Traceback" not in written


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
async def test_mighty_logins_are_refused_when_the_database_comes(
    serve: Serve, cluster: Cluster, arguments: tuple[str, ...]
) -> None:
    url = cluster.admin_url()
    cluster.stop("fast")
    try:
        served = await serve(*arguments, **PRODUCTION, DATABASE_URL=url)
        await served.listening()
    finally:
        await asyncio.to_thread(cluster.start)
    assert await served.ended() == 1
    assert "the login of DATABASE_URL is refused" in await served.errors()


async def test_mighty_logins_are_taken_in_development(serve: Serve, cluster: Cluster) -> None:
    served = await serve(DATABASE_URL=cluster.admin_url())
    await served.listening()
    status, body, _ = await get(f"{served.url}/health/ready")
    assert status == 503
    assert body == {"status": "unavailable", "reasons": ["the database is not migrated"]}
    served.process.terminate()
    assert await served.ended() == 0
