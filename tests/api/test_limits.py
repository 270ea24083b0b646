"""Limits on guessing, over all processes; where a request came from; clients that are slow."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import web

from service.dev.postgres import Cluster
from service.errors import ApiError
from service.limits import client_address, site_of
from service.middleware import tell
from service.server import Runner
from service.wire import Auth, Limit, Routes, read_raw
from tests.support.answers import require_error
from tests.support.clones import away
from tests.support.databases import Clone, Connection, as_settings
from tests.support.running import Running, running_service
from tests.support.waiting import PATIENCE_SECONDS, until

HERE = {"X-Forwarded-For": "198.51.100.7"}
THERE = {"X-Forwarded-For": "198.51.100.8"}


async def made(service: Running) -> str:
    await service.grant("ann", 100)
    gift = await service.call("POST", "/gifts", user="ann", json={"totalCredits": 5})
    code: str = gift.body["code"]
    return code


async def test_codes_are_looked_up_thirty_times_a_minute_from_an_address(
    service: Running, admin: Connection
) -> None:
    code = await made(service)
    for number in range(30):
        # Wrong guesses count as well, and so does HEAD.
        answer = await service.call("GET", f"/gifts/{'X' * 11}{'ABC'[number % 3]}", headers=HERE)
        assert answer.status == 404
    refused = await service.call("GET", f"/gifts/{code}", headers=HERE)
    require_error(refused, 429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    async with service.session.head(f"{service.url}/api/v1/gifts/{code}", headers=HERE) as looked:
        assert looked.status == 429
    assert (await service.call("GET", f"/gifts/{code}", headers=THERE)).status == 200
    # Neither the address nor the user is kept as it is.
    kept = await admin.fetch("SELECT subject FROM credits.rate_limits")
    assert not [row for row in kept if "198.51" in row["subject"] or "ann" in row["subject"]]


async def test_a_user_redeems_ten_times_a_minute_wherever_he_is(service: Running) -> None:
    code = await made(service)
    for _ in range(10):
        answer = await service.call("POST", "/gifts/XXXXXXXXXXXX/redeem", user="bob")
        assert answer.status == 404
    refused = await service.call("POST", f"/gifts/{code}/redeem", user="bob")
    require_error(refused, 429, "rate_limited")
    assert (await service.call("POST", f"/gifts/{code}/redeem", user="cat")).status == 200


async def test_an_address_redeems_thirty_times_a_minute_whoever_it_is(service: Running) -> None:
    code = await made(service)
    for number in range(30):
        answer = await service.call(
            "POST", "/gifts/XXXXXXXXXXXX/redeem", user=f"user{number}", headers=HERE
        )
        assert answer.status == 404
    refused = await service.call("POST", f"/gifts/{code}/redeem", user="bob", headers=HERE)
    require_error(refused, 429, "rate_limited")
    # Who is not let in at all is not counted.
    nobody = await service.call("POST", f"/gifts/{code}/redeem", headers=HERE)
    require_error(nobody, 401, "unauthorized")


async def test_several_processes_share_the_limits(
    service: Running, database: Clone, cluster: Cluster
) -> None:
    async with running_service(as_settings(cluster, database.name)) as other:
        answers = await asyncio.gather(
            *(
                one.call("GET", "/gifts/XXXXXXXXXXXX", headers=HERE)
                for one in (service, other)
                for _ in range(20)
            )
        )
    assert sorted(answer.status for answer in answers) == [404] * 30 + [429] * 10


async def test_without_the_database_nothing_is_let_through(
    service: Running, database: Clone, cluster: Cluster
) -> None:
    async with away(cluster, database.name):
        answer = await service.call("GET", "/gifts/XXXXXXXXXXXX")
    require_error(answer, 503, "unavailable")


async def test_a_call_that_could_not_be_counted_may_be_made_again(
    service: Running, admin: Connection
) -> None:
    """Nothing has moved, so this is no outcome that nobody knows."""
    assert (await service.call("GET", "/gifts/XXXXXXXXXXXX", headers=HERE)).status == 404
    async with admin.transaction():
        await admin.execute("SELECT FROM credits.rate_limits FOR UPDATE")
        calling = asyncio.create_task(service.call("GET", "/gifts/XXXXXXXXXXXX", headers=HERE))

        async def is_over() -> bool:
            # Whatever waits for the row loses its connection, as often as it is tried.
            await admin.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_locks"
                " WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
            )
            return calling.done()

        try:
            await until(is_over)
        finally:
            calling.cancel()
    require_error(await calling, 503, "unavailable")
    assert (await service.call("GET", "/gifts/XXXXXXXXXXXX", headers=HERE)).status == 404


def test_a_route_without_users_cannot_count_them() -> None:
    with pytest.raises(ValueError, match="no user"):
        Routes().get("/x", auth=Auth.PUBLIC, limits=(Limit("x", "user", 1),))


PROXIES = [ipaddress.ip_network(net) for net in ("10.0.0.0/8", "2001:db8:1::/48")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        # Who is no proxy of ours is not believed.
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        # What the client wrote itself stands before what the proxy saw.
        ("10.0.0.1", ["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8:2::7]:4711"], "2001:db8:2::7"),
        ("10.0.0.1", ["2001:db8:2::7"], "2001:db8:2::7"),
        ("2001:db8:1::1", ["198.51.100.7"], "198.51.100.7"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("fe80::1%eth0", [], "fe80::1"),
        # A proxy that says nonsense is all that is known.
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, , 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
        (None, ["198.51.100.7"], None),
        ("", [], None),
    ],
)
def test_where_a_request_came_from(
    peer: str | None, forwarded: list[str], expected: str | None
) -> None:
    address = client_address(peer, forwarded, PROXIES)
    assert address == (None if expected is None else ipaddress.ip_address(expected))


def test_a_site_of_ipv6_is_one_caller() -> None:
    one, two, other = map(
        ipaddress.ip_address, ("2001:db8:2:3::1", "2001:db8:2:3:ffff::9", "2001:db8:2:4::1")
    )
    assert site_of(one) == site_of(two) != site_of(other)
    assert site_of(ipaddress.ip_address("192.0.2.1")) != site_of(ipaddress.ip_address("192.0.2.2"))


# Slow clients


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[int]:
    """A server of ours that has little patience; its port."""
    async with running(**options) as runner:
        yield runner.addresses[0][1]


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Runner]:
    """The same, to look into."""

    async def take(request: web.Request) -> web.Response:
        return web.Response(body=await read_raw(request, seconds=0.3))

    app = web.Application(middlewares=[_told])

    async def give(request: web.Request) -> web.Response:
        return web.Response(body=bytes(LARGE_BYTES))

    app.router.add_route("*", "/", take)
    app.router.add_get("/large", give)
    runner = Runner(app, access_log=None, **options)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner
    finally:
        await runner.cleanup()


@web.middleware
async def _told(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except ApiError as error:
        return tell(error)
    return response


@contextlib.asynccontextmanager
async def connected(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_who_brings_no_head_of_a_request_is_cut_off(said: bytes) -> None:
    async with serving(keepalive_timeout=0.3) as port, connected(port) as (reader, writer):
        writer.write(said)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await reader.read() == b""


async def test_who_writes_the_head_byte_by_byte_is_cut_off() -> None:
    async with serving(keepalive_timeout=0.3) as port, connected(port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nX-Slow: ")

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
        finally:
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)


async def test_who_brings_the_body_too_slowly_is_told_and_cut_off() -> None:
    async with serving(lingering_time=0.3) as port, connected(port) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"did not arrive in time" in answer


LARGE_BYTES = 16 * 1024 * 1024
"""More than the sockets of both sides hold."""


@contextlib.contextmanager
def asking_for_much(port: int) -> Iterator[socket.socket]:
    """A connection that has asked for LARGE_BYTES and holds little of the answer itself."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.setblocking(False)
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        yield connection


async def test_who_never_reads_the_answer_is_cut_off() -> None:
    async with running(unread_seconds=0.3) as runner:
        server = runner.server
        assert server is not None
        with asking_for_much(runner.addresses[0][1]):
            # Linux tells the client nothing, so it is the server that is looked at.
            await until(lambda: server.requests_count == 1)
            await until(lambda: server.connections == [])


async def test_who_reads_the_answer_bit_by_bit_is_given_all_of_it() -> None:
    # All of it takes longer than the server would wait without any progress.
    async with serving(unread_seconds=5.0) as port:
        with asking_for_much(port) as connection:
            loop = asyncio.get_running_loop()
            started, taken = loop.time(), 0
            async with asyncio.timeout(PATIENCE_SECONDS):
                while bit := await loop.sock_recv(connection, 1024 * 1024):
                    taken += len(bit)
                    if loop.time() - started < 6.0:
                        await asyncio.sleep(0.2)
    assert taken > LARGE_BYTES


async def test_who_is_quick_enough_keeps_the_connection() -> None:
    async with serving(keepalive_timeout=30) as port, connected(port) as (reader, writer):
        for _ in range(3):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                assert await reader.readexactly(3) == b"abc"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /?q=" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Many: x\r\n" * 200 + b"\r\n",
    ],
    ids=["query", "header", "headers"],
)
async def test_a_head_that_is_too_large_is_refused(head: bytes) -> None:
    async with serving() as port, connected(port) as (reader, writer):
        writer.write(head)
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await reader.read()
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert b'"invalid_request"' in answer
