"""Clients and an auth service for the tests of the HTTP core."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.api.http_support import Client, Connect, Issuer
from tests.support.running import AsServed


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Serve an application on loopback for the length of the test."""
    clients: list[Client] = []

    async def connect_(app: web.Application) -> Client:
        client: Client = TestClient(AsServed(app))
        clients.append(client)
        await client.start_server()
        return client

    yield connect_
    for client in clients:
        await client.close()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An auth service on loopback."""
    made = Issuer()
    app = web.Application()
    app.router.add_get("/api/auth/jwks", made.serve)
    server = TestServer(app)
    await server.start_server()
    made.url = str(server.make_url("")).rstrip("/")
    yield made
    await server.close()
