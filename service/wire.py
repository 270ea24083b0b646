"""What crosses the wire: routes and who may call them, bodies, queries, answers.

Everything a request got wrong is told at once, by the names its sender used.
"""

import asyncio
import dataclasses
import functools
import json
import re
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    TypedDict,
    TypeVar,
    Unpack,
    get_args,
    overload,
)
from uuid import UUID

import msgspec
from aiohttp import web

from service import errors
from service.errors import FieldError
from service.ids import is_user_id
from service.keys import SETTINGS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

BODY_MAX_BYTES: Final = 64 * 1024
BODY_SECONDS: Final = 20.0
"""For a body to arrive, which a phone on a bad line can do: 64 KiB are 3 KiB/s then."""
PIECE_BYTES: Final = 256 * 1024
"""Of an answer that may be tens of megabytes: what is written in one turn of the loop."""
NESTING_MAX: Final = 64
"""Levels of a JSON value that is kept: far more than is of use, far less than a stack takes."""
IDEMPOTENCY_KEY_MAX: Final = 255

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_H = TypeVar("_H", bound=Handler)
_S = TypeVar("_S", bound=msgspec.Struct)
_R = TypeVar("_R")

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]{1,18}")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Auth(Enum):
    """Who may call a route; each route declares one."""

    PUBLIC = "public"
    USER = "user"
    """A user's token: `request[CALLER]`."""
    ADMIN = "admin"
    """A token with the role `admin`: `request[CALLER]`."""
    SERVICE = "service"
    """The service key: `request[SERVICE_CALLER]`."""
    SIGNED = "signed"
    """The handler itself verifies a signature over the raw body."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How many calls a minute one user, or one address, may make of the routes of that name."""

    name: str
    by: Literal["user", "address"]
    allowed: int


@dataclass(frozen=True, slots=True)
class Media:
    """An answer that is not JSON: its media type."""

    type: str


class Declared(TypedDict, total=False):
    """What a route says of its calls and answers: see the fields of `Route`."""

    body: type[msgspec.Struct]
    query: type[msgspec.Struct]
    answer: Any
    status: int
    others: Mapping[int, Any]
    errors: tuple[str, ...]
    keyed: bool
    links: bool
    database: bool


@dataclass(frozen=True, slots=True)
class Route:
    """One route of the contract, with what it declares.

    The OpenAPI document is made of this, and `read_body`, `read_query` and `idempotency_key`
    refuse to read what is not declared.
    """

    method: str
    path: str
    auth: Auth
    limits: tuple[Limit, ...]
    handler: Handler
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    answer: Any = None
    """A struct, a list of one, a choice of several, or `Media`."""
    status: int = 200
    others: Mapping[int, Any] = field(default_factory=dict)
    """Further answers by status, None for one without a body."""
    errors: tuple[str, ...] = ()
    """Codes beside those that follow from the rest (see service/openapi.py)."""
    keyed: bool = False
    """Takes an Idempotency-Key header although its body has no such field."""
    links: bool = False
    """Answers with a Link header while there is more."""
    database: bool = True
    """False where the answer does not need the database, and is never `unavailable`."""

    @property
    def takes_key(self) -> bool:
        """Whether it takes an idempotency key: such a body takes the header as well."""
        return self.keyed or (
            self.body is not None and "idempotency_key" in self.body.__struct_fields__
        )


def one_of(literal: Any) -> msgspec.Meta:
    """For an answer's text that comes from the database: the values it can have."""
    return msgspec.Meta(extra_json_schema={"enum": list(get_args(literal))})


ROUTES: Final = web.AppKey[Mapping[web.AbstractRoute, Route]]("routes")
ROUTE: "Final[web.RequestKey[Route | None]]" = web.RequestKey("route")
"""Which one a request takes; None where there is none."""


class Routes:
    """The routes of one module. The application is built of these alone."""

    def __init__(self) -> None:
        self._routes: list[Route] = []

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def get(
        self,
        path: str,
        *,
        auth: Auth,
        limits: tuple[Limit, ...] = (),
        **declared: Unpack[Declared],
    ) -> Callable[[_H], _H]:
        """Declare a GET, which answers HEAD as well."""
        return self._declare("GET", path, auth, limits, declared)

    def post(
        self,
        path: str,
        *,
        auth: Auth,
        limits: tuple[Limit, ...] = (),
        **declared: Unpack[Declared],
    ) -> Callable[[_H], _H]:
        """Declare a POST."""
        return self._declare("POST", path, auth, limits, declared)

    def delete(
        self,
        path: str,
        *,
        auth: Auth,
        limits: tuple[Limit, ...] = (),
        **declared: Unpack[Declared],
    ) -> Callable[[_H], _H]:
        """Declare a DELETE."""
        return self._declare("DELETE", path, auth, limits, declared)

    def _declare(
        self, method: str, path: str, auth: Auth, limits: tuple[Limit, ...], declared: Declared
    ) -> Callable[[_H], _H]:
        if auth is not Auth.USER and any(limit.by == "user" for limit in limits):
            raise ValueError(f"{method} {path} has no user to count")

        def declare(handler: _H) -> _H:
            self._routes.append(Route(method, path, auth, limits, handler, **declared))
            return handler

        return declare


class Body(msgspec.Struct, rename="camel"):
    """A request's body or query: snake_case here, camelCase on the wire."""

    rules: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """What `problems` demands, as JSON Schema, for the OpenAPI document."""

    def problems(self) -> Iterable[FieldError]:
        """What is wrong between fields that are right one by one."""
        return ()


class NoFields(Body):
    """The body of a call that needs none: still a JSON object, if there is one."""


class Answer(msgspec.Struct, rename="camel"):
    """An answer's body. Times are `Timestamp`, made by `timestamp` or `build`."""


class Replayable(Answer, kw_only=True):
    """An answer that says so when it is the repetition of an earlier one."""

    message: str | msgspec.UnsetType = msgspec.UNSET


class ErrorAnswer(Answer, omit_defaults=True):
    """Everything that goes wrong.

    `message` is for people, `error` is the stable code, `details` are facts for programs.
    """

    status_code: int
    error: str
    message: str
    details: Any = None


Timestamp = Annotated[
    str,
    msgspec.Meta(
        extra_json_schema={
            "format": "date-time",
            "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$",
            "examples": ["2026-05-18T00:09:41.123Z"],
        }
    ),
]
"""A time as the contract writes it; see `timestamp`."""


# Requests


async def read_raw(
    request: web.Request, limit: int = BODY_MAX_BYTES, seconds: float = BODY_SECONDS
) -> bytes:
    """The body as it was sent; ApiError 413 above `limit` bytes, 400 when it breaks off.

    400 also for one that is not there within `seconds`, and then the connection is closed.
    """
    if (request.content_length or 0) > limit:
        raise errors.payload_too_large(limit)
    content = request.content
    body = bytearray()
    try:
        if content.is_eof():
            # All of it came with the head, as small bodies do: there is nothing to wait for.
            body += content.read_nowait()
        else:
            async with asyncio.timeout(seconds):
                async for chunk in content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        break
        if len(body) > limit:
            raise errors.payload_too_large(limit)
    except TimeoutError as error:
        raise errors.too_slow() from error
    except (web.RequestPayloadError, OSError) as error:
        raise errors.bad_request("The body is incomplete or wrongly encoded") from error
    return bytes(body)


async def read_body(request: web.Request, type_: type[_S]) -> _S:
    """The JSON body as `type_`; ApiError 400 naming every field that is wrong, 413, 415.

    No body at all is an empty object.
    """
    _require_declared(request, "body", type_)
    raw = await read_raw(request)
    if raw and not _is_json(request):
        raise errors.unsupported_media_type()
    return parse_body(raw, type_)


def parse_body(raw: bytes, type_: type[_S]) -> _S:
    """The same for bytes that are already read."""
    if raw and (quick := _quickly(raw, type_)) is not None:
        return quick
    value = _decode(raw) if raw else {}
    if not isinstance(value, dict):
        raise errors.bad_request("The body must be a JSON object")
    return _convert(type_, value)


def read_query(request: web.Request, type_: type[_S]) -> _S:
    """The query as `type_`; ApiError 400 naming every parameter that is wrong or repeated."""
    _require_declared(request, "query", type_)
    given: dict[str, Any] = {}
    wrong: list[FieldError] = []
    for spec in _specs(type_):
        values = request.query.getall(spec.wire, [])
        if len(values) > 1:
            wrong.append(FieldError(spec.wire, "must be given once"))
        elif values and spec.number:
            # int() takes "+5", " 5", "1_000" and the digits of every script.
            if _WHOLE_NUMBER.fullmatch(values[0]):
                given[spec.wire] = int(values[0])
            else:
                wrong.append(FieldError(spec.wire, spec.message))
        elif values:
            given[spec.wire] = values[0]
    if wrong:
        raise errors.invalid_fields(wrong)
    return _convert(type_, given)


def idempotency_key(request: web.Request, body: object = None) -> str | None:
    """The key of a call that moves credits: the body's before the header's, or None."""
    route = request[ROUTE]
    if route is None or not route.takes_key:
        raise RuntimeError("the route does not declare that it takes an idempotency key")
    key: str | None = getattr(body, "idempotency_key", None)
    if key is not None:
        return key
    sent = request.headers.getall("Idempotency-Key", [])
    if not sent:
        return None
    if len(set(sent)) > 1:
        raise errors.invalid("Idempotency-Key", "must be given once")
    if not 1 <= len(sent[0]) <= IDEMPOTENCY_KEY_MAX or _unstorable(sent[0]):
        raise errors.invalid(
            "Idempotency-Key", f"must be a string of 1 to {IDEMPOTENCY_KEY_MAX} characters"
        )
    return sent[0]


def _require_declared(
    request: web.Request, kind: Literal["body", "query"], type_: type[msgspec.Struct]
) -> None:
    # What is read is what the OpenAPI document says, or the first call fails.
    if getattr(request[ROUTE], kind, None) is not type_:
        raise RuntimeError(f"{type_.__name__} is not the {kind} that the route declares")


def path_user_id(request: web.Request, name: str = "userId") -> str:
    """A user id of the path; ApiError 400 for what no user id can be."""
    value = request.match_info[name]
    if not is_user_id(value):
        raise errors.invalid(
            name, "must be 1 to 128 printable characters without white space and / ? # % { }"
        )
    return value


def path_uuid(request: web.Request, name: str) -> UUID:
    """A UUID of the path; ApiError 404 for anything else, as for a UUID that is not there."""
    value = request.match_info[name]
    if not _UUID.fullmatch(value):
        raise errors.not_found()
    return UUID(value)


def path_text(request: web.Request, name: str, limit: int = 64) -> str:
    """A text of the path; ApiError 404 when it is longer than anything of its kind."""
    value = request.match_info[name]
    if len(value) > limit or _unstorable(value):
        raise errors.not_found()
    return value


# Answers


@overload
def timestamp(value: datetime) -> Timestamp: ...
@overload
def timestamp(value: None) -> None: ...
@overload
def timestamp(value: datetime | None) -> Timestamp | None: ...
def timestamp(value: datetime | None) -> Timestamp | None:
    """A time as the contract writes it: ISO 8601, UTC, milliseconds, `Z`; None stays None."""
    if value is None:
        return None
    if value.tzinfo is not UTC:
        value = value.astimezone(UTC)
    # A third of what `isoformat` takes, which a page of 50 moves calls 50 times.
    written: str = msgspec.to_builtins(value)
    # The microseconds are left out where they are none: 2026-05-18T00:09:41Z.
    return f"{written[:23]}Z" if len(written) > 20 else f"{written[:19]}.000Z"


def columns(row: "DataclassInstance") -> dict[str, Any]:
    """What a row has, by name; unlike `asdict` without a copy of all that is in it."""
    return {each.name: getattr(row, each.name) for each in dataclasses.fields(row)}


def build(type_: type[_S], source: Mapping[str, Any], /, **given: object) -> _S:
    """An answer from a row with columns of the same names; `given` adds or replaces fields.

    Times become `Timestamp`. A field that is in neither must have a default.
    """
    values: dict[str, object] = {}
    for name, optional in _names(type_):
        if name in given:
            value = given[name]
        elif optional and name not in source:
            continue
        else:
            value = source[name]
        values[name] = timestamp(value) if isinstance(value, datetime) else value
    return type_(**values)


def respond(
    answer: object,
    status: int = 200,
    *,
    headers: Mapping[str, str] | None = None,
    replayed: bool = False,
) -> web.Response:
    """A JSON answer. `replayed` marks the repetition of an earlier one, as the contract says."""
    sent = {"Cache-Control": "no-store", "Content-Type": "application/json"}
    if headers is not None:
        sent.update(headers)
    if replayed:
        sent["Idempotent-Replayed"] = "true"
        if isinstance(answer, Replayable):
            answer = msgspec.structs.replace(answer, message="Transaction already processed")
    body = msgspec.json.encode(answer)
    if len(body) > PIECE_BYTES:
        starts = range(0, len(body), PIECE_BYTES)
        return respond_pieces([body[at : at + PIECE_BYTES] for at in starts], status, headers=sent)
    return web.Response(body=body, status=status, headers=sent)


def respond_pieces(
    pieces: Sequence[bytes], status: int = 200, *, headers: Mapping[str, str]
) -> web.Response:
    """A JSON answer that is too long to be written in one turn of the loop."""
    return web.Response(
        body=_in_turns(pieces),
        status=status,
        headers={
            "Content-Type": "application/json",
            **headers,
            "Content-Length": str(sum(map(len, pieces))),
        },
    )


async def _in_turns(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        # Also where the client takes all of it at once, others get their turn.
        await asyncio.sleep(0)


def respond_page(
    request: web.Request,
    rows: Sequence[_R],
    limit: int,
    show: Callable[[_R], object],
    cursor: Callable[[_R], object],
) -> web.Response:
    """A page of a list that goes on, with a `Link` while there is more.

    `rows` are one more than `limit` then; `cursor` is where, as `before`, the next page begins.
    """
    shown = rows[:limit]
    more = len(rows) > limit
    return respond(
        [show(row) for row in shown],
        headers=next_link(request, before=str(cursor(shown[-1]))) if more else None,
    )


def next_link(request: web.Request, **parameters: str) -> dict[str, str]:
    """A `Link` header to the next page: this request's query with `parameters` put into it."""
    query = {name: value for name, value in request.query.items() if name != "offset"}
    url = request.rel_url.with_query({**query, **parameters})
    return {"Link": f'<{request.app[SETTINGS].base_url}{url}>; rel="next"'}


# How a value becomes a field


@dataclass(frozen=True, slots=True)
class _FieldSpec:
    attribute: str
    wire: str
    type: Any
    required: bool
    number: bool
    message: str
    check: Callable[[Any], str | None] | None


@functools.cache
def _specs(type_: type[msgspec.Struct]) -> tuple[_FieldSpec, ...]:
    return tuple(
        _FieldSpec(
            attribute=field.name,
            wire=field.encode_name,
            type=field.type,
            required=field.required,
            number=_is_number(field.type),
            message=_message(field.type),
            check=_extra(field.type).get("check"),
        )
        for field in msgspec.structs.fields(type_)
    )


@functools.cache
def _checks(
    type_: type[msgspec.Struct],
) -> tuple[tuple[tuple[str, Callable[[Any], str | None]], ...], bool]:
    """What msgspec does not look at: fields, and whether there is something between them."""
    fields = tuple((spec.attribute, spec.check) for spec in _specs(type_) if spec.check is not None)
    return fields, issubclass(type_, Body) and type_.problems is not Body.problems


@functools.cache
def _names(type_: type[msgspec.Struct]) -> tuple[tuple[str, bool], ...]:
    return tuple((field.name, not field.required) for field in msgspec.structs.fields(type_))


def _quickly(raw: bytes, type_: type[_S]) -> _S | None:
    """A body that is right, or None for `_convert` to say what is wrong with it."""
    # Only an escape can bring a NUL, and what has few brackets cannot be nested deeply. Half of a
    # surrogate pair msgspec refuses.
    if b"\0" in raw or b"\\u0000" in raw or raw.count(b"{") + raw.count(b"[") > NESTING_MAX:
        return None
    try:
        # All of it is read, also what no field takes.
        body = msgspec.convert(msgspec.json.decode(raw), type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    checks, has_rules = _checks(type_)
    for attribute, check in checks:
        given = getattr(body, attribute)
        if given is not None and check(given):
            return None
    if has_rules and isinstance(body, Body) and any(True for _ in body.problems()):
        return None
    return body


def _convert(type_: type[_S], value: dict[str, Any]) -> _S:
    """Field by field, because msgspec stops at the first one that is wrong."""
    wrong: list[FieldError] = []
    attributes: dict[str, Any] = {}
    for spec in _specs(type_):
        if spec.wire not in value:
            if spec.required:
                wrong.append(FieldError(spec.wire, "is required"))
            continue
        given = value[spec.wire]
        problem = _unfit(spec.wire, given)
        if problem is not None:
            wrong.append(problem)
            continue
        try:
            attributes[spec.attribute] = converted = msgspec.convert(given, spec.type)
        except msgspec.ValidationError:
            wrong.append(FieldError(spec.wire, spec.message))
            continue
        if spec.check is not None and converted is not None and (said := spec.check(converted)):
            wrong.append(FieldError(spec.wire, said))
    if wrong:
        raise errors.invalid_fields(wrong)
    body = type_(**attributes)
    if isinstance(body, Body) and (problems := list(body.problems())):
        raise errors.invalid_fields(problems)
    return body


def _unfit(name: str, value: object) -> FieldError | None:
    """What no field may hold: text PostgreSQL cannot store, and nesting without an end.

    A loop and not a recursion: the value decides how deep it goes.
    """
    waiting: list[tuple[str, object, int]] = [(name, value, 1)]
    while waiting:
        path, item, level = waiting.pop()
        if isinstance(item, str):
            if problem := _unstorable(item):
                return FieldError(path, problem)
        elif isinstance(item, dict):
            for key, inner in item.items():
                if problem := _unstorable(key):
                    return FieldError(path, problem.replace("must", "must have names that do", 1))
                waiting.append((f"{path}.{key[:64]}", inner, level + 1))
        elif isinstance(item, list):
            waiting += [(f"{path}[{index}]", inner, level + 1) for index, inner in enumerate(item)]
        if level > NESTING_MAX:
            return FieldError(name, f"must not be nested deeper than {NESTING_MAX} levels")
    return None


def _unstorable(text: str) -> str | None:
    if "\0" in text:
        return "must not contain the character NUL"
    if not text.isascii() and _SURROGATE.search(text):
        return "must not contain half of a surrogate pair"
    return None


def _is_json(request: web.Request) -> bool:
    given = request.headers.get("Content-Type")
    if given is None or given == "application/json":
        return given is not None
    kind = request.content_type.lower()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def _decode(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    except RecursionError:
        raise errors.bad_request("The body is nested too deeply") from None
    # msgspec refuses half of a surrogate pair without saying where it is; the standard
    # library reads it, so that the field can be named.
    try:
        return json.loads(raw.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        raise errors.bad_request("The body is not valid JSON") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("out of range")
    return value


# What is said about a type


def _unwrapped(type_: Any) -> Iterator[msgspec.inspect.Type]:
    """The type's own description and, for a choice, those of its members."""
    waiting = [msgspec.inspect.type_info(type_)]
    while waiting:
        info = waiting.pop()
        yield info
        if isinstance(info, msgspec.inspect.Metadata):
            waiting.append(info.type)
        elif isinstance(info, msgspec.inspect.UnionType):
            waiting += info.types


def _extra(type_: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for info in _unwrapped(type_):
        if isinstance(info, msgspec.inspect.Metadata):
            found |= info.extra or {}
    return found


def _is_number(type_: Any) -> bool:
    return any(isinstance(info, msgspec.inspect.IntType) for info in _unwrapped(type_))


def _message(type_: Any) -> str:
    if message := _extra(type_).get("message"):
        return str(message)
    for info in _unwrapped(type_):
        match info:
            case msgspec.inspect.IntType():
                return "must be a whole number"
            case msgspec.inspect.StrType():
                return "must be a string"
            case msgspec.inspect.BoolType():
                return "must be true or false"
            case msgspec.inspect.UUIDType():
                return "must be a UUID"
            case msgspec.inspect.DateTimeType():
                return "must be an ISO 8601 time"
            case msgspec.inspect.LiteralType(values=values):
                return "must be one of " + ", ".join(sorted(map(str, values)))
            case msgspec.inspect.EnumType(cls=cls):
                return "must be one of " + ", ".join(str(member.value) for member in cls)
            case msgspec.inspect.ListType():
                return "must be a list"
            case msgspec.inspect.DictType() | msgspec.inspect.StructType():
                return "must be a JSON object"
            case _:
                continue
    return "is not valid"
