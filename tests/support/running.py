"""The service over HTTP, in the test's own event loop."""

import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientSession, ClientTimeout, TCPConnector
from aiohttp.test_utils import TestServer
from aiohttp.web import BaseRunner

from service.app import create_app
from service.dev import issuer
from service.dev.issuer import SigningKey
from service.dev.ports import free_port
from service.keys import PAGES
from service.server import Runner
from service.settings import Settings
from tests.support.contract import Contract, contract_of

_addresses = (IPv4Address("10.0.0.0") + number for number in itertools.count())


def an_address() -> str:
    """Where nobody else calls from, for X-Forwarded-For."""
    return str(next(_addresses))


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the JSON, and beside it what a test may look at."""

    status: int
    body: Any
    headers: dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A running service, and whoever calls it."""

    url: str
    settings: Settings
    session: ClientSession
    key: SigningKey
    contract: Contract
    """The service's own OpenAPI document: every answer to `call` must be one that it foresees."""

    def token(self, user_id: str, **claims: Any) -> str:
        """A user's token; claims: email, name, role, email_verified."""
        return issuer.mint(self.key, sub=user_id, issuer=self.settings.auth_url, **claims)

    async def call(
        self,
        method: str,
        path: str,
        *,
        user: str | None = None,
        claims: dict[str, Any] | None = None,
        internal: bool = False,
        json: Any = None,
        headers: dict[str, str] | None = None,
        base: str = "/api/v1",
    ) -> Answer:
        """Call the API as a user, as a service, or as nobody; `path` begins behind `base`.

        Each call comes from an address of its own, unless `headers` say from which.
        """
        sent = {"X-Forwarded-For": an_address(), **(headers or {})}
        if user is not None:
            sent["Authorization"] = f"Bearer {self.token(user, **(claims or {}))}"
        if internal:
            sent["X-Service-Key"] = self.settings.service_keys[0]
        async with self.session.request(
            method, f"{self.url}{base}{path}", json=json, headers=sent
        ) as answer:
            body = await answer.json()
            path = urlsplit(f"{base}{path}").path
            self.contract.require(method, path, answer.status, answer.headers, body)
            return Answer(answer.status, body, dict(answer.headers))

    async def grant(self, user_id: str, amount: int, reference: str = "start") -> None:
        """Give a user credits to begin with."""
        answer = await self.call(
            "POST",
            "/internal/credits/grant",
            internal=True,
            json={"userId": user_id, "amount": amount, "reason": "test", "referenceId": reference},
        )
        assert answer.status == 200, answer.body

    async def balance(self, user_id: str) -> int:
        """What a user can spend."""
        answer = await self.call("GET", f"/internal/credits/balance/{user_id}", internal=True)
        assert answer.status == 200, answer.body
        spendable: int = answer.body["balance"]
        return spendable


class AsServed(TestServer):
    """An application on loopback as `serve` runs it, in the test's own event loop."""

    async def _make_runner(self, **options: Any) -> BaseRunner:
        # Unlike with a TestServer, what a client asked for goes on when it is gone.
        return Runner(self.app, **{**options, "handler_cancellation": False})


@contextlib.asynccontextmanager
async def running_service(
    settings: Settings, *, for_browsers: bool = False
) -> AsyncIterator[Running]:
    """Serve on a free port of loopback, with an issuer of its own.

    For browsers, the settings' BASE_URL becomes the address it has, and the issuer signs people in
    and sends them back there.
    """
    key = SigningKey.generate()
    port = free_port() if for_browsers else None
    origins = [f"http://127.0.0.1:{port}"] if for_browsers else []
    auth = TestServer(issuer.create_app(key, origins=origins))
    await auth.start_server()
    auth_url = str(auth.make_url("")).rstrip("/")
    settings = dataclasses.replace(
        settings, auth_url=auth_url, jwks_url=f"{auth_url}/api/auth/jwks"
    )
    if for_browsers:
        settings = dataclasses.replace(settings, base_url=origins[0], login_url=f"{auth_url}/login")
    app = create_app(settings)
    contract = contract_of(app[PAGES]["openapi.json"].body)
    server = AsServed(app, port=port)
    await server.start_server()
    # No bound on connections: a race must not be held up by its own client.
    session = ClientSession(connector=TCPConnector(limit=0), timeout=ClientTimeout(total=60))
    try:
        yield Running(str(server.make_url("")).rstrip("/"), settings, session, key, contract)
    finally:
        await session.close()
        await server.close()
        await auth.close()
