"""Stripe's idempotency keys, as https://docs.stripe.com/api/idempotent_requests describes them."""

import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_KEPT_SECONDS = 24 * 3600
_LONGEST_KEY = 255
# A request that was refused before its endpoint began to work leaves its key unused.
_NOT_EXECUTED = frozenset({400, 401, 403, 404, 405, 409, 429})


@dataclass(frozen=True)
class SavedResult:
    """The first answer to a key."""

    path: str
    parameters: str
    status: int
    body: bytes
    created: float


class IdempotencyKeys:
    """The keys that were used, and those whose first request is still being worked on."""

    def __init__(self, saved: dict[str, SavedResult] | None = None) -> None:
        self.saved = saved if saved is not None else {}
        self._in_progress: set[str] = set()

    def prune(self) -> None:
        """Forget the keys that are more than a day old, as Stripe may."""
        oldest = time.time() - _KEPT_SECONDS
        for key in [key for key, result in self.saved.items() if result.created < oldest]:
            del self.saved[key]

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a POST with a known key with the first answer; keep the answer to a new one."""
        key = request.headers.get("Idempotency-Key")
        if not key or request.method != "POST" or not request.path.startswith("/v1/"):
            return await handler(request)
        if len(key) > _LONGEST_KEY:
            return _refuse(400, f"Idempotency keys have at most {_LONGEST_KEY} characters.")
        parameters = _fingerprint(await request.read())

        known = self.saved.get(key)
        if known is not None:
            return _replay(known, key, request.path, parameters)
        if key in self._in_progress:
            return _refuse(
                409,
                "There is currently another in-progress request using this idempotency key. "
                "Please try again later.",
                code="idempotency_key_in_use",
            )
        self._in_progress.add(key)
        try:
            response = await handler(request)
        finally:
            self._in_progress.discard(key)
        if isinstance(response, web.Response) and response.status not in _NOT_EXECUTED:
            body = response.body if isinstance(response.body, bytes) else b""
            self.saved[key] = SavedResult(
                request.path, parameters, response.status, body, time.time()
            )
        return response


def _fingerprint(body: bytes) -> str:
    """Digest a form body such that the order of its parameters does not matter."""
    try:
        pairs = sorted(parse_qsl(body.decode(), keep_blank_values=True))
    except UnicodeDecodeError:
        pairs = [("", body.hex())]
    return hashlib.sha256(repr(pairs).encode()).hexdigest()


def _replay(known: SavedResult, key: str, path: str, parameters: str) -> web.Response:
    if known.path != path:
        return _refuse(
            400,
            "Keys for idempotent requests can only be used for the same endpoint they were first "
            f"used for ('{path}' vs '{known.path}'). Try using a key other than '{key}' if you "
            "meant to execute a different request.",
        )
    if known.parameters != parameters:
        return _refuse(
            400,
            "Keys for idempotent requests can only be used with the same parameters they were "
            f"first used with. Try using a key other than '{key}' if you meant to execute a "
            "different request.",
        )
    return web.Response(
        body=known.body,
        status=known.status,
        content_type="application/json",
        headers={"Idempotent-Replayed": "true"},
    )


def _refuse(status: int, message: str, code: str | None = None) -> web.Response:
    error = {"type": "idempotency_error", "message": message}
    if code is not None:
        error["code"] = code
    return web.json_response({"error": error}, status=status)
