"""The OpenAPI document, made of what the routes declare and of the types that they read and write.

Nothing of the contract is written down here a second time: what a route does not declare follows
from what it does (who may call it, whether it has a body, what its path holds).
"""

import functools
import http
import inspect
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin
from uuid import UUID

import msgspec

from service.api.fields import EventId, IdempotencyKey, UserId
from service.auth import APP_ID_MAX, APP_ID_PATTERN
from service.errors import REFUSALS, ApiError
from service.wire import (
    Auth,
    Body,
    ErrorAnswer,
    Limit,
    Media,
    Replayable,
    Route,
    parse_body,
)

Json = dict[str, Any]

OPENAPI_VERSION: Final = "3.1.0"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
JSON_TYPE: Final = "application/json"
SCHEMA_REFERENCE: Final = "#/components/schemas/{name}"

_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class _PathPart:
    """What stands for a placeholder, and which error says that it cannot be."""

    type: Any
    description: str
    error: str


_PATH_PARTS: Final[Mapping[str, _PathPart]] = types.MappingProxyType(
    {
        "userId": _PathPart(UserId, "A user id, as the auth service chose it", "invalid_request"),
        "purchaseId": _PathPart(UUID, "The purchase", "not_found"),
        "id": _PathPart(UUID, "The gift", "not_found"),
        "file": _PathPart(str, "A file's name", "not_found"),
        "eventId": _PathPart(EventId, "Stripe's id of the event", "not_found"),
        "code": _PathPart(
            str, "A gift code, in any case, with or without hyphens and spaces", "not_found"
        ),
    }
)
_SCHEMES: Final[Mapping[Auth, tuple[str, Json]]] = types.MappingProxyType(
    {
        Auth.USER: (
            "userToken",
            {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "A token of the auth service, for the audience `mana`.",
            },
        ),
        Auth.ADMIN: (
            "adminToken",
            {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "A token of the auth service whose `role` is `admin`.",
            },
        ),
        Auth.SERVICE: (
            "serviceKey",
            {
                "type": "apiKey",
                "in": "header",
                "name": "X-Service-Key",
                "description": "A key that the services of the ecosystem share.",
            },
        ),
        Auth.SIGNED: (
            "stripeSignature",
            {
                "type": "apiKey",
                "in": "header",
                "name": "Stripe-Signature",
                "description": "Stripe's signature over the raw body.",
            },
        ),
    }
)
_RETRY_AFTER: Final[Json] = {
    "description": "After how many seconds to try again.",
    "schema": {"type": "integer", "minimum": 0},
}
_HEADERS: Final[Mapping[str, Json]] = types.MappingProxyType(
    {
        "X-Request-Id": {
            "description": "The request's id: the caller's own where it is printable.",
            "required": True,
            "schema": {"type": "string", "minLength": 1, "maxLength": 128},
        },
        "Retry-After": _RETRY_AFTER,
        "Idempotent-Replayed": {
            "description": "`true` where this is the repetition of an earlier answer.",
            "schema": {"enum": ["true"]},
        },
        "Link": {
            "description": 'The next page, as `<…>; rel="next"`, while there is more.',
            "schema": {"type": "string"},
        },
        "WWW-Authenticate": {
            "description": "How to authenticate.",
            "schema": {"enum": ["Bearer"]},
        },
        "ETag": {"description": "The version.", "schema": {"type": "string"}},
    }
)


def make_document(routes: Sequence[Route], *, base_url: str, version: str) -> Json:
    """The document of these routes; ValueError for one that declares too little."""
    schemas = _Schemas(routes)
    paths: dict[str, Json] = {}
    tags: dict[str, Json] = {}
    taken: set[str] = set()
    for route in routes:
        name = route.handler.__name__
        if name in taken:
            raise ValueError(f"two handlers have the name {name}, which must tell them apart")
        taken.add(name)
        operation = _operation(route, schemas)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
        tag = operation["tags"][0]
        tags.setdefault(tag, {"name": tag, "description": _module_doc(route)})
    return {
        "openapi": OPENAPI_VERSION,
        "jsonSchemaDialect": DIALECT,
        "info": {
            "title": "mana-credits",
            "version": version,
            "summary": "Prepaid credits of an ecosystem of apps.",
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": base_url}],
        "tags": list(tags.values()),
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "headers": dict(_HEADERS),
            "securitySchemes": dict(_SCHEMES.values()),
        },
    }


_DESCRIPTION: Final = """\
Credits are whole numbers: 1 credit is 1 euro cent. Times are ISO 8601 in UTC with milliseconds.
Unknown fields of a body are ignored; no text may hold the character NUL. What goes wrong is told
in one envelope, `ErrorAnswer`: `message` is for people, `error` for programs. A 500
(`internal_error`) is a defect of the service and says only the request's id.

A call that moves credits takes an idempotency key, in the body or as a header (the body wins).
The same key with the same request answers the first result again and moves nothing.
"""


class _Schemas:
    """The schemas of every type that the routes name, under their own names."""

    def __init__(self, routes: Iterable[Route]) -> None:
        found: dict[type[msgspec.Struct], None] = {ErrorAnswer: None}
        for route in routes:
            found.update(
                (type_, None)
                for said in (route.body, route.query, route.answer, *route.others.values())
                for type_ in _structs(said)
            )
        self.components = _components(tuple(found))

    def of(self, type_: Any) -> Json:
        """The schema of a type, by reference where it has a name."""
        if isinstance(type_, types.UnionType):
            return {"oneOf": [self.of(member) for member in get_args(type_)]}
        if get_origin(type_) is list:
            return {"type": "array", "items": self.of(get_args(type_)[0])}
        if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
            return {"$ref": SCHEMA_REFERENCE.format(name=type_.__name__)}
        return msgspec.json.schema(type_)

    def resolve(self, schema: Json) -> Json:
        """What a schema refers to."""
        if "$ref" not in schema:
            return schema
        return self.components[schema["$ref"].rpartition("/")[2]]

    def example(self, schema: Json) -> Any:
        """A value that fits: of a body, what is required and the idempotency key."""
        schema = self.resolve(schema)
        if "examples" in schema:
            return schema["examples"][0]
        for combined in ("oneOf", "anyOf"):
            if combined in schema and "properties" not in schema:
                return self.example(schema[combined][0])
        for given in ("enum", "default", "const"):
            if given in schema:
                return schema[given][0] if given == "enum" else schema[given]
        if "properties" in schema:
            shown = {*schema.get("required", ()), "idempotencyKey"}
            if "anyOf" in schema:
                shown.update(schema["anyOf"][0]["required"])
            return {
                name: self.example(inner)
                for name, inner in schema["properties"].items()
                if name in shown
            }
        match schema.get("type"):
            case "array":
                return [self.example(schema["items"])]
            case "object" if isinstance(schema.get("additionalProperties"), dict):
                return {"name": self.example(schema["additionalProperties"])}
            case "object":
                return {}
            case "integer":
                return 30
            case "boolean":
                return True
            case "string" if schema.get("format") == "uuid":
                return "01890a5d-ac96-774b-bcce-b302099a8057"
            case "string" if schema.get("format") == "date":
                return "2026-05-18"
            case "string":
                return "text"
            case _:
                return None


@functools.cache
def _components(found: tuple[type[msgspec.Struct], ...]) -> dict[str, Json]:
    """The schemas of these types by their names: the same for every application of a process."""
    _, made = msgspec.json.schema_components(found, ref_template=SCHEMA_REFERENCE)
    for type_ in found:
        component = made[type_.__name__]
        component["description"] = inspect.cleandoc(type_.__doc__ or "")
        if issubclass(type_, Body):
            component.update(type_.rules)
    return dict(sorted(made.items()))


def _structs(said: Any) -> Iterable[type[msgspec.Struct]]:
    if isinstance(said, type) and issubclass(said, msgspec.Struct):
        return (said,)
    return [struct for inner in get_args(said) for struct in _structs(inner)]


def _operation(route: Route, schemas: _Schemas) -> Json:
    summary, _, more = inspect.cleandoc(route.handler.__doc__ or "").partition("\n")
    if not summary or route.answer is None:
        raise ValueError(f"{route.method} {route.path} must say what it does, and what it answers")
    operation: Json = {
        "operationId": route.handler.__name__,
        "summary": summary.rstrip("."),
        "tags": [route.handler.__module__.rpartition(".")[2]],
        "security": [{_SCHEMES[route.auth][0]: []}] if route.auth in _SCHEMES else [],
        "parameters": _parameters(route, schemas),
        "responses": _responses(route, schemas),
    }
    more = "\n\n".join(filter(None, (more.strip(), *map(_said_of, route.limits))))
    if more:
        operation["description"] = more
    if route.body is not None:
        schema = schemas.of(route.body)
        content = {"schema": schema, "example": schemas.example(schema)}
        operation["requestBody"] = {
            "required": not _may_be_absent(route.body),
            "content": {JSON_TYPE: content},
        }
    elif route.auth is Auth.SIGNED:
        operation["requestBody"] = {
            "description": "An event, signed byte for byte.",
            "required": True,
            "content": {JSON_TYPE: {"schema": {"type": "object"}}},
        }
    return operation


def _may_be_absent(body: type[msgspec.Struct]) -> bool:
    try:
        parse_body(b"", body)
    except ApiError:
        return False
    return True


def _said_of(limit: Limit) -> str:
    return f"At most {limit.allowed} calls a minute per {limit.by}."


def _module_doc(route: Route) -> str:
    return inspect.cleandoc(sys.modules[route.handler.__module__].__doc__ or "").partition("\n")[0]


def _parameters(route: Route, schemas: _Schemas) -> list[Json]:
    parameters: list[Json] = []
    for name in _PLACEHOLDER.findall(route.path):
        if name not in _PATH_PARTS:
            raise ValueError(f"{route.path} has a part of which nothing is known: {name}")
        part = _PATH_PARTS[name]
        parameters.append(
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": part.description,
                "schema": schemas.of(part.type),
            }
        )
    if route.query is not None:
        query = schemas.resolve(schemas.of(route.query))
        parameters += [
            {
                "name": name,
                "in": "query",
                "required": name in query["required"],
                "schema": _without_null(schema),
            }
            for name, schema in query["properties"].items()
        ]
    if route.takes_key:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "As `idempotencyKey` of a body, which comes before it.",
                "schema": schemas.of(IdempotencyKey),
            }
        )
    if 304 in route.others:
        parameters.append(
            {
                "name": "If-None-Match",
                "in": "header",
                "description": "The versions that the caller has.",
                "schema": {"type": "string"},
            }
        )
    if route.auth is Auth.SERVICE:
        parameters.append(
            {
                "name": "X-App-Id",
                "in": "header",
                "description": "Which service calls.",
                "schema": {"type": "string", "maxLength": APP_ID_MAX, "pattern": APP_ID_PATTERN},
            }
        )
    return parameters


def _without_null(schema: Json) -> Json:
    """A query cannot say null: a parameter is there or not."""
    if "anyOf" not in schema:
        return schema
    (inner,) = (choice for choice in schema["anyOf"] if choice.get("type") != "null")
    return dict(inner)


def _codes(route: Route) -> Iterable[str]:
    """Every error that a route can give, those first that it declares."""
    yield from route.errors
    parts = [_PATH_PARTS[name].error for name in _PLACEHOLDER.findall(route.path)]
    yield from parts
    asks = route.body is not None or route.query is not None or route.takes_key
    if asks or route.auth in (Auth.SERVICE, Auth.SIGNED):
        yield "invalid_request"
    if route.auth in (Auth.USER, Auth.ADMIN, Auth.SERVICE):
        yield "unauthorized"
    if route.auth is Auth.ADMIN:
        yield "forbidden"
    if route.takes_key:
        yield "idempotency_key_reused"
    if route.body is not None or route.auth is Auth.SIGNED:
        yield "payload_too_large"
    if route.body is not None:
        yield "unsupported_media_type"
    if route.limits:
        yield "rate_limited"
    if route.database:
        yield "unavailable"
        if route.method != "GET" or route.limits:
            yield "outcome_unknown"


def _responses(route: Route, schemas: _Schemas) -> Json:
    replays = any(issubclass(type_, Replayable) for type_ in _structs(route.answer))
    names = ["X-Request-Id"]
    if replays or route.takes_key:
        names.append("Idempotent-Replayed")
    if route.links:
        names.append("Link")
    if 304 in route.others:
        names.append("ETag")
    responses = {str(route.status): _response(route, route.status, route.answer, names, schemas)}
    for status, answer in route.others.items():
        names = ["X-Request-Id"]
        names += {503: ["Retry-After"], 304: ["ETag"]}.get(status, [])
        responses[str(status)] = _response(route, status, answer, names, schemas)
    by_status: dict[int, dict[str, None]] = {}
    for code in _codes(route):
        by_status.setdefault(REFUSALS[code].status, {})[code] = None
    for status, codes in by_status.items():
        responses[str(status)] = _refusal(route, status, list(codes))
    return dict(sorted(responses.items()))


def _response(
    route: Route, status: int, answer: Any, headers: Sequence[str], schemas: _Schemas
) -> Json:
    response: Json = {
        "description": http.HTTPStatus(status).phrase,
        "headers": {name: _header(name) for name in headers},
    }
    structs = list(_structs(answer))
    if len(structs) == 1 and get_origin(answer) is not list:
        response["description"] = inspect.cleandoc(structs[0].__doc__ or "").partition("\n")[0]
    if isinstance(answer, Media):
        response["content"] = {answer.type: {"schema": {"type": "string"}}}
    elif answer is not None:
        schema = schemas.of(answer)
        response["content"] = {
            JSON_TYPE: {"schema": schema, "example": schemas.example(schema)},
        }
    return response


def _refusal(route: Route, status: int, codes: Sequence[str]) -> Json:
    headers = ["X-Request-Id"]
    if status in (429, 503):
        headers.append("Retry-After")
    if status == 401 and route.auth is not Auth.SERVICE:
        headers.append("WWW-Authenticate")
    first = REFUSALS[codes[0]]
    return {
        "description": "\n".join(f"`{code}`: {REFUSALS[code].message}." for code in codes),
        "headers": {name: _header(name) for name in headers},
        "content": {
            JSON_TYPE: {
                "schema": {
                    "$ref": SCHEMA_REFERENCE.format(name="ErrorAnswer"),
                    "properties": {"statusCode": {"const": status}, "error": {"enum": codes}},
                },
                "example": {
                    "statusCode": status,
                    "error": first.code,
                    "message": first.message,
                },
            }
        },
    }


def _header(name: str) -> Json:
    return {"$ref": f"#/components/headers/{name}"}
