"""What every request passes: its id and log line, CORS, the error envelope, authentication."""

import re
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec
import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service.batches import drop_unless
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
    REQUEST_ID,
    REQUEST_IDS,
    REQUEST_LOG,
    SERVICE_CALLER,
    SETTINGS,
)
from service.limits import require_turn
from service.logs import RequestLine, write_request
from service.wire import BODY_MAX_BYTES, ROUTE, ROUTES, Auth, ErrorAnswer, Route, Routes

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


def add_routes(app: web.Application, *tables: Routes) -> None:
    """Register the routes with what they declare. A route added by hand stops the start."""
    routes: dict[web.AbstractRoute, Route] = {}
    for table in tables:
        for route in table:
            # A GET serves HEAD as well, with the same declaration.
            methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
            for method in methods:
                path = _PLACEHOLDER.sub(r"{\1:[^/]+}", route.path)
                routes[app.router.add_route(method, path, route.handler)] = route
    app[ROUTES] = MappingProxyType(routes)
    app[REQUEST_IDS] = request_ids()
    app.on_startup.append(_require_declarations)


def declared_routes(app: web.Application) -> list[Route]:
    """Every route that is served, once."""
    return [route for added, route in app[ROUTES].items() if added.method == route.method]


async def _require_declarations(app: web.Application) -> None:
    for route in app.router.routes():
        if route not in app[ROUTES]:
            where = "" if route.resource is None else route.resource.canonical
            raise RuntimeError(f"{route.method} {where} declares no authentication")


@web.middleware
async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """All that every request passes, from its id to its line in the log.

    It is one middleware, since each costs a request about as much as all that is done in this one.
    """
    started = time.perf_counter()
    request_id = request.headers.get("X-Request-Id")
    chosen = request_id is not None and _REQUEST_ID.fullmatch(request_id) is not None
    app = request.app
    if request_id is None or not chosen:
        request_id = app[REQUEST_IDS]()
    request[REQUEST_ID] = request_id
    # aiohttp runs each request in a task of its own, so that neither outlives it.
    structlog.contextvars.bind_contextvars(request_id=request_id)
    drop_unless(lambda: request.transport is not None)
    # None for a path or method that there is not.
    route = request[ROUTE] = app[ROUTES].get(request.match_info.route)
    if (drain := app.get(DRAIN)) is not None:
        drain.enter()
    status = 499  # as long as there is no answer, because the client left or the service stops
    try:
        response = await _serve(request, route, handler)
        response.headers["X-Request-Id"] = request_id
        _allow_origins(request, response)
        status = response.status
        if drain is not None:
            drain.answered(response)
        return response
    finally:
        if drain is not None:
            drain.leave()
        seconds = time.perf_counter() - started
        method = request.method if request.method in hdrs.METH_ALL else "OTHER"
        template = "unmatched" if route is None else route.path
        if (metrics := app.get(METRICS)) is not None:
            metrics.request(method, template, status, seconds)
        caller, name = _caller(request)
        app.get(REQUEST_LOG, write_request)(
            RequestLine(
                method=method,
                route=template,
                status=status,
                ms=round(seconds * 1000, 1),
                request_id=request_id,
                caller=caller,
                app=name,
            ),
            chosen=chosen,
        )


async def _serve(request: web.Request, route: Route | None, handler: Handler) -> web.StreamResponse:
    """The answer; everything that goes wrong in one form, what is not foreseen as a 500."""
    try:
        if _is_preflight(request):
            # For any path, so that a browser gets to see the 404 that follows.
            return web.Response(status=204)
        if route is not None:
            await _authenticate(request, route.auth)
            if route.limits:
                await require_turn(request, route.limits)
        return await handler(request)
    except ApiError as error:
        if error.status == 500:
            _log.error("internal error", exc_info=error)
            return tell(internal_error(request[REQUEST_ID]))
        return tell(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return tell(_of_http(error))
    except Exception as error:
        _log.error("unhandled error", exc_info=error)
        return tell(internal_error(request[REQUEST_ID]))


async def _authenticate(request: web.Request, auth: Auth) -> None:
    """Find out who is calling, by what the route declares."""
    if auth is Auth.SERVICE:
        request[SERVICE_CALLER] = request.app[AUTHENTICATOR].service(request)
    elif auth is Auth.USER or auth is Auth.ADMIN:
        request[CALLER] = await request.app[AUTHENTICATOR].user(request)
        if auth is Auth.ADMIN and request[CALLER].role != "admin":
            raise forbidden("This is for administrators")


def _caller(request: web.Request) -> tuple[str, str | msgspec.UnsetType | None]:
    """What kind of caller it is, and which service, where it is one."""
    if (service := request.get(SERVICE_CALLER)) is not None:
        return "service", service.app_id
    if (user := request.get(CALLER)) is not None:
        return ("admin" if user.role == "admin" else "user"), msgspec.UNSET
    return "none", msgspec.UNSET


def _is_preflight(request: web.Request) -> bool:
    return (
        request.method == "OPTIONS"
        and "Origin" in request.headers
        and "Access-Control-Request-Method" in request.headers
    )


def _allow_origins(request: web.Request, response: web.StreamResponse) -> None:
    """Let the configured origins read every answer, errors included, and answer preflights."""
    response.headers.add("Vary", "Origin")
    origin = request.headers.get("Origin")
    if origin is None or origin not in request.app[SETTINGS].cors_origins:
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Allow-Credentials"] = "true"
    if _is_preflight(request):
        response.headers["Access-Control-Allow-Methods"] = ALLOWED_METHODS
        response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
        response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
    else:
        response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS


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


MIDDLEWARES: Final = (answer,)
