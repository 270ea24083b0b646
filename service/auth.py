"""Who is calling: users by the auth service's tokens, services by the service key."""

import asyncio
import contextlib
import hashlib
import hmac
import random
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import jwt
import msgspec
import structlog
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from service import errors
from service.ids import is_user_id
from service.keys import Caller, ServiceCaller

ALGORITHMS: Final = ("EdDSA", "ES256", "RS256")
AUDIENCE: Final = "mana"
LEEWAY_SECONDS: Final = 5
"""What two clocks kept by NTP differ at worst; more would lengthen the life of expired tokens."""

FETCH_SECONDS: Final = 4.0
"""For one fetch of the key set, from connecting to the last byte."""
WAIT_SECONDS: Final = 4.5
"""What one request waits for keys, below the 5 s that clients are promised."""
REFRESH_SECONDS: Final = 300.0
RETRY_MAX_SECONDS: Final = 15.0
UNKNOWN_KEY_SECONDS: Final = 30.0
"""At most one fetch in this time because of an unknown `kid`, which anybody can send."""
FIRST_RETRY_SECONDS: Final = 1.0
"""Before a first set was had: at most one fetch in this time because of requests."""
KEY_SET_MAX_BYTES: Final = 256 * 1024
RSA_MIN_BITS: Final = 2048
TOKENS_MAX: Final = 10_000
"""Verified tokens that one process remembers, some hundred bytes each."""
VERIFIED_AT_ONCE: Final = 16
"""Tokens in one round of the event loop: each takes some 0.2 ms, and a hundred that are shown for
the first time at once are not to hold up the others."""
APP_ID_MAX: Final = 64
APP_ID_PATTERN: Final = r"^[ -~]*$"
"""Printable ASCII: what a header may hold beyond that, each client and proxy reads its own way."""

_log = structlog.get_logger(__name__)

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey


@dataclass(frozen=True, slots=True)
class Key:
    """A key that may sign tokens, with the one algorithm it may sign them by."""

    kid: str | None
    algorithm: str
    public: PublicKey


class KeySetError(Exception):
    """What was fetched is not a key set; the message holds nothing of it."""


class _Document(msgspec.Struct):
    keys: list[dict[str, Any]]


def read_key_set(document: bytes) -> tuple[Key, ...]:
    """The usable keys of a JWKS document; raises KeySetError when there is none.

    A key of another kind or use, or a broken one, is left out and does not spoil the others.
    """
    try:
        entries = msgspec.json.decode(document, type=_Document).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise KeySetError("not a JWKS document") from error
    keys = tuple(key for entry in entries if (key := _read_key(entry)) is not None)
    if not keys:
        raise KeySetError("no usable key")
    return keys


def _read_key(entry: Mapping[str, Any]) -> Key | None:
    kind, curve, kid = entry.get("kty"), entry.get("crv"), entry.get("kid")
    algorithm = {
        ("OKP", "Ed25519"): "EdDSA",
        ("EC", "P-256"): "ES256",
        ("RSA", None): "RS256",
    }.get((kind, curve) if isinstance(kind, str) and isinstance(curve, str | None) else ("", None))
    if algorithm is None or not isinstance(kid, str | None):
        return None
    if entry.get("alg") not in (None, algorithm):
        return None
    if entry.get("use") not in (None, "sig"):
        return None
    # The public half alone, so that a set which leaks private keys is not taken for more.
    public = {name: entry[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in entry}
    try:
        key = jwt.PyJWK(public, algorithm=algorithm).key
    except Exception:  # whatever is wrong with it, this key is not used
        return None
    match key:
        case Ed25519PublicKey():
            return Key(kid, algorithm, key)
        case EllipticCurvePublicKey(curve=SECP256R1()):
            return Key(kid, algorithm, key)
        case RSAPublicKey(key_size=size) if size >= RSA_MIN_BITS:
            return Key(kid, algorithm, key)
        case _:
            return None


class KeySet:
    """The auth service's keys: fetched in the background, the last good set kept.

    Use as an async context manager. One fetch is under way at a time, and all who wait share it.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._url = url
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._fetching: asyncio.Task[bool] | None = None
        self._tried_at = float("-inf")
        self._searched_at = float("-inf")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["KeySet"]:
        """Keep the set fresh as long as the context lasts."""
        refreshing = asyncio.create_task(self._refresh(), name="jwks-refresh")
        try:
            yield self
        finally:
            for task in (refreshing, self._fetching):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

    def __contains__(self, key: Key) -> bool:
        return key in self._keys

    async def load(self) -> int:
        """Fetch the set now; how many usable keys there are."""
        await self._fetch()
        return len(self._keys)

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key a token names, or None.

        Waits for a fetch of at most `WAIT_SECONDS`; raises UnavailableError when no set was
        ever had.
        """
        key = self._look(kid, algorithm)
        if key is not None:
            return key
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await self._search(kid, algorithm)
        except TimeoutError:
            pass
        if not self._keys:
            raise _no_keys()
        return None

    async def _search(self, kid: str | None, algorithm: str) -> Key | None:
        if self._fetching is not None or (
            not self._keys and self._clock() - self._tried_at >= FIRST_RETRY_SECONDS
        ):
            await self._fetch()
        if not self._keys:
            raise _no_keys()
        key = self._look(kid, algorithm)
        if key is None and self._clock() - self._searched_at >= UNKNOWN_KEY_SECONDS:
            self._searched_at = self._clock()
            await self._fetch()
            key = self._look(kid, algorithm)
        elif key is None and self._fetching is not None:
            # Somebody else is asking already, perhaps for the same new key.
            await self._fetch()
            key = self._look(kid, algorithm)
        return key

    def _look(self, kid: str | None, algorithm: str) -> Key | None:
        fitting = [key for key in self._keys if key.algorithm == algorithm]
        if kid is not None:
            return next((key for key in fitting if key.kid == kid), None)
        # Without a name, only where there is nothing to choose.
        return fitting[0] if len(fitting) == 1 else None

    async def _fetch(self) -> bool:
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch_once(), name="jwks-fetch")
            self._fetching.add_done_callback(self._fetched)
        # Who stops waiting does not stop the fetch, which is everybody's.
        return await asyncio.shield(self._fetching)

    def _fetched(self, task: "asyncio.Task[bool]") -> None:
        self._fetching = None

    async def _fetch_once(self) -> bool:
        try:
            keys = read_key_set(await self._download())
        except Exception as error:  # whatever it is, the last good set stays
            _log.warning("the key set could not be fetched", cause=type(error).__name__)
            return False
        finally:
            self._tried_at = self._clock()
        # A key that stays is the same object, so that it is known at a glance.
        self._keys = tuple(next((old for old in self._keys if old == key), key) for key in keys)
        return True

    async def _download(self) -> bytes:
        async with self._session.get(
            self._url,
            timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
            headers={"Accept": "application/json"},
            max_redirects=3,
        ) as answer:
            if answer.status != 200:
                raise KeySetError(f"status {answer.status}")
            document = bytearray()
            async for chunk in answer.content.iter_any():
                document += chunk
                if len(document) > KEY_SET_MAX_BYTES:
                    raise KeySetError("too large")
        return bytes(document)

    async def _refresh(self) -> None:
        failures = 0
        while True:
            failures = 0 if await self._fetch() else failures + 1
            pause = min(2.0 ** (failures - 1), RETRY_MAX_SECONDS) if failures else REFRESH_SECONDS
            # Spread out, so that many processes do not ask at the same moment.
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))  # noqa: S311 - not a secret


@dataclass(frozen=True, slots=True)
class _Verified:
    """What a token was found to say, by which key, and until when (seconds since 1970)."""

    caller: Caller
    key: Key
    expires: float


class Authenticator:
    """Verifies what callers show. Every refusal is an ApiError that tells no secret.

    A verified token is remembered until it expires, its key leaves the set, or more than
    `tokens_max` others were shown since.
    """

    def __init__(
        self,
        keys: KeySet,
        *,
        issuer: str,
        service_keys: Sequence[str],
        tokens_max: int = TOKENS_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._clock = clock
        self._tokens_max = tokens_max
        # By digest, since tokens are long; the one that was shown longest ago comes first.
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._in_this_round = 0
        self._next_round = asyncio.Event()
        self._service_keys = tuple(key.encode() for key in service_keys)

    async def user(self, request: web.Request) -> Caller:
        """The user of the request's bearer token; 401, or 503 before a key set was ever had."""
        token = _bearer(request)
        digest = _digest(token.encode())
        known = self._verified.get(digest)
        if known is not None:
            if self._clock() < known.expires and known.key in self._keys:
                self._verified.move_to_end(digest)
                return known.caller
            del self._verified[digest]
        verified = await self._verify(token)
        self._verified[digest] = verified
        if len(self._verified) > self._tokens_max:
            self._verified.popitem(last=False)
        return verified.caller

    async def _turn(self) -> None:
        """Wait for a round of the event loop that has room for one more verification."""
        while self._in_this_round >= VERIFIED_AT_ONCE:
            await self._next_round.wait()
        if self._in_this_round == 0:
            asyncio.get_running_loop().call_soon(self._begin_round)
        self._in_this_round += 1

    def _begin_round(self) -> None:
        self._in_this_round = 0
        begun, self._next_round = self._next_round, asyncio.Event()
        begun.set()

    async def _verify(self, token: str) -> _Verified:
        await self._turn()
        try:
            header = jwt.get_unverified_header(token)
        except Exception as error:  # anybody can send anything here
            raise _refused("The token is malformed") from error
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS or not isinstance(kid, str | None):
            raise _refused("The token is signed in a way that is not accepted")
        key = await self._keys.find(kid, algorithm)
        if key is None:
            raise _refused("The token is signed by an unknown key")
        try:
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[key.algorithm],
                audience=AUDIENCE,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                # `iat` says when, not from when: `nbf` and `exp` bound a token.
                options={"require": ["exp", "sub", "iss", "aud"], "verify_iat": False},
            )
        except jwt.ExpiredSignatureError as error:
            raise _refused("The token has expired") from error
        except Exception as error:  # whatever is wrong with it, it is refused
            raise _refused("The token is not valid") from error
        return _Verified(_caller(claims), key, int(claims["exp"]) + LEEWAY_SECONDS)

    def service(self, request: web.Request) -> ServiceCaller:
        """The service that shows a service key; 401, or 400 for an impossible `X-App-Id`."""
        sent = request.headers.getall("X-Service-Key", [])
        given = sent[0].encode(errors="surrogateescape") if len(sent) == 1 else b""
        if not self._is_service_key(given):
            raise errors.unauthorized("The service key is missing or wrong")
        app_id = request.headers.get("X-App-Id") or None
        if app_id is not None and (
            len(app_id) > APP_ID_MAX or not re.fullmatch(APP_ID_PATTERN, app_id)
        ):
            raise errors.invalid("X-App-Id", f"must be 1 to {APP_ID_MAX} printable characters")
        return ServiceCaller(app_id)

    def _is_service_key(self, given: bytes) -> bool:
        # With each of them, however soon one fits: the time tells nothing of the keys.
        found = False
        for key in self._service_keys:
            found |= hmac.compare_digest(key, given)
        return found


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _bearer(request: web.Request) -> str:
    sent = request.headers.getall("Authorization", [])
    if not sent:
        raise _refused("A token is required")
    scheme, _, token = sent[0].partition(" ")
    token = token.strip()
    if len(sent) > 1 or scheme.lower() != "bearer" or not token or not token.isascii():
        raise _refused("The Authorization header must be: Bearer <token>")
    return token


def _caller(claims: Mapping[str, Any]) -> Caller:
    user_id = claims.get("sub")
    if not isinstance(user_id, str) or not is_user_id(user_id):
        raise _refused("The token names no valid user")
    role = claims.get("role")
    return Caller(
        user_id=user_id,
        email=_text(claims.get("email")),
        email_verified=claims.get("email_verified") in (None, True, "true"),
        name=_text(claims.get("name")),
        role=role if isinstance(role, str) else "user",
    )


def _text(claim: object) -> str | None:
    """A claim that the database can store, or None."""
    if not isinstance(claim, str) or not claim or "\0" in claim:
        return None
    try:
        claim.encode()
    except UnicodeEncodeError:
        return None
    return claim


def _refused(message: str) -> errors.ApiError:
    refusal = errors.unauthorized(message)
    refusal.headers = {"WWW-Authenticate": "Bearer"}
    return refusal


def _no_keys() -> errors.UnavailableError:
    return errors.UnavailableError("Tokens cannot be verified at the moment")
