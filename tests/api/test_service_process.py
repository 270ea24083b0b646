"""The service as a process: how it starts, what it logs, how it stops."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

import service
from service.dev import issuer
from service.dev.issuer import SigningKey
from service.dev.ports import free_port
from service.dev.postgres import Cluster
from tests.support.clones import give_back, take_away
from tests.support.databases import Clone, Connection
from tests.support.processes import Process, environment_of, lives, serving
from tests.support.routes import declared_routes
from tests.support.stripe import sign
from tests.support.waiting import PATIENCE_SECONDS, until

SERVICE_KEY = "service-key-that-is-secret"
STRIPE_KEY = "sk_test_that_is_secret"
WEBHOOK_SECRET = "whsec_that_is_secret"


class Auth:
    """An auth service, and the tokens it gives out."""

    def __init__(self, key: SigningKey, url: str) -> None:
        self.key, self.url = key, url

    def token(self, user: str, **claims: Any) -> str:
        return issuer.mint(self.key, sub=user, issuer=self.url, **claims)


@pytest.fixture
async def auth() -> AsyncIterator[Auth]:
    key = SigningKey.generate()
    async with TestServer(issuer.create_app(key)) as server:
        yield Auth(key, str(server.make_url("")).rstrip("/"))


@pytest.fixture
def env(database: Clone, auth: Auth) -> dict[str, str]:
    """The settings of a production that sells; Stripe itself is away."""
    return {
        "MANA_ENV": "production",
        "DATABASE_URL": database.service_url,
        "MANA_AUTH_URL": auth.url,
        "MANA_SERVICE_KEY": f"{SERVICE_KEY},older-key-that-is-secret",
        "STRIPE_SECRET_KEY": STRIPE_KEY,
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "STRIPE_API_BASE": f"http://127.0.0.1:{free_port()}",
    }


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    # A connection for each call: after a stop none must be left to be used again.
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session


async def post(
    session: aiohttp.ClientSession, served: Process, path: str, **body: Any
) -> tuple[int, Any]:
    async with session.post(
        f"{served.url}/api/v1/internal{path}", json=body, headers={"X-Service-Key": SERVICE_KEY}
    ) as answer:
        return answer.status, await answer.json()


async def grant(
    session: aiohttp.ClientSession, served: Process, user: str, amount: int, reference: str = "r"
) -> None:
    status, body = await post(
        session,
        served,
        "/credits/grant",
        userId=user,
        amount=amount,
        reason="test",
        referenceId=reference,
    )
    assert status == 200, body


async def use(session: aiohttp.ClientSession, served: Process, user: str) -> tuple[int, Any]:
    return await post(
        session, served, "/credits/use", userId=user, amount=1, appId="app", description="x"
    )


async def test_the_process_imports_the_checkout_under_test(
    tmp_path: Path, env: dict[str, str]
) -> None:
    async with serving(tmp_path, env=env) as served:
        await served.listening()
        environment = environment_of(served.process.pid)
    # Without -S an installed package would be found as well.
    asked = await asyncio.create_subprocess_exec(
        *(sys.executable, "-S", "-c", "import service; print(service.__file__)"),
        cwd=tmp_path,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await asked.communicate()
    assert Path(said.decode().strip()) == Path(service.__file__)


# Stopping


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
async def test_a_request_in_flight_ends_before_the_service_does(
    tmp_path: Path,
    env: dict[str, str],
    admin: Connection,
    session: aiohttp.ClientSession,
    arguments: tuple[str, ...],
) -> None:
    async with serving(tmp_path, *arguments, env=env) as served:
        await served.listening()
        await grant(session, served, "ann", 10)
        async with admin.transaction():
            await admin.execute("SELECT FROM credits.balances WHERE user_id = 'ann' FOR UPDATE")
            slow = asyncio.create_task(use(session, served, "ann"))

            async def waits() -> bool:
                return bool(
                    await admin.fetchval(
                        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                        " AND datname = current_database()"
                    )
                )

            await until(waits)
            served.process.send_signal(signal.SIGTERM)
            await served.refusing()
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(f"{served.url}/health")
            assert not slow.done()
        status, body = await slow

        assert (status, body["newBalance"]["balance"]) == (200, 9)
        assert await served.ended() == 0
        assert "Traceback" not in served.written
    # Nothing of it is connected any more.
    left = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'mana-credits' AND datname = current_database()"
    )

    async def disconnected() -> bool:
        return bool(await admin.fetchval(left) == 0)

    await until(disconnected)


# Starting


async def test_it_starts_without_a_database_and_serves_once_there_is_one(
    tmp_path: Path,
    env: dict[str, str],
    cluster: Cluster,
    database: Clone,
    session: aiohttp.ClientSession,
) -> None:
    await take_away(cluster, database.name)
    try:
        async with serving(tmp_path, env=env) as served:
            await served.listening()
            async with session.get(f"{served.url}/health") as answer:
                assert answer.status == 200
            async with session.get(f"{served.url}/health/ready") as answer:
                assert answer.status == 503
            status, body = await post(session, served, "/credits/init", userId="ann")
            assert (status, body["error"]) == (503, "unavailable")

            await give_back(cluster, database.name)
            await grant(session, served, "ann", 10)

            assert (await use(session, served, "ann"))[0] == 200
            async with session.get(f"{served.url}/health/ready") as answer:
                assert (answer.status, (await answer.json())["status"]) == (200, "ok")
            served.process.terminate()
            assert await served.ended() == 0
            assert "Traceback" not in served.written
    finally:
        await give_back(cluster, database.name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "mysql://x"),
        ("MANA_AUTH_URL", ""),
        ("MANA_SERVICE_KEY", ""),
        ("MANA_SERVICE_KEY", "dev-service-key"),
        ("PORT", "http"),
        ("CORS_ORIGINS", "*"),
        ("STRIPE_WEBHOOK_SECRET", ""),
        ("MANA_ENV", "staging"),
    ],
)
async def test_a_wrong_setting_stops_the_start_with_one_line_that_names_it(
    tmp_path: Path, name: str, value: str
) -> None:
    env = {
        "MANA_ENV": "production",
        "DATABASE_URL": "postgresql://mana:secret-password@127.0.0.1:9/x",
        "MANA_AUTH_URL": "http://127.0.0.1:9",
        "MANA_SERVICE_KEY": SERVICE_KEY,
        "STRIPE_SECRET_KEY": STRIPE_KEY,
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        name: value,
    }
    async with serving(tmp_path, env=env) as served:
        assert await served.ended() == 2
    (line,) = served.written.splitlines()
    assert name in line
    for secret in ("secret-password", SERVICE_KEY, STRIPE_KEY, WEBHOOK_SECRET):
        assert secret not in line


# Workers


async def test_a_worker_that_dies_is_replaced_and_all_end_with_their_parent(
    tmp_path: Path, env: dict[str, str], session: aiohttp.ClientSession
) -> None:
    async with serving(tmp_path, "--workers", "2", env=env) as served:
        await served.listening()
        await until(lambda: served.written.count('"event":"serving"') == 2)
        first, second = served.children()
        await grant(session, served, "ann", 100)

        os.kill(first, signal.SIGKILL)
        await until(lambda: len(served.children()) == 2 and first not in served.children())

        await until(lambda: served.written.count('"event":"serving"') == 3)
        assert second in served.children()
        replaced = served.children()

        for _ in range(20):
            assert (await use(session, served, "ann"))[0] == 200
        served.process.kill()
        await served.ended()
        await until(lambda: not any(lives(worker) for worker in replaced))
    await served.refusing()


# The log


def filled(path: str, code: str) -> str:
    """A path with something in the place of its parameters."""
    values = {"userId": "ann", "code": code}
    return re.sub(
        r"\{(\w+)\}", lambda m: values.get(m[1], "0192f0c1-0000-7000-8000-000000000001"), path
    )


async def test_the_log_tells_of_every_request_and_no_secret(
    tmp_path: Path, env: dict[str, str], admin: Connection, auth: Auth
) -> None:
    package = "0192f0c1-0000-7000-8000-000000000001"
    await admin.execute(
        "INSERT INTO credits.packages (id, name, credits, price_euro_cents)"
        " VALUES ($1, 'x', 10, 10)",
        package,
    )
    token = auth.token("ann", role="admin", email="ann@example.org", name="Ann Lee")
    bad_token = f"{token[:-6]}AAAAAA"
    asked: list[tuple[str, str, str, int]] = []
    async with (
        serving(tmp_path, env={**env, "LOG_LEVEL": "debug"}) as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        await served.listening()

        async def ask(method: str, route: str, path: str, **options: Any) -> Any:
            request_id = f"request-{len(asked)}"
            headers = {"X-Request-Id": request_id, **options.pop("headers", {})}
            async with session.request(method, path, headers=headers, **options) as answer:
                asked.append((request_id, method, route, answer.status))
                assert answer.headers["X-Request-Id"] == request_id
                # Metrics and the pages are no JSON.
                return await answer.json() if answer.content_type == "application/json" else None

        key = {"X-Service-Key": SERVICE_KEY, "X-App-Id": "tester"}
        bearer = {"Authorization": f"Bearer {token}"}
        granted = {"userId": "ann", "amount": 1000, "reason": "x", "referenceId": "r"}
        route = "/api/v1/internal/credits/grant"
        await ask("POST", route, route, json=granted, headers=key)
        gift = await ask(
            "POST",
            "/api/v1/gifts",
            "/api/v1/gifts",
            json={"totalCredits": 5, "message": "a message of a user"},
            headers=bearer,
        )
        code: str = gift["code"]
        body = {
            "userId": "ann",
            "amount": 1,
            "appId": "app",
            "description": "words of a user",
            "reason": "research",
            "referenceId": "other",
            "interval": "monthly",
            "totalCredits": 1,
            "packageId": package,
            "email": "ann@example.org",
            "reservationId": "0192f0c1-0000-7000-8000-000000000001",
            "idempotencyKey": None,
        }
        for method, route in declared_routes():
            path = filled(route, code)
            for headers in (
                {**key, **bearer},
                {},
                {"X-Service-Key": f"{SERVICE_KEY}x", "Authorization": f"Bearer {bad_token}"},
            ):
                sent = body if method == "POST" else None
                await ask(method, route, path, json=sent, headers=headers)
        event = json.dumps(
            {
                "id": "evt_1",
                "type": "payment_intent.succeeded",
                "created": 1,
                "data": {"object": {"id": "pi_1", "client_secret": "pi_1_secret_of_a_payment"}},
            }
        ).encode()
        route = "/api/v1/webhooks/stripe"
        signature = sign(event, WEBHOOK_SECRET)
        await ask("POST", route, route, data=event, headers={"Stripe-Signature": signature})
        await ask("POST", route, route, data=event, headers={"Stripe-Signature": "t=1,v1=0"})
        await ask("GET", "unmatched", f"/api/v1/giftz/{code}?token={token}")
        await ask("GET", "/api/v1/gifts/{code}", f"/api/v1/gifts/{code}?token={token}")
        served.process.terminate()
        assert await served.ended() == 0

    told = {
        line["request_id"]: (line["request_id"], line["method"], line["route"], line["status"])
        for line in served.lines
        if line.get("event") == "request"
    }
    assert [told.get(request_id) for request_id, *_ in asked] == asked
    assert {status for *_, status in asked} >= {200, 201, 400, 401, 404, 502}
    assert not [line for line in served.lines if line.get("level") == "error"]
    # A retry of it would refund twice, so it must be seen who sends such.
    (warned,) = [line for line in served.lines if "refund without" in line["event"]]
    assert (warned["level"], warned["app"]) == ("warning", "tester")
    for line in served.lines:
        assert line["time"].endswith("Z")
    written = served.written
    for secret in (
        token,
        bad_token,
        token.split(".")[1],
        SERVICE_KEY,
        "older-key-that-is-secret",
        STRIPE_KEY,
        WEBHOOK_SECRET,
        signature,
        "pi_1_secret_of_a_payment",
        code,
        code.lower(),
        env["DATABASE_URL"],
        env["DATABASE_URL"].split(":")[2].split("@")[0],
        "ann@example.org",
        "Ann Lee",
        "words of a user",
        "a message of a user",
    ):
        assert secret not in written, secret
