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
from service.ids import uuid7_text
from service.keys import (
    AUTHENTICATOR,
    CALLER,
    METRICS,
    REQUEST_ID,
    SERVICE_CALLER,
    SETTINGS,
)
from service.limits import require_turn
from service.wire import BODY_MAX_BYTES, ROUTES, Auth, ErrorAnswer, Limit, Route, Routes

DECLARED: Final = web.AppKey[Mapping[web.AbstractRoute, Auth]]("declared")
LIMITED: Final = web.AppKey[Mapping[web.AbstractRoute, tuple[Limit, ...]]]("limited")

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

_log = structlog.get_logger("service.access")


def add_routes(app: web.Application, *tables: Routes) -> None:
    """Register the routes with what they declare. A route added by hand stops the start."""
    declared: dict[web.AbstractRoute, Auth] = {}
    limited: dict[web.AbstractRoute, tuple[Limit, ...]] = {}
    routes: dict[web.AbstractRoute, Route] = {}
    for table in tables:
        for route in table:
            # A GET serves HEAD as well, with the same declaration.
            methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
            for method in methods:
                path = _PLACEHOLDER.sub(r"{\1:[^/]+}", route.path)
                added = app.router.add_route(method, path, route.handler)
                declared[added] = route.auth
                routes[added] = route
                if route.limits:
                    limited[added] = route.limits
    app[DECLARED] = MappingProxyType(declared)
    app[LIMITED] = MappingProxyType(limited)
    app[ROUTES] = MappingProxyType(routes)
    app.on_startup.append(_require_declarations)


def declared_routes(app: web.Application) -> list[Route]:
    """Every route that is served, once."""
    return [route for added, route in app[ROUTES].items() if added.method == route.method]


async def _require_declarations(app: web.Application) -> None:
    for route in app.router.routes():
        if route not in app[DECLARED]:
            raise RuntimeError(f"{route.method} {_template(route)} declares no authentication")


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id, and write the one line of the access log."""
    started = time.perf_counter()
    given = request.headers.get("X-Request-Id")
    request_id = given if given and _REQUEST_ID.fullmatch(given) else uuid7_text()
    request[REQUEST_ID] = request_id
    # aiohttp runs each request in a task of its own, so that neither outlives it.
    structlog.contextvars.bind_contextvars(request_id=request_id)
    drop_unless(lambda: request.transport is not None)
    status = 499  # as long as there is no answer, because the client left or the service stops
    try:
        response = await handler(request)
        response.headers["X-Request-Id"] = request_id
        status = response.status
        return response
    finally:
        _log.info(
            "request",
            request_id=request_id,
            method=_method(request),
            route=_template(request.match_info.route),
            status=status,
            ms=round((time.perf_counter() - started) * 1000, 1),
            **_caller(request),
        )


@web.middleware
async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count every request with the time it took."""
    started = time.perf_counter()
    status = 499  # as in the access log
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        request.app[METRICS].request(
            _method(request),
            _template(request.match_info.route),
            status,
            time.perf_counter() - started,
        )


def _method(request: web.Request) -> str:
    return request.method if request.method in hdrs.METH_ALL else "OTHER"


def _template(route: web.AbstractRoute) -> str:
    # Never the path itself: it holds gift codes and user ids.
    return "unmatched" if route.resource is None else route.resource.canonical


def _caller(request: web.Request) -> dict[str, str | None]:
    if SERVICE_CALLER in request:
        return {"caller": "service", "app": request[SERVICE_CALLER].app_id}
    if CALLER in request:
        return {"caller": request[CALLER].role if request[CALLER].role == "admin" else "user"}
    return {"caller": "none"}


@web.middleware
async def cors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let the configured origins read every answer, errors included, and answer preflights."""
    origin = request.headers.get("Origin")
    allowed = origin is not None and origin in request.app[SETTINGS].cors_origins
    preflight = (
        request.method == "OPTIONS"
        and origin is not None
        and "Access-Control-Request-Method" in request.headers
    )
    # A preflight is answered for any path, so that a browser gets to see the 404 that follows.
    response = web.Response(status=204) if preflight else await handler(request)
    response.headers.add("Vary", "Origin")
    if origin is not None and allowed:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Credentials"] = "true"
        if preflight:
            response.headers["Access-Control-Allow-Methods"] = ALLOWED_METHODS
            response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
            response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
        else:
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
    return response


@web.middleware
async def envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell everything that goes wrong in one form; what is not foreseen is logged and a 500."""
    try:
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


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who is calling, by what the route declares."""
    route = request.match_info.route
    if request.match_info.http_exception is not None:
        return await handler(request)  # no such route, or not with this method
    match request.app[DECLARED][route]:
        case Auth.USER:
            request[CALLER] = await request.app[AUTHENTICATOR].user(request)
        case Auth.ADMIN:
            request[CALLER] = await request.app[AUTHENTICATOR].user(request)
            if request[CALLER].role != "admin":
                raise forbidden("This is for administrators")
        case Auth.SERVICE:
            request[SERVICE_CALLER] = request.app[AUTHENTICATOR].service(request)
        case Auth.PUBLIC | Auth.SIGNED:
            pass
    return await handler(request)


@web.middleware
async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the calls of routes that declare how often they may be called."""
    declared = request.app[LIMITED].get(request.match_info.route)
    if declared:
        await require_turn(request, declared)
    return await handler(request)


MIDDLEWARES: Final = (observe, cors, envelope, authenticate, limit)
"""From the outermost to the innermost."""
