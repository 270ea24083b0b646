"""Tokens against a real JWKS on loopback, and service keys."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from cryptography.hazmat.primitives.asymmetric import rsa

from service import auth, logs
from service.auth import Authenticator, KeySet, KeySetError, read_key_set
from service.errors import ApiError
from service.keys import AUTHENTICATOR, CALLER, REQUEST_LOG, SERVICE_CALLER
from service.middleware import application as serving
from service.settings import Settings
from service.wire import Auth, Routes, respond
from tests.api.http_support import Client, Connect, Issuer, SigningKey, encode_part

SERVICE_KEYS = ("first-service-key", "second-service-key")
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def application(
    issuer: Issuer,
    *,
    jwks_url: str | None = None,
    clock: Callable[[], float] = time.monotonic,
    background: bool = True,
) -> web.Application:
    routes = Routes()

    @routes.get("/user", auth=Auth.USER)
    async def user(request: web.Request) -> web.Response:
        caller = request[CALLER]
        return respond(
            {
                "userId": caller.user_id,
                "email": caller.email,
                "emailVerified": caller.email_verified,
                "name": caller.name,
                "role": caller.role,
            }
        )

    @routes.get("/admin", auth=Auth.ADMIN)
    async def admin(request: web.Request) -> web.Response:
        return respond({"userId": request[CALLER].user_id})

    @routes.get("/service", auth=Auth.SERVICE)
    async def service(request: web.Request) -> web.Response:
        return respond({"app": request[SERVICE_CALLER].app_id})

    async def authenticator(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
            keys = KeySet(session, jwks_url or issuer.jwks_url, clock=clock)
            if background:
                await stack.enter_async_context(keys.running())
            app[AUTHENTICATOR] = Authenticator(keys, issuer=issuer.url, service_keys=SERVICE_KEYS)
            yield

    settings = {"MANA_ENV": "development", "MANA_SERVICE_KEY": ",".join(SERVICE_KEYS)}
    app = serving(Settings.from_env(settings), routes)
    app.cleanup_ctx.append(authenticator)
    return app


@pytest.fixture
async def client(connect: Connect, issuer: Issuer) -> Client:
    return await connect(application(issuer))


async def ask(client: Client, token: str | None, path: str = "/user") -> tuple[int, dict[str, Any]]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    answer = await client.get(path, headers=headers)
    body = await answer.json()
    if answer.status == 401:
        assert body["error"] == "unauthorized"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    if answer.status == 503:
        assert body["error"] == "unavailable"
        assert int(answer.headers["Retry-After"]) >= 1
    return answer.status, body


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
async def test_a_good_token(connect: Connect, issuer: Issuer, algorithm: str) -> None:
    issuer.keys = [SigningKey.make("k", algorithm)]
    client = await connect(application(issuer))
    token = issuer.token(
        email="a@example.org", email_verified=False, name="Ada", role="admin", aud=["mana", "x"]
    )
    status, body = await ask(client, token)
    assert status == 200
    assert body == {
        "userId": "user-1",
        "email": "a@example.org",
        "emailVerified": False,
        "name": "Ada",
        "role": "admin",
    }
    status, body = await ask(client, issuer.token())
    assert body == {
        "userId": "user-1",
        "email": None,
        "emailVerified": True,
        "name": None,
        "role": "user",
    }


@pytest.mark.parametrize(
    ("claims", "shown"),
    [
        ({"email": 5, "name": ["x"], "role": 7}, (None, True, None, "user")),
        ({"email": "a\0b", "name": "\ud800"}, (None, True, None, "user")),
        ({"email": "", "name": ""}, (None, True, None, "user")),
        ({"email_verified": True}, (None, True, None, "user")),
        ({"email_verified": "false"}, (None, False, None, "user")),
        ({"email_verified": 0}, (None, False, None, "user")),
    ],
)
async def test_odd_claims(
    client: Client, issuer: Issuer, claims: dict[str, Any], shown: tuple[object, ...]
) -> None:
    status, body = await ask(client, issuer.token(**claims))
    assert status == 200
    assert (body["email"], body["emailVerified"], body["name"], body["role"]) == shown


NOW = int(time.time())


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW - 600},
        {"exp": NOW - auth.LEEWAY_SECONDS - 1},
        {"exp": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"nbf": NOW + 600},
        {"nbf": "later"},
        {"iss": "https://elsewhere.example.org"},
        {"iss": None},
        {"iss": 7},
        {"aud": "other"},
        {"aud": ["other"]},
        {"aud": None},
        {"aud": {"mana": True}},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "."},
        {"sub": ".."},
        {"sub": "a b"},
        {"sub": "a/b"},
        {"sub": "a\0b"},
        {"sub": "\ud800"},
        {"sub": "x" * 129},
    ],
)
async def test_refused_claims(client: Client, issuer: Issuer, claims: dict[str, Any]) -> None:
    assert (await ask(client, issuer.token()))[0] == 200
    key = issuer.keys[0]
    status, body = await ask(client, sign(key, issuer.claims(**claims)))
    assert status == 401, body


def sign(key: SigningKey, claims: object, header: dict[str, Any] | None = None) -> str:
    """Sign whatever is given, where a library would refuse to."""
    head: dict[str, Any] = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"} | (header or {})
    if head["kid"] is None:
        del head["kid"]
    signed = f"{encode_part(head)}.{encode_part(claims)}"
    algorithm = jwt.get_algorithm_by_name(key.algorithm)
    signature = base64.urlsafe_b64encode(algorithm.sign(signed.encode(), key.private))
    return f"{signed}.{signature.rstrip(b'=').decode()}"


async def test_an_issue_time_in_the_future_does_not_matter(client: Client, issuer: Issuer) -> None:
    assert (await ask(client, issuer.token(iat=NOW + 3600)))[0] == 200


async def test_claims_that_are_no_object(client: Client, issuer: Issuer) -> None:
    assert (await ask(client, sign(issuer.keys[0], ["sub"])))[0] == 401


async def test_no_algorithm(client: Client, issuer: Issuer) -> None:
    unsigned = f"{encode_part({'alg': 'none'})}.{encode_part(issuer.claims())}."
    named = f"{encode_part({'alg': 'none', 'kid': 'first'})}.{encode_part(issuer.claims())}."
    for token in (unsigned, named, unsigned.replace("none", "None")):
        assert (await ask(client, token))[0] == 401


@pytest.mark.parametrize("algorithm", ["EdDSA", "RS256"])
async def test_hs256_signed_with_the_public_key(
    connect: Connect, issuer: Issuer, algorithm: str
) -> None:
    key = issuer.keys[0] = SigningKey.make("k", algorithm)
    client = await connect(application(issuer))
    assert (await ask(client, issuer.token()))[0] == 200
    raw = base64.urlsafe_b64decode(f"{key.jwk.get('x', key.jwk.get('n'))}==")
    for secret in (key.public_pem, raw, json.dumps(key.jwk).encode()):
        signed = f"{encode_part({'alg': 'HS256', 'kid': 'k'})}.{encode_part(issuer.claims())}"
        mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        token = f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
        assert (await ask(client, token))[0] == 401


async def test_wrongly_signed(client: Client, issuer: Issuer) -> None:
    other = SigningKey.make("first")
    assert (await ask(client, issuer.token(other)))[0] == 401
    token = issuer.token()
    assert (await ask(client, token[:-4] + "AAAA"))[0] == 401
    head, _, signature = token.split(".")
    forged = f"{head}.{encode_part(issuer.claims(sub='other'))}.{signature}"
    assert (await ask(client, forged))[0] == 401


async def test_the_algorithm_must_fit_the_key(connect: Connect, issuer: Issuer) -> None:
    ed, ec, rsa_key = (SigningKey.make(name, name) for name in ("EdDSA", "ES256", "RS256"))
    issuer.keys = [ed, ec, rsa_key]
    client = await connect(application(issuer))
    for key in issuer.keys:
        assert (await ask(client, issuer.token(key)))[0] == 200
        for other in issuer.keys:
            if other is not key:
                token = issuer.token(key, headers={"kid": other.kid})
                assert (await ask(client, token))[0] == 401
    for algorithm in ("RS512", "PS256", "ES256K", "ES384", "HS512", "", None, 5, ["EdDSA"]):
        token = sign(rsa_key, issuer.claims(), {"alg": algorithm})
        assert (await ask(client, token))[0] == 401


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer a b",
        "Bearer not-a-token",
        "Bearer a.b.c",
        "Bearer ...",
        "Bearer \u00e4.b.c",
        "Bearer " + encode_part({"alg": "EdDSA"}) + ".." * 3,
        "Bearer " + base64.urlsafe_b64encode(b"[" * 4000).decode() + ".e30.AA",
        "Bearer " + encode_part(["EdDSA"]) + ".e30.AA",
        "Bearer " + encode_part({"alg": "EdDSA", "kid": 5}) + ".e30.AA",
        "Bearer " + encode_part({"alg": "EdDSA", "kid": "first", "crit": ["x"]}) + ".e30.AA",
    ],
)
async def test_malformed(client: Client, header: str) -> None:
    answer = await client.get("/user", headers={"Authorization": header})
    assert answer.status == 401
    assert (await answer.json())["error"] == "unauthorized"


async def test_no_token_and_two_tokens(client: Client, issuer: Issuer) -> None:
    assert (await ask(client, None))[0] == 401
    token = issuer.token()
    answer = await client.get(
        "/user", headers=[("Authorization", f"Bearer {token}"), ("Authorization", "Bearer x")]
    )
    assert answer.status == 401
    answer = await client.get("/user", headers={"Authorization": f"bEARER  {token}"})
    assert answer.status == 200


async def test_admins(client: Client, issuer: Issuer) -> None:
    assert (await ask(client, issuer.token(role="admin"), "/admin"))[0] == 200
    for role in ("user", "Admin", None, ["admin"]):
        status, body = await ask(client, issuer.token(role=role), "/admin")
        assert status == 403
        assert body["error"] == "forbidden"
    assert (await ask(client, None, "/admin"))[0] == 401


async def test_a_token_without_kid(connect: Connect, issuer: Issuer) -> None:
    ed, ec = SigningKey.make("ed"), SigningKey.make("ec", "ES256")
    issuer.keys = [ed, ec]
    client = await connect(application(issuer))
    for key in issuer.keys:
        token = sign(key, issuer.claims(), {"kid": None})
        assert (await ask(client, token))[0] == 200
    issuer.keys = [ed, ec, SigningKey.make("ed-2")]
    client = await connect(application(issuer))
    assert (await ask(client, sign(ed, issuer.claims(), {"kid": None})))[0] == 401
    assert (await ask(client, issuer.token(ed)))[0] == 200


# The key set over time


async def test_unknown_keys_are_looked_for_at_most_once_in_30_s(
    connect: Connect, issuer: Issuer
) -> None:
    clock = Clock()
    client = await connect(application(issuer, clock=clock, background=False))
    assert (await ask(client, issuer.token()))[0] == 200
    assert issuer.fetches == 1
    stranger = SigningKey.make("stranger")
    for _ in range(5):
        assert (await ask(client, issuer.token(stranger)))[0] == 401
    assert issuer.fetches == 2
    clock.now += auth.UNKNOWN_KEY_SECONDS - 1
    assert (await ask(client, issuer.token(stranger)))[0] == 401
    assert issuer.fetches == 2
    clock.now += 1
    assert (await ask(client, issuer.token(stranger)))[0] == 401
    assert issuer.fetches == 3
    assert (await ask(client, issuer.token()))[0] == 200
    assert issuer.fetches == 3


async def test_rotated_keys(connect: Connect, issuer: Issuer) -> None:
    clock = Clock()
    client = await connect(application(issuer, clock=clock, background=False))
    old = issuer.keys[0]
    assert (await ask(client, issuer.token()))[0] == 200
    issuer.keys = [SigningKey.make("second"), old]
    assert (await ask(client, issuer.token()))[0] == 200
    assert (await ask(client, issuer.token(old)))[0] == 200
    issuer.keys = [SigningKey.make("third")]
    clock.now += auth.UNKNOWN_KEY_SECONDS
    assert (await ask(client, issuer.token()))[0] == 200
    assert (await ask(client, issuer.token(old)))[0] == 401
    assert issuer.fetches == 3


async def test_a_key_changed_under_its_name_is_refused_until_the_next_fetch(
    connect: Connect, issuer: Issuer
) -> None:
    client = await connect(application(issuer, clock=Clock(), background=False))
    assert (await ask(client, issuer.token()))[0] == 200
    issuer.keys = [SigningKey.make("first")]
    assert (await ask(client, issuer.token()))[0] == 401


async def test_concurrent_requests_share_one_fetch(connect: Connect, issuer: Issuer) -> None:
    go = asyncio.Event()

    async def held() -> web.StreamResponse:
        await go.wait()
        return web.Response(body=issuer.document())

    client = await connect(application(issuer, clock=Clock(), background=False))
    issuer.answer = held
    asking = [asyncio.create_task(ask(client, issuer.token())) for _ in range(20)]
    async with asyncio.timeout(30):
        while issuer.fetches == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    go.set()
    assert [status for status, _ in await asyncio.gather(*asking)] == [200] * 20
    assert issuer.fetches == 1


async def test_away_at_the_start(connect: Connect, issuer: Issuer) -> None:
    clock = Clock()

    async def away() -> web.StreamResponse:
        return web.Response(status=502, text="bad gateway")

    issuer.answer = away
    client = await connect(application(issuer, clock=clock, background=False))
    assert (await ask(client, issuer.token()))[0] == 503
    assert (await ask(client, issuer.token()))[0] == 503
    assert issuer.fetches == 1  # the second was told without asking again at once
    # What needs no key is told all the same.
    assert (await ask(client, "not-a-token"))[0] == 401
    assert (await client.get("/service", headers={"X-Service-Key": SERVICE_KEYS[0]})).status == 200
    issuer.answer = None
    clock.now += auth.FIRST_RETRY_SECONDS
    assert (await ask(client, issuer.token()))[0] == 200


async def test_nobody_there_at_the_start(connect: Connect, issuer: Issuer) -> None:
    client = await connect(application(issuer, jwks_url=NOBODY))
    assert (await ask(client, issuer.token()))[0] == 503


async def test_it_comes_by_itself_in_the_background(connect: Connect, issuer: Issuer) -> None:
    await connect(application(issuer))
    async with asyncio.timeout(30):
        while issuer.fetches == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_away_later(connect: Connect, issuer: Issuer) -> None:
    clock = Clock()

    async def away() -> web.StreamResponse:
        return web.Response(status=500)

    client = await connect(application(issuer, clock=clock, background=False))
    assert (await ask(client, issuer.token()))[0] == 200
    issuer.answer = away
    assert (await ask(client, issuer.token(SigningKey.make("stranger"))))[0] == 401
    assert issuer.fetches == 2
    assert (await ask(client, issuer.token()))[0] == 200
    clock.now += 1_000_000
    assert (await ask(client, issuer.token()))[0] == 200


@pytest.mark.parametrize("known", [False, True])
async def test_slow(
    connect: Connect, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    assert auth.FETCH_SECONDS < auth.WAIT_SECONDS < 5
    monkeypatch.setattr(auth, "FETCH_SECONDS", 0.2)
    monkeypatch.setattr(auth, "WAIT_SECONDS", 0.3)
    release = asyncio.Event()

    async def slow() -> web.StreamResponse:
        await release.wait()
        return web.Response(status=500)

    client = await connect(application(issuer, clock=Clock(), background=False))
    if known:
        assert (await ask(client, issuer.token()))[0] == 200
    issuer.answer = slow
    try:
        async with asyncio.timeout(30):
            stranger = issuer.token(SigningKey.make("stranger"))
            assert (await ask(client, stranger))[0] == (401 if known else 503)
            assert (await ask(client, issuer.token()))[0] == (200 if known else 503)
    finally:
        release.set()


async def test_slow_bytes_are_bounded_as_a_whole(
    connect: Connect, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that trickles in keeps every single read short, and is given up all the same."""
    monkeypatch.setattr(auth, "FETCH_SECONDS", 0.5)

    async def application_of_trickles(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(b" ")
                await asyncio.sleep(0.01)
        return answer

    app = web.Application()
    app.router.add_get("/keys", application_of_trickles)
    trickling = await connect(app)
    client = await connect(
        application(issuer, jwks_url=str(trickling.make_url("/keys")), background=False)
    )
    async with asyncio.timeout(30):
        assert (await ask(client, issuer.token()))[0] == 503


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>nginx</html>",
        b"[]",
        b"{}",
        b'{"keys": null}',
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": ["x"]}',
        b'{"keys": [{}]}',
        b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}]}',
        b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}',
        b"[" * 100_000,
        b'{"keys": [' + b" " * auth.KEY_SET_MAX_BYTES + b"]}",
        b"\xff\xfe",
    ],
)
async def test_what_is_no_key_set_does_not_replace_one(
    connect: Connect, issuer: Issuer, document: bytes
) -> None:
    async def broken() -> web.StreamResponse:
        return web.Response(body=document, content_type="application/json")

    client = await connect(application(issuer, clock=Clock(), background=False))
    assert (await ask(client, issuer.token()))[0] == 200
    issuer.answer = broken
    assert (await ask(client, issuer.token(SigningKey.make("stranger"))))[0] == 401
    assert issuer.fetches == 2
    assert (await ask(client, issuer.token()))[0] == 200


def test_bad_keys_within_a_set_are_skipped() -> None:
    good = SigningKey.make("good")
    weak = SigningKey("weak", "RS256", rsa.generate_private_key(65537, 1024))
    bad: list[dict[str, Any]] = [
        {},
        {"kty": ["OKP"]},
        {"kty": "OKP", "crv": {"x": 1}},
        {"kty": "OKP", "crv": "X25519", "x": good.jwk["x"]},
        {"kty": "OKP", "crv": "Ed25519", "kid": "short", "x": "AA"},
        {"kty": "EC", "crv": "P-256", "kid": "off", "x": "AQ", "y": "AQ"},
        {"kty": "EC", "crv": "P-384", "kid": "large", "x": "AQ", "y": "AQ"},
        {"kty": "oct", "kid": "good", "k": "c2VjcmV0"},
        weak.jwk,
        good.jwk | {"kid": "enc", "use": "enc"},
        good.jwk | {"kid": "alg", "alg": "HS256"},
        good.jwk | {"kid": 5},
    ]
    document = json.dumps({"keys": [*bad, good.jwk]}).encode()
    assert [key.kid for key in read_key_set(document)] == ["good"]
    with pytest.raises(KeySetError):
        read_key_set(json.dumps({"keys": bad}).encode())


# Service keys


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Service-Key": SERVICE_KEYS[0]}, 200),
        ({"X-Service-Key": SERVICE_KEYS[1], "X-App-Id": "research"}, 200),
        ({"X-Service-Key": SERVICE_KEYS[0], "X-App-Id": ""}, 200),
        ({}, 401),
        ({"X-Service-Key": ""}, 401),
        ({"X-Service-Key": "first-service-ke"}, 401),
        ({"X-Service-Key": "first-service-key,second-service-key"}, 401),
        ({"X-Service-Key": "schl\u00fcssel"}, 401),
        ({"X-Service-Key": "\udce4"}, 401),
        ({"Authorization": f"Bearer {SERVICE_KEYS[0]}"}, 401),
        ({"X-Service-Key": SERVICE_KEYS[0], "X-App-Id": "x" * 65}, 400),
    ],
)
async def test_service_keys(client: Client, headers: dict[str, str], status: int) -> None:
    sent = [
        (name, value.encode(errors="surrogateescape").decode("latin-1"))
        for name, value in headers.items()
    ]
    answer = await client.get("/service", headers=sent)
    body = await answer.json()
    assert answer.status == status
    if status == 200:
        assert body == {"app": headers.get("X-App-Id") or None}
    else:
        assert body["error"] == {400: "invalid_request", 401: "unauthorized"}[status]


async def test_a_users_token_is_no_service_key(client: Client, issuer: Issuer) -> None:
    token = issuer.token(role="admin")
    answer = await client.get("/service", headers={"Authorization": f"Bearer {token}"})
    assert answer.status == 401
    answer = await client.get("/user", headers={"X-Service-Key": SERVICE_KEYS[0]})
    assert answer.status == 401


# Tokens that are remembered


@contextlib.asynccontextmanager
async def remembering(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, *, tokens_max: int = 10
) -> AsyncIterator[tuple[Callable[[str], Awaitable[str]], KeySet, list[str], Clock]]:
    """Who shows a token is told its user; with the key set, what was verified, and a clock."""
    verified: list[str] = []
    decode = jwt.decode

    def counting(token: str, *arguments: Any, **more: Any) -> Any:
        verified.append(token)
        return decode(token, *arguments, **more)

    monkeypatch.setattr(jwt, "decode", counting)
    clock = Clock()
    clock.now = time.time()
    async with aiohttp.ClientSession() as session:
        keys = KeySet(session, issuer.jwks_url)
        await keys.load()
        authenticator = Authenticator(
            keys, issuer=issuer.url, service_keys=(), tokens_max=tokens_max, clock=clock
        )

        async def show(token: str) -> str:
            request = make_mocked_request("GET", "/", {"Authorization": f"Bearer {token}"})
            return (await authenticator.user(request)).user_id

        yield show, keys, verified, clock


async def test_a_token_is_verified_once(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with remembering(issuer, monkeypatch) as (show, _, verified, _):
        one, other = issuer.token(), issuer.token(sub="user-2")
        assert [await show(token) for token in (one, other, one, other)] == ["user-1", "user-2"] * 2
        assert verified == [one, other]


async def test_many_new_tokens_at_once_leave_room_for_others(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with remembering(issuer, monkeypatch, tokens_max=100) as (show, _, verified, _):
        users = [f"user-{number}" for number in range(4 * auth.VERIFIED_AT_ONCE)]
        shown = asyncio.gather(*(show(issuer.token(sub=user)) for user in users))
        in_rounds = []
        while not shown.done():
            before = len(verified)
            await asyncio.sleep(0)
            in_rounds.append(len(verified) - before)
        assert await shown == users
        assert max(in_rounds) == auth.VERIFIED_AT_ONCE
        assert sum(in_rounds) == len(users)


async def test_what_is_refused_is_not_remembered(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with remembering(issuer, monkeypatch) as (show, _, verified, _):
        wrong = issuer.token(aud="others")
        for _ in range(2):
            with pytest.raises(ApiError):
                await show(wrong)
        assert verified == [wrong, wrong]


async def test_a_remembered_token_ends_when_it_expires(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with remembering(issuer, monkeypatch) as (show, _, verified, clock):
        token = issuer.token(exp=int(time.time()) + 60)
        await show(token)
        clock.now += 60
        await show(token)
        assert len(verified) == 1
        clock.now += auth.LEEWAY_SECONDS + 1
        await show(token)  # by the clock of the tests alone it has expired
        assert len(verified) == 2


async def test_a_remembered_token_ends_with_its_key(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with remembering(issuer, monkeypatch) as (show, keys, verified, _):
        token = issuer.token()
        await show(token)
        await keys.load()
        await show(token)
        assert len(verified) == 1
        # Another key of the same name is another key.
        issuer.keys = [SigningKey.make(issuer.keys[0].kid, "EdDSA")]
        await keys.load()
        with pytest.raises(ApiError):
            await show(token)


async def test_only_so_many_tokens_are_remembered(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with remembering(issuer, monkeypatch, tokens_max=2) as (show, _, verified, _):
        first, second, third = (issuer.token(sub=f"user-{number}") for number in range(3))
        for token in (first, second, first, third, first):
            await show(token)
        assert verified == [first, second, third]
        await show(second)
        assert verified == [first, second, third, second]


async def test_the_line_of_a_request_holds_no_secret_that_its_client_sent(
    connect: Connect, issuer: Issuer
) -> None:
    written = io.StringIO()
    app = application(issuer)
    write: logs.WriteRequests = logs.RequestLog(written)
    app[REQUEST_LOG] = write
    client = await connect(app)
    token = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"
    for name in (f"{SERVICE_KEYS[0]} 1", "research"):
        answer = await client.get(
            "/service",
            headers={"X-Service-Key": SERVICE_KEYS[0], "X-App-Id": name, "X-Request-Id": token},
        )
        assert answer.headers["X-Request-Id"] == token
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["app"] for line in lines] == ["[hidden] 1", "research"]
    assert {
        tuple(line[name] for name in ("method", "route", "status", "caller", "request_id", "event"))
        for line in lines
    } == {("GET", "/service", 200, "service", "[hidden]", "request")}
    assert all(line["ms"] == round(line["ms"], 1) for line in lines)
    assert all(datetime.fromisoformat(line["time"]).tzinfo == UTC for line in lines)
