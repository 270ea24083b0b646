"""What every request passes: its id and log line, CORS, the error envelope, authentication."""

import asyncio
import functools
import re
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec
import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service.batches import drop_with
from service.errors import (
    ApiError,
    forbidden,
    internal_error,
    payload_too_large,
    unsupported_media_type,
)
from service.ids import request_ids
from service.keys import (
    AUTHENTICATOR,
    CALLER,
    DRAIN,
    METRICS,
    REQUEST_LOG,
    SERVICE_CALLER,
    SETTINGS,
    Caller,
)
from service.limits import require_turn
from service.logs import Redactor, RequestLine, name_request, write_requests
from service.wire import BODY_MAX_BYTES, ROUTE, ROUTES, Auth, ErrorAnswer, Route, Routes

if TYPE_CHECKING:
    from service.auth import Authenticator
    from service.settings import Settings

ALLOWED_METHODS: Final = "GET, POST, DELETE"
ALLOWED_HEADERS: Final = "Authorization, Content-Type, Idempotency-Key"
EXPOSED_HEADERS: Final = "Link, X-Request-Id, Retry-After"
PREFLIGHT_SECONDS: Final = 600

_REQUEST_ID: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,126}[\x21-\x7e])?")
# Alone, a placeholder of aiohttp matches no braces, and a user id that has some would be a 404.
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_CODES: Final[Mapping[int, tuple[str, str]]] = MappingProxyType(
    {
        400: ("invalid_request", "Bad request"),
        401: ("unauthorized", "Not authenticated"),
        403: ("forbidden", "Not allowed"),
        404: ("not_found", "Not found"),
        405: ("method_not_allowed", "Method not allowed"),
    }
)

_log = structlog.get_logger(__name__)


def application(settings: "Settings", *tables: Routes) -> web.Application:
    """An application that serves these routes, and no route that is added by hand."""
    front = _Front()
    app = web.Application(client_max_size=BODY_MAX_BYTES)
    app[SETTINGS] = settings
    front.add_routes(app, tables)
    return app


class _Front:
    """What every request of one application passes, from its id to its line in the log.

    It is put around each handler rather than made a middleware, since to have any costs a request
    about half as much as all that is done here. For the same reason it looks up once what it needs
    of the application, when that starts, and requests that end in the same round of the event loop
    are counted and logged together.
    """

    def __init__(self) -> None:
        self._next_id = request_ids()
        self._ended: list[RequestLine] = []

    def add_routes(self, app: web.Application, tables: Iterable[Routes]) -> None:
        """Register the routes with what they declare. A route added by hand stops the start."""
        routes: dict[web.AbstractRoute, Route] = {}
        for table in tables:
            for route in table:
                # A GET serves HEAD as well, with the same declaration.
                methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
                for method in methods:
                    path = _PLACEHOLDER.sub(r"{\1:[^/]+}", route.path)
                    handler = functools.partial(self.answer, route, route.handler)
                    routes[app.router.add_route(method, path, handler)] = route
        # The last of all: it takes what comes to it.
        rest = functools.partial(self.answer, None, _unmatched)
        app.router.register_resource(_Anything(rest))
        app[ROUTES] = MappingProxyType(routes)
        app.on_startup.append(self._start)

    async def _start(self, app: web.Application) -> None:
        for route in app.router.routes():
            if route not in app[ROUTES]:
                where = "" if route.resource is None else route.resource.canonical
                raise RuntimeError(f"{route.method} {where} declares no authentication")
        settings = app[SETTINGS]
        self._origins = frozenset(settings.cors_origins)
        self._hide = Redactor(settings.secrets()).hide
        self._authenticator = app.get(AUTHENTICATOR)
        self._drain = app.get(DRAIN)
        self._metrics = app.get(METRICS)
        self._write = app.get(REQUEST_LOG, write_requests)

    async def answer(
        self, route: Route | None, handler: Handler, request: web.Request
    ) -> web.StreamResponse:
        """Serve one request; without a route it is for a path or method that there is not."""
        started = time.perf_counter()
        sent = request.headers
        request_id = sent.get("X-Request-Id")
        chosen = request_id is not None and _REQUEST_ID.fullmatch(request_id) is not None
        if request_id is None or not chosen:
            request_id = self._next_id()
        # aiohttp runs each request in a task of its own, so that neither outlives it.
        name_request(request_id)
        drop_with(request)
        request[ROUTE] = route
        if self._drain is not None:
            self._drain.enter()
        caller = "none"
        name: str | msgspec.UnsetType | None = msgspec.UNSET
        status = 499  # as long as there is no answer, because the client left or the service stops
        try:
            try:
                if route is not None:
                    if route.auth is Auth.SERVICE:
                        service = request[SERVICE_CALLER] = self._keys().service(request)
                        caller, name = "service", service.app_id
                    elif route.auth is Auth.USER or route.auth is Auth.ADMIN:
                        user = request[CALLER] = await self._keys().user(request)
                        caller = "admin" if user.role == "admin" else "user"
                        _require_role(user, route.auth)
                    if route.limits:
                        await require_turn(request, route.limits)
                response = await handler(request)
            except Exception as error:
                response = _refusal(error, request_id)
            headers = response.headers
            headers["X-Request-Id"] = request_id
            headers.add("Vary", "Origin")
            if (origin := sent.get("Origin")) is not None and origin in self._origins:
                _allow_origin(request, headers, origin)
            status = response.status
            if self._drain is not None and self._drain.ending:
                response.force_close()
            return response
        finally:
            if self._drain is not None:
                self._drain.leave()
            method, template = request.method, "unmatched" if route is None else route.path
            if route is None and method not in hdrs.METH_ALL:
                method = "OTHER"
            self._end(
                RequestLine(
                    method=method,
                    route=template,
                    status=status,
                    ms=(time.perf_counter() - started) * 1000,
                    # What a client chose may hold a secret.
                    request_id=self._hide(request_id) if chosen else request_id,
                    caller=caller,
                    app=self._hide(name) if name else name,
                )
            )

    def _end(self, line: RequestLine) -> None:
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._tell)
        self._ended.append(line)

    def _tell(self) -> None:
        """Count and log what has ended in this round of the loop."""
        lines, self._ended = self._ended, []
        if self._metrics is not None:
            self._metrics.requests(lines)
        self._write(lines)

    def _keys(self) -> "Authenticator":
        if self._authenticator is None:
            raise RuntimeError("the application has no authenticator")
        return self._authenticator


def declared_routes(app: web.Application) -> list[Route]:
    """Every route that is served, once."""
    return [route for added, route in app[ROUTES].items() if added.method == route.method]


def _require_role(user: Caller, auth: Auth) -> None:
    if auth is Auth.ADMIN and user.role != "admin":
        raise forbidden("This is for administrators")


class _Anything(web.AbstractResource):
    """Takes every request, also one for `*` and for no path at all."""

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self._route = web.ResourceRoute(hdrs.METH_ANY, handler, self)

    @property
    def canonical(self) -> str:
        """Where aiohttp looks last."""
        return "/"

    async def resolve(self, request: web.Request) -> tuple[web.UrlMappingMatchInfo, set[str]]:
        """Always itself."""
        return web.UrlMappingMatchInfo({}, self._route), set()

    def url_for(self, **_: str) -> NoReturn:
        """It has no address."""
        raise TypeError("what is for anything has no address")

    def add_prefix(self, prefix: str) -> NoReturn:
        """It is for the outermost application alone."""
        raise TypeError("what is for anything has no prefix")

    def get_info(self) -> Any:
        """Nothing to tell."""
        return {}

    def raw_match(self, path: str) -> bool:
        """No other resource is declared as this one."""
        return False

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        # None that an application would have to declare.
        return iter(())


async def _unmatched(request: web.Request) -> web.StreamResponse:
    """The answer for a path or method that there is not."""
    if _is_preflight(request):
        # For any path, so that a browser gets to see the 404 that follows.
        return web.Response(status=204)
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        allowed |= (await resource.resolve(request))[1]
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise web.HTTPNotFound


def _refusal(error: Exception, request_id: str) -> web.StreamResponse:
    """The answer for what went wrong, in one form; for what is not foreseen a 500."""
    if isinstance(error, ApiError):
        if error.status != 500:
            return tell(error)
        _log.error("internal error", exc_info=error)
    elif isinstance(error, web.HTTPException):
        if error.status < 400:
            raise error
        return tell(_of_http(error))
    else:
        _log.error("unhandled error", exc_info=error)
    return tell(internal_error(request_id))


def _is_preflight(request: web.Request) -> bool:
    return (
        request.method == "OPTIONS"
        and "Origin" in request.headers
        and "Access-Control-Request-Method" in request.headers
    )


def _allow_origin(request: web.Request, headers: MutableMapping[str, str], origin: str) -> None:
    """Let a configured origin read the answer, errors included, and answer its preflights."""
    headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Allow-Credentials"] = "true"
    if _is_preflight(request):
        headers["Access-Control-Allow-Methods"] = ALLOWED_METHODS
        headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
        headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
    else:
        headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS


def _of_http(error: web.HTTPException) -> ApiError:
    # What aiohttp raises says too much or too little: only its status and Allow are taken.
    headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    if error.status == 413:
        return payload_too_large(BODY_MAX_BYTES)
    if error.status == 415:
        return unsupported_media_type()
    code, message = _CODES.get(error.status, ("invalid_request", error.reason))
    return ApiError(error.status, code, message, headers=headers)


def tell(error: ApiError) -> web.Response:
    """The answer for an error: the one envelope."""
    return web.Response(
        body=msgspec.json.encode(
            ErrorAnswer(error.status, error.code, error.message, error.details)
        ),
        status=error.status,
        headers={"Cache-Control": "no-store", **error.headers},
        content_type="application/json",
    )
