"""Bodies and queries: every input rule of the contract, at its edges; none a 500."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from random import Random
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest
from aiohttp import web

from service import wire
from service.api.fields import (
    Amount,
    AppId,
    Cursor,
    Description,
    Email,
    IdempotencyKey,
    Instant,
    Limit,
    Metadata,
    Offset,
    UserId,
)
from service.errors import ApiError, FieldError
from service.middleware import application
from service.settings import Settings
from service.wire import (
    Answer,
    Auth,
    Body,
    Replayable,
    Routes,
    Timestamp,
    build,
    idempotency_key,
    next_link,
    parse_body,
    path_text,
    path_user_id,
    path_uuid,
    read_body,
    read_query,
    read_raw,
    respond,
    timestamp,
)
from tests.api.http_support import Client, Connect


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Order(Body):
    amount: Amount
    user_id: UserId
    app_id: AppId = "system"
    description: Description | None = None
    metadata: Metadata | None = None
    idempotency_key: IdempotencyKey | None = None
    reservation_id: UUID | None = None
    expires_at: Instant | None = None
    email: Email | None = None
    colour: Colour | None = None
    interval: Literal["monthly", "yearly"] = "monthly"
    verified: bool | None = None
    size: int | None = None


class Options(Body):
    interval: Literal["monthly", "yearly"] = "monthly"
    other: str | None = None

    def problems(self) -> Iterable[FieldError]:
        if self.interval == "yearly" and self.other is None:
            yield FieldError("other", "is required with yearly")


class Page(Body):
    limit: Limit = 50
    offset: Offset = 0
    before: Cursor | None = None
    kind: Literal["usage", "gift"] | None = None


GOOD: dict[str, Any] = {"amount": 5, "userId": "user-1"}
UUID_TEXT = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture
async def client(connect: Connect) -> Client:
    routes = Routes()

    @routes.post("/orders", auth=Auth.PUBLIC, body=Order)
    async def order(request: web.Request) -> web.Response:
        body = await read_body(request, Order)
        return respond({"key": idempotency_key(request, body), "amount": body.amount})

    @routes.post("/options", auth=Auth.PUBLIC, body=Options)
    async def options(request: web.Request) -> web.Response:
        return respond(await read_body(request, Options))

    @routes.post("/raw", auth=Auth.PUBLIC)
    async def raw(request: web.Request) -> web.Response:
        return respond({"size": len(await read_raw(request, 128 * 1024))})

    @routes.get("/pages", auth=Auth.PUBLIC, query=Page)
    async def pages(request: web.Request) -> web.Response:
        page = await _page(request)
        return respond(page, headers=next_link(request, before="c1"))

    async def _page(request: web.Request) -> Page:
        return read_query(request, Page)

    @routes.get("/users/{userId}", auth=Auth.PUBLIC)
    async def user(request: web.Request) -> web.Response:
        return respond({"id": path_user_id(request)})

    @routes.get("/things/{thingId}", auth=Auth.PUBLIC)
    async def thing(request: web.Request) -> web.Response:
        return respond({"id": path_uuid(request, "thingId")})

    @routes.get("/codes/{code}", auth=Auth.PUBLIC)
    async def code(request: web.Request) -> web.Response:
        return respond({"code": path_text(request, "code", 20)})

    app = application(Settings.from_env({"MANA_ENV": "development"}), routes)
    return await connect(app)


def fields(error: dict[str, Any]) -> list[str]:
    assert error["statusCode"] == 400
    assert error["error"] == "invalid_request"
    return sorted(item["field"] for item in error["details"])


FULL = GOOD | {
    "appId": "a" * 64,
    "description": "ü" * 500,
    "metadata": {"a": [1, 2.5, None, True, {"b": "c"}]},
    "idempotencyKey": "k" * 255,
    "reservationId": UUID_TEXT,
    "expiresAt": "2026-05-18T00:09:41.123+02:00",
    "email": "a@b.example",
    "colour": "red",
    "interval": "yearly",
    "verified": False,
    "size": -1,
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"amount": 1},
        {"amount": 1_000_000_000},
        {"userId": "x" * 128},
        {"userId": "auth0|5f7c8ec7c33c6c004bbafe82"},
        {"userId": "Jürgen~!$&'()*+,;=:@"},
        {"userId": "..."},
        {"description": None, "metadata": None, "idempotencyKey": None, "email": None},
        {"description": ""},
        {"metadata": {}},
        {"metadata": {"k": "x" * (16 * 1024 - 8)}},
        {"sourceAppId": 7, "nested": {"a": {"b": []}}},
        {"description": "emoji \U0001f600 and \x01"},
    ],
)
async def test_accepted(client: Client, change: dict[str, Any]) -> None:
    answer = await client.post("/orders", json=FULL | change)
    assert answer.status == 200, await answer.text()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount": None}, "amount"),
        ({"amount": 0}, "amount"),
        ({"amount": -1}, "amount"),
        ({"amount": 1_000_000_001}, "amount"),
        ({"amount": 10**30}, "amount"),
        ({"amount": 1.5}, "amount"),
        ({"amount": 5.0}, "amount"),
        ({"amount": True}, "amount"),
        ({"amount": False}, "amount"),
        ({"amount": "5"}, "amount"),
        ({"amount": [5]}, "amount"),
        ({"amount": {"value": 5}}, "amount"),
        ({"userId": ""}, "userId"),
        ({"userId": "x" * 129}, "userId"),
        ({"userId": 7}, "userId"),
        ({"userId": None}, "userId"),
        ({"userId": "."}, "userId"),
        ({"userId": ".."}, "userId"),
        *[({"userId": f"a{character}b"}, "userId") for character in " \t\n\u00a0\u2003/?#%{}\x7f"],
        ({"userId": "a\0b"}, "userId"),
        ({"userId": "a\ud800b"}, "userId"),
        ({"userId": "a\u200bb"}, "userId"),
        ({"appId": ""}, "appId"),
        ({"appId": None}, "appId"),
        ({"appId": "a" * 65}, "appId"),
        ({"appId": 1}, "appId"),
        ({"description": "x" * 501}, "description"),
        ({"description": ["x"]}, "description"),
        ({"description": "a\0"}, "description"),
        ({"description": "\udfff"}, "description"),
        ({"metadata": []}, "metadata"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata": {"k": "x" * (16 * 1024 - 7)}}, "metadata"),
        ({"metadata": {"x": "a\0"}}, "metadata.x"),
        ({"metadata": {"x": [1, {"y": "\ud834"}]}}, "metadata.x[1].y"),
        ({"metadata": {"a\0": 1}}, "metadata"),
        ({"metadata": {"\ud834": 1}}, "metadata"),
        ({"idempotencyKey": ""}, "idempotencyKey"),
        ({"idempotencyKey": "k" * 256}, "idempotencyKey"),
        ({"idempotencyKey": 1}, "idempotencyKey"),
        ({"idempotencyKey": "k\0"}, "idempotencyKey"),
        ({"reservationId": "x"}, "reservationId"),
        ({"reservationId": 1}, "reservationId"),
        ({"expiresAt": "2026-05-18"}, "expiresAt"),
        ({"expiresAt": "2026-05-18T00:00:00"}, "expiresAt"),
        ({"expiresAt": "2026-13-18T00:00:00Z"}, "expiresAt"),
        ({"expiresAt": "9999-12-31T23:59:59-12:00"}, "expiresAt"),
        ({"expiresAt": 1747526981}, "expiresAt"),
        ({"email": "nobody"}, "email"),
        ({"email": "a@"}, "email"),
        ({"email": "a b@c"}, "email"),
        ({"email": "a@b@c"}, "email"),
        ({"email": "a" * 320 + "@b"}, "email"),
        ({"colour": "green"}, "colour"),
        ({"interval": "weekly"}, "interval"),
        ({"interval": None}, "interval"),
        ({"verified": 1}, "verified"),
        ({"verified": "true"}, "verified"),
        ({"size": 1.5}, "size"),
    ],
)
async def test_refused(client: Client, change: dict[str, Any], field: str) -> None:
    answer = await client.post(
        "/orders", data=json.dumps(GOOD | change), headers={"Content-Type": "application/json"}
    )
    error = await answer.json()
    assert answer.status == 400
    assert fields(error) == [field]
    assert field in error["message"]
    assert "Expected" not in error["message"]


async def test_every_wrong_field_is_named(client: Client) -> None:
    answer = await client.post(
        "/orders", json={"amount": "x", "appId": 1, "metadata": {"a": "\0"}, "verified": "no"}
    )
    error = await answer.json()
    assert fields(error) == ["amount", "appId", "metadata.a", "userId", "verified"]
    said = {item["field"]: item["message"] for item in error["details"]}
    assert said["amount"] == "must be a whole number from 1 to 1000000000"
    assert said["userId"] == "is required"
    assert said["verified"] == "must be true or false"


def nested(levels: int) -> bytes:
    return b'{"amount": 5, "userId": "u", "metadata": {"a": %b1%b}}' % (
        b"[" * levels,
        b"]" * levels,
    )


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'"text"',
        b"5",
        b"null",
        b"true",
        b"{",
        b"{]",
        b" ",
        b"amount=5",
        b'{"amount": 5,}',
        b"{'amount': 5}",
        b'{"amount": 5} {}',
        b'{"amount": NaN, "userId": "u"}',
        b'{"amount": 5, "userId": "u", "x": Infinity}',
        b'{"amount": 5, "userId": "u", "metadata": {"a": 1e999}}',
        b'{"amount": 5, "userId": "u", "metadata": {"a": ' + b"9" * 5000 + b"}}",
        b'{"amount": 5, "userId": "u", "x": "\\ud800", "y": NaN}',
        b'{"amount": 5, "userId": "u", "x": "\\ud800", "y": 1e999}',
        b'{"amount": 5, "userId": "\xff"}',
        b'{"amount": 5, "userId": "\xed\xa0\x80"}',
        b'{"amount": 5, "userId": "a\nb"}',
        b'{"amount": 5, "userId": "a\0b"}',
        b'\xef\xbb\xbf{"amount": 5, "userId": "u"}',
        '{"amount": 5, "userId": "u"}'.encode("utf-16"),
        b"[" * 10_000,
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"x": "\\ud800", "y": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        nested(10_000),
        nested(900),
        nested(64),
    ],
)
async def test_not_json_or_no_object_or_too_deep(client: Client, body: bytes) -> None:
    answer = await client.post("/orders", data=body, headers={"Content-Type": "application/json"})
    error = await answer.json()
    assert answer.status == 400, error
    assert error["error"] == "invalid_request"


async def test_deep_but_not_too_deep(client: Client) -> None:
    answer = await client.post(
        "/orders", data=nested(60), headers={"Content-Type": "application/json"}
    )
    assert answer.status == 200


async def test_half_a_surrogate_in_an_unknown_field_is_ignored(client: Client) -> None:
    answer = await client.post(
        "/orders",
        data=b'{"amount": 5, "userId": "u", "sourceAppId": "\\ud800"}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status == 200


async def test_the_words_backslash_u0000_are_no_nul(client: Client) -> None:
    answer = await client.post("/orders", json=GOOD | {"description": "\\u0000"})
    assert answer.status == 200


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=UTF-8", 200),
        ("application/json;charset=latin-1", 200),
        ("application/vnd.api+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/jsonx", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
        (";;;", 415),
    ],
)
async def test_content_types(client: Client, content_type: str, status: int) -> None:
    answer = await client.post(
        "/orders", data=json.dumps(GOOD).encode(), headers={"Content-Type": content_type}
    )
    assert answer.status == status
    if status == 415:
        assert (await answer.json())["error"] == "unsupported_media_type"


async def test_no_content_type(client: Client) -> None:
    answer = await client.post(
        "/orders", data=json.dumps(GOOD).encode(), skip_auto_headers=["Content-Type"]
    )
    assert answer.status == 415


async def test_a_missing_body_is_an_empty_object(client: Client) -> None:
    assert (await client.post("/options")).status == 200
    answer = await client.post("/options", headers={"Content-Type": "application/json"}, data=b"")
    assert answer.status == 200
    assert await answer.json() == {"interval": "monthly", "other": None}
    answer = await client.post("/orders")
    assert fields(await answer.json()) == ["amount", "userId"]


async def test_rules_between_fields(client: Client) -> None:
    answer = await client.post("/options", json={"interval": "yearly"})
    assert fields(await answer.json()) == ["other"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_64_kib_and_not_more(client: Client, chunked: bool) -> None:
    for size, status in ((64 * 1024, 200), (64 * 1024 + 1, 413), (65 * 1024, 413)):
        text = json.dumps(GOOD | {"x": ""})
        body = json.dumps(GOOD | {"x": "y" * (size - len(text))}).encode()
        assert len(body) == size

        async def pieces(body: bytes = body) -> Any:
            for start in range(0, len(body), 1000):
                yield body[start : start + 1000]

        answer = await client.post(
            "/orders",
            data=pieces() if chunked else body,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status == status
        if status == 413:
            assert (await answer.json())["error"] == "payload_too_large"


async def test_a_raw_body_has_a_limit_of_its_own(client: Client) -> None:
    assert (await client.post("/raw", data=b"x" * 128 * 1024)).status == 200
    assert (await client.post("/raw", data=b"x" * (128 * 1024 + 1))).status == 413


@pytest.mark.parametrize(
    ("headers", "body", "outcome"),
    [
        ({}, {}, None),
        ({"Idempotency-Key": "h"}, {}, "h"),
        ({"Idempotency-Key": "h"}, {"idempotencyKey": None}, "h"),
        ({"Idempotency-Key": "h"}, {"idempotencyKey": "b"}, "b"),
        ({"Idempotency-Key": "h" * 300}, {"idempotencyKey": "b"}, "b"),
        ({"Idempotency-Key": "h" * 255}, {}, "h" * 255),
        ({"Idempotency-Key": "h" * 256}, {}, 400),
        ({"Idempotency-Key": ""}, {}, 400),
    ],
)
async def test_idempotency_keys(
    client: Client, headers: dict[str, str], body: dict[str, Any], outcome: str | int | None
) -> None:
    answer = await client.post("/orders", json=GOOD | body, headers=headers)
    if outcome == 400:
        assert fields(await answer.json()) == ["Idempotency-Key"]
    else:
        assert (await answer.json())["key"] == outcome


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("", None),
        ("limit=1&offset=0", None),
        ("limit=500&offset=1000000000&before=abc&kind=gift&unknown=1", None),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=", "limit"),
        ("limit=1.5", "limit"),
        ("limit=+5", "limit"),
        ("limit=%2B5", "limit"),
        ("limit=%205", "limit"),
        ("limit=5_0", "limit"),
        ("limit=0x10", "limit"),
        ("limit=%EF%BC%95", "limit"),
        ("limit=1e1", "limit"),
        ("limit=true", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("limit=5&limit=6", "limit"),
        ("offset=-1", "offset"),
        ("offset=1000000001", "offset"),
        ("before=", "before"),
        ("before=" + "x" * 65, "before"),
        ("before=a%00b", "before"),
        ("kind=grant", "kind"),
        ("kind=", "kind"),
    ],
)
async def test_queries(client: Client, query: str, wrong: str | None) -> None:
    answer = await client.get(f"/pages?{query}")
    if wrong is None:
        assert answer.status == 200, await answer.text()
    else:
        assert fields(await answer.json()) == [wrong]


async def test_every_wrong_parameter_is_named(client: Client) -> None:
    answer = await client.get("/pages?limit=x&offset=y")
    assert fields(await answer.json()) == ["limit", "offset"]


async def test_the_next_page(client: Client) -> None:
    answer = await client.get("/pages?limit=7&offset=3&kind=gift")
    assert answer.headers["Link"] == (
        '<http://localhost:3061/pages?limit=7&kind=gift&before=c1>; rel="next"'
    )


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/users/user-1", 200),
        ("/users/J%C3%BCrgen", 200),
        ("/users/a%20b", 400),
        ("/users/a%2Fb", 400),
        ("/users/a%00b", 400),
        ("/users/%25", 400),
        ("/users/" + "x" * 129, 400),
        (f"/things/{UUID_TEXT}", 200),
        (f"/things/{UUID_TEXT.upper()}", 200),
        ("/things/" + UUID_TEXT.replace("-", ""), 404),
        (f"/things/{{{UUID_TEXT}}}", 404),
        ("/things/1", 404),
        ("/things/%00", 404),
        ("/codes/ABCD", 200),
        ("/codes/" + "A" * 21, 404),
        ("/codes/A%00", 404),
        ("/codes/%FF%ED%A0%80", 200),
    ],
)
async def test_paths(client: Client, path: str, status: int) -> None:
    answer = await client.get(path)
    assert answer.status == status, await answer.text()


# Answers


class Shown(Answer):
    id: UUID
    created_at: Timestamp
    completed_at: Timestamp | None
    note: str | None = None


def test_times_are_utc_with_milliseconds() -> None:
    berlin = timezone(timedelta(hours=2))
    assert timestamp(datetime(2026, 5, 18, 2, 9, 41, 123999, berlin)) == "2026-05-18T00:09:41.123Z"
    assert timestamp(datetime(2026, 5, 18, tzinfo=UTC)) == "2026-05-18T00:00:00.000Z"
    assert timestamp(datetime(2026, 5, 18, 0, 0, 0, 9, UTC)) == "2026-05-18T00:00:00.000Z"
    assert timestamp(None) is None


def test_answers_are_built_of_rows() -> None:
    row = {
        "id": UUID(UUID_TEXT),
        "created_at": datetime(2026, 5, 18, 0, 9, 41, 5000, UTC),
        "completed_at": None,
        "secret": "not shown",
    }
    answer = respond(build(Shown, row), 201, headers={"X-Test": "1"})
    assert answer.status == 201
    assert answer.headers["X-Test"] == "1"
    assert answer.content_type == "application/json"
    assert isinstance(answer.body, bytes)
    assert json.loads(answer.body) == {
        "id": UUID_TEXT,
        "createdAt": "2026-05-18T00:09:41.005Z",
        "completedAt": None,
        "note": None,
    }
    given = build(Shown, row, completed_at=datetime(2027, 1, 1, tzinfo=UTC), note="n")
    assert given.completed_at == "2027-01-01T00:00:00.000Z"
    assert given.note == "n"
    with pytest.raises(KeyError):
        build(Shown, {"id": UUID(UUID_TEXT)})


def test_replays_are_marked() -> None:
    class Done(Replayable):
        success: bool

    class Told(Answer):
        message: str | None

    answer = respond(Done(success=True), replayed=True)
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert isinstance(answer.body, bytes)
    assert json.loads(answer.body) == {
        "success": True,
        "message": "Transaction already processed",
    }
    own = respond(Told(message=None), replayed=True)
    assert isinstance(own.body, bytes)
    assert json.loads(own.body) == {"message": None}
    first = respond(Done(success=True))
    assert "Idempotent-Replayed" not in first.headers
    assert first.body == b'{"success":true}'


async def test_what_is_not_declared_is_not_read(connect: Connect) -> None:
    routes = Routes()

    @routes.post("/body", auth=Auth.PUBLIC, body=Options)
    async def body(request: web.Request) -> web.Response:
        return respond(await read_body(request, Order))

    @routes.get("/query", auth=Auth.PUBLIC)
    async def query(request: web.Request) -> web.Response:
        return respond(read_query(request, Page))

    @routes.post("/key", auth=Auth.PUBLIC, body=Options)
    async def key(request: web.Request) -> web.Response:
        return respond(idempotency_key(request))

    app = application(Settings.from_env({"MANA_ENV": "development"}), routes)
    client = await connect(app)
    for method, path in (("POST", "/body"), ("GET", "/query"), ("POST", "/key")):
        async with client.request(method, path, json=GOOD) as answer:
            assert answer.status == 500, path


def test_numbers_beyond_64_bits_survive_in_metadata() -> None:
    body = parse_body(json.dumps(GOOD | {"metadata": {"n": 10**30}}).encode(), Order)
    assert body.metadata == {"n": 10**30}
    assert isinstance(respond(body).body, bytes)


def test_an_empty_body_with_required_fields() -> None:
    with pytest.raises(ApiError):
        parse_body(b"", Order)


SURPRISES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 10**9, 10**9 + 1, 2**63, 2**64, 1.0, 1.5, "", "a", "\0", "\\u0000",
    "é" * 300, "x" * 300, " ", "a/b", "red", "2026-05-18T00:00:00Z", [], [1], {},
    {"a": {"b": [1, "\0"]}}, {"a": "\ud800"}, "00000000-0000-4000-8000-000000000000",
)  # fmt: skip


def test_the_quick_way_takes_what_the_careful_one_takes() -> None:
    random = Random(7)
    taken = 0
    for _ in range(4000):
        order: dict[str, Any] = {"amount": 5, "userId": "ann"}
        for _ in range(random.randint(0, 2)):
            field = random.choice(
                [*(f.encode_name for f in msgspec.structs.fields(Order)), "other"]
            )
            order[field] = random.choice(SURPRISES)
        raw = json.dumps(order).encode()
        if random.random() < 0.1:
            raw = raw.replace(b"5", random.choice([b"1e999", b"NaN", b"5, ", b"\xff", b"05"]))
        try:
            careful: object = wire._convert(Order, wire._decode(raw))
        except ApiError:
            careful = None
        quick = wire._quickly(raw, Order)
        assert quick in (careful, None), raw
        taken += quick is not None
    assert taken > 500
