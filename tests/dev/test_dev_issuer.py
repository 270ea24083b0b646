import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer

from service.dev.issuer import SigningKey, create_app, mint
from service.dev.ports import free_port, wait_until_listening


@pytest.fixture
async def client() -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(create_app(SigningKey.generate()))) as client:
        yield client


def verify(token: str, jwks: dict[str, Any], issuer: str) -> dict[str, Any]:
    kid = jwt.get_unverified_header(token)["kid"]
    key = jwt.PyJWKSet.from_dict(jwks)[kid]
    claims: dict[str, Any] = jwt.decode(
        token, key.key, algorithms=["EdDSA"], audience="mana", issuer=issuer
    )
    return claims


async def test_a_token_is_verified_by_the_key_set(client: TestClient[Any, Any]) -> None:
    issuer = str(client.make_url("")).rstrip("/")
    jwks = await (await client.get("/api/auth/jwks")).json()
    wanted = {
        "sub": "user-1",
        "email": "a@example.org",
        "name": "Ada",
        "role": "admin",
        "email_verified": False,
        "expiresIn": 60,
    }
    answer = await client.post("/api/auth/dev-token", json=wanted)
    claims = verify((await answer.json())["token"], jwks, issuer)
    assert {name: claims[name] for name in wanted if name != "expiresIn"} == {
        name: value for name, value in wanted.items() if name != "expiresIn"
    }
    assert claims["exp"] - claims["iat"] == 60


async def test_what_is_not_asked_for_is_left_out(client: TestClient[Any, Any]) -> None:
    answer = await client.post("/api/auth/dev-token", json={"sub": "user-1"})
    claims = jwt.decode((await answer.json())["token"], options={"verify_signature": False})
    assert set(claims) == {"iss", "aud", "sub", "iat", "exp"}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"sub": 1}', b'{"sub": "u", "expiresIn": 0}']
)
async def test_a_bad_request_is_refused(client: TestClient[Any, Any], body: bytes) -> None:
    answer = await client.post("/api/auth/dev-token", data=body)
    assert answer.status == 400


def test_the_key_is_kept_and_private(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    key = SigningKey.load_or_create(path)
    assert path.stat().st_mode & 0o077 == 0
    again = SigningKey.load_or_create(path)
    assert again.jwks() == key.jwks()
    assert SigningKey.generate().jwks() != key.jwks()


def test_claims_replace_and_none_leaves_out() -> None:
    token = mint(SigningKey.generate(), sub=None, issuer="http://a", exp=None, nbf=5)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert set(claims) == {"iss", "aud", "iat", "nbf"}


def start_issuer(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "service.dev.issuer", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )


async def test_the_process_keeps_its_key_and_ends_with_its_parent(tmp_path: Path) -> None:
    port = free_port()
    arguments = ["--port", str(port), "--key-file", str(tmp_path / "key"), "--exit-with-parent"]
    key_sets = []
    for _ in range(2):
        with start_issuer(arguments) as process:
            assert wait_until_listening(port, time.monotonic() + 60)
            async with ClientSession(f"http://localhost:{port}") as session:
                async with session.get("/api/auth/jwks") as answer:
                    key_sets.append(await answer.json())
                async with session.post("/api/auth/dev-token", json={"sub": "u"}) as answer:
                    token = (await answer.json())["token"]
            assert verify(token, key_sets[-1], f"http://localhost:{port}")["sub"] == "u"
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(60) == 0
    assert key_sets[0] == key_sets[1]
