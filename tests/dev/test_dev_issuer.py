import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import ClientResponse, ClientSession, CookieJar
from aiohttp.test_utils import TestClient, TestServer

from service.dev.issuer import (
    SESSION_LIFETIME,
    TOKEN_LIFETIME,
    SigningKey,
    cookie_name,
    create_app,
    mint,
    open_session,
    read_session,
)
from service.dev.login import (
    DEMO_USERS,
    Person,
    is_same_site,
    origin_of,
    preferred_language,
)
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


APP = "http://127.0.0.1:5173"
ELSEWHERE = "https://app.example.org"


@dataclass(frozen=True)
class Door:
    """An issuer that people sign in at, and a browser of sorts in front of it."""

    client: TestClient[Any, Any]
    key: SigningKey

    @property
    def origin(self) -> str:
        return str(self.client.make_url("")).rstrip("/")

    async def post(self, origin: str | None = None, **form: str) -> ClientResponse:
        headers = {} if origin is None else {"Origin": origin}
        return await self.client.post("/login", data=form, headers=headers, allow_redirects=False)

    async def token(self) -> ClientResponse:
        return await self.client.get("/api/auth/token", headers={"Origin": APP})

    async def claims(self) -> dict[str, Any]:
        """What the token says that the session is answered; verified as the service does."""
        answer = await self.token()
        assert answer.status == 200
        return verify((await answer.json())["token"], self.key.jwks(), self.origin)


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    key = SigningKey.generate()
    app = create_app(key, origins=(APP, ELSEWHERE))
    # The jar keeps no cookie of an address otherwise.
    client = TestClient(TestServer(app), cookie_jar=CookieJar(unsafe=True))
    async with client:
        yield Door(client, key)


async def test_a_session_is_answered_tokens(door: Door) -> None:
    entered = await door.post(person="ann", redirectTo=f"{APP}/gifts?x=1#top")
    assert entered.status == 303
    assert entered.headers["Location"] == f"{APP}/gifts?x=1#top"
    cookie = entered.cookies[cookie_name(door.key)]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    assert cookie["max-age"] == str(SESSION_LIFETIME)

    claims = await door.claims()
    assert claims["exp"] - claims["iat"] == TOKEN_LIFETIME
    assert {name: claims[name] for name in ("sub", "name", "email", "email_verified", "role")} == {
        "sub": "ann",
        "name": "Ann Example",
        "email": "ann@example.org",
        "email_verified": True,
        "role": "user",
    }


async def test_everybody_on_the_page_can_be_signed_in(door: Door) -> None:
    page = await (await door.client.get("/login")).text()
    roles = {}
    for user in DEMO_USERS:
        assert f'value="{user.person.sub}"' in page
        assert (await door.post(person=user.person.sub)).status == 303
        claims = await door.claims()
        roles[claims["sub"]] = claims["role"]
    assert roles.pop("support") == "admin"
    assert set(roles.values()) == {"user"}


async def test_somebody_else_is_who_the_form_says(door: Door) -> None:
    assert (await door.post(sub=" u-1 ", name="Zoë", role="admin")).status == 303
    claims = await door.claims()
    assert (claims["sub"], claims["name"], claims["role"]) == ("u-1", "Zoë", "admin")
    assert claims["email_verified"] is False
    assert "email" not in claims

    form = {"sub": "u-2", "email": "u@example.org", "email_verified": "true"}
    assert (await door.post(**form)).status == 303
    claims = await door.claims()
    assert (claims["email"], claims["email_verified"]) == ("u@example.org", True)
    assert (claims["role"], "name" in claims) == ("user", False)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"sub": ""},
        {"sub": "a b"},
        {"sub": ".."},
        {"sub": "u" * 129},
        {"sub": "u", "name": "n" * 201},
        {"sub": "u", "email": "a@example.org\r\nx"},
        {"person": "nobody"},
    ],
)
async def test_a_form_that_names_nobody_is_shown_again(door: Door, form: dict[str, str]) -> None:
    answer = await door.post(**form, redirectTo=f"{APP}/")
    assert answer.status == 400
    assert not answer.cookies
    assert 'role="alert"' in await answer.text()
    assert (await door.token()).status == 401


async def test_what_was_entered_is_shown_as_text(door: Door) -> None:
    evil = '"><script>alert(1)</script>'
    answer = await door.post(sub="a b", name=evil, redirectTo=f"{APP}/?q={evil}")
    page = await answer.text()
    assert answer.status == 400
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 4
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'self';")
    assert "unsafe" not in policy


async def test_without_a_session_there_is_no_token(door: Door) -> None:
    answer = await door.token()
    assert answer.status == 401
    assert await answer.json() == {"message": "Not signed in"}


async def test_a_session_of_another_kind_is_none(door: Door) -> None:
    person = Person(sub="ann")
    forged = [
        "",
        "x",
        open_session(SigningKey.generate(), person, door.origin),
        # A token as services take it, and a session that has ended.
        mint(door.key, sub="ann", issuer=door.origin),
        mint(door.key, sub="ann", issuer=door.origin, audience="mana-session", expires_in=-1),
        mint(door.key, sub=None, issuer=door.origin, audience="mana-session"),
    ]
    assert [read_session(door.key, one) for one in forged] == [None] * len(forged)
    session = open_session(door.key, person, door.origin)
    assert read_session(door.key, session) == person
    with pytest.raises(jwt.InvalidAudienceError):
        verify(session, door.key.jwks(), door.origin)


async def test_signing_out_ends_the_session(door: Door) -> None:
    await door.post(person="ann")
    foreign = await door.client.post(
        "/api/auth/sign-out", headers={"Origin": "https://evil.example"}
    )
    assert foreign.status == 403
    assert (await door.token()).status == 200
    answer = await door.client.post("/api/auth/sign-out", headers={"Origin": APP})
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Origin"] == APP
    assert (await door.token()).status == 401


@pytest.mark.parametrize(
    "back_to",
    [
        "https://evil.example/",
        f"{APP}.evil.example/",
        f"{APP}@evil.example/",
        f"{APP}\\@evil.example/",
        "http://127.0.0.1:5174/",
        "https://127.0.0.1:5173/",
        "//evil.example/",
        "/gifts",
        "javascript:alert(1)",
        f"{APP}/\r\nSet-Cookie: a=b",
        "http://[/",
        "http://127.0.0.1:x/",
    ],
)
async def test_nobody_is_sent_elsewhere(door: Door, back_to: str) -> None:
    shown = await door.client.get("/login", params={"redirectTo": back_to})
    entered = await door.post(person="ann", redirectTo=back_to)
    for answer in (shown, entered):
        assert answer.status == 400
        assert not answer.cookies
        assert "Location" not in answer.headers
        assert "CORS_ORIGINS" in await answer.text()


async def test_where_the_session_would_be_unknown_nobody_is_sent(door: Door) -> None:
    answer = await door.post(person="ann", redirectTo=f"{ELSEWHERE}/")
    assert answer.status == 400
    assert not answer.cookies
    assert "another site" in await answer.text()


async def test_another_site_cannot_sign_anybody_in(door: Door) -> None:
    for origin in ("https://evil.example", APP, "null"):
        answer = await door.post(origin, person="ann")
        assert answer.status == 403
        assert not answer.cookies
    assert (await door.post(door.origin, person="ann")).status == 303


async def test_without_an_address_one_comes_to_the_service(door: Door) -> None:
    assert (await door.post(person="ann")).headers["Location"] == f"{APP}/"


async def test_only_the_pages_of_the_service_and_its_apps_read_a_token(door: Door) -> None:
    await door.post(person="ann")
    asked = {"Access-Control-Request-Method": "GET"}
    for origin, allowed in ((APP, APP), (ELSEWHERE, ELSEWHERE), ("https://evil.example", None)):
        sent = {"Origin": origin}
        preflight = await door.client.options("/api/auth/token", headers={**sent, **asked})
        assert preflight.status == 204
        answer = await door.client.get("/api/auth/token", headers=sent)
        for one in (preflight, answer):
            assert one.headers.get("Access-Control-Allow-Origin") == allowed
            assert one.headers.get("Access-Control-Allow-Credentials") == (allowed and "true")
            assert "Origin" in one.headers["Vary"]
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("en-GB,en;q=0.9,de;q=0.8", "en"),
        ("fr,de;q=0.5", "de"),
        ("fr", "en"),
        ("de;q=0", "en"),
        ("de;q=x, en;q=0.5", "de"),
    ],
)
async def test_the_page_speaks_the_language_of_the_browser(
    door: Door, accept: str, language: str
) -> None:
    assert preferred_language(accept) == language
    answer = await door.client.get("/login", headers={"Accept-Language": accept})
    assert f'<html lang="{language}">' in await answer.text()
    assert answer.headers["Content-Language"] == language


def test_an_origin_is_as_browsers_write_it() -> None:
    assert origin_of("HTTP://LocalHost:80/x?y#z") == "http://localhost"
    assert origin_of("https://[::1]:3061/") == "https://[::1]:3061"
    assert origin_of("http://a b/") is None
    assert is_same_site("http://localhost:1", "http://localhost:2")
    assert not is_same_site("http://localhost:1", "http://127.0.0.1:1")
    assert not is_same_site("http://localhost", "https://localhost")


async def test_a_restarted_process_knows_who_was_signed_in(tmp_path: Path) -> None:
    port, app = free_port(), f"http://localhost:{free_port()}"
    arguments = ["--port", str(port), "--key-file", str(tmp_path / "key"), "--exit-with-parent"]
    async with ClientSession(f"http://localhost:{port}") as session:
        for first in (True, False):
            with start_issuer([*arguments, "--origin", "http://a.example", "--origin", app]) as one:
                assert wait_until_listening(port, time.monotonic() + 60)
                if first:
                    form = {"person": "ben", "redirectTo": f"{app}/"}
                    async with session.post("/login", data=form, allow_redirects=False) as answer:
                        assert answer.status == 303
                async with session.get("/api/auth/token") as answer:
                    assert answer.status == 200
                assert one.stdin is not None
                one.stdin.close()
                assert one.wait(60) == 0
