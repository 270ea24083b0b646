"""Every input rule of the contract at its edges, for every field of every route; none a 500."""

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
import pytest_asyncio
from yarl import URL

from service.dev.postgres import Cluster
from tests.support.answers import require_error, wrong_fields
from tests.support.clones import shared_clone
from tests.support.databases import Connection, as_settings, connect
from tests.support.running import Answer, Running, an_address, running_service

pytestmark = pytest.mark.asyncio(loop_scope="module")

MISSING = object()
USER = "inputs"
JSON = {"Content-Type": "application/json"}
UUIDS = ("00000000-0000-7000-8000-000000000000", "0192f0c1-2345-7abc-8def-0123456789ab")
_numbers = itertools.count(1)


# What a kind of field takes and refuses


@dataclass(frozen=True)
class Kind:
    """Values at the edges of a field: those it takes, and those it refuses."""

    takes: tuple[Any, ...]
    refuses: tuple[Any, ...]


OTHER_TYPES: tuple[Any, ...] = (True, False, [], {}, ["a"], {"a": 1})
UNSTORABLE = ("a\0b", "\0", "a\ud800b", "\udfff", "\ud83d")


def whole_number(low: int, high: int) -> Kind:
    return Kind(
        takes=(low, high),
        refuses=(
            low - 1,
            high + 1,
            -1,
            -(2**63),
            2**31,
            2**63,
            2**64,
            10**30,
            low + 0.5,
            float(low),
            1e300,
            str(low),
            "",
            "five",
            *OTHER_TYPES,
        ),
    )


def text(low: int, high: int) -> Kind:
    return Kind(
        takes=("a", "ä" * high, "\U0001f600" * high, "\\u0000", "a\x01\n\x7f b")
        + (("",) if low == 0 else ()),
        refuses=(
            *(() if low == 0 else ("",)),
            "a" * (high + 1),
            "\U0001f600" * (high + 1),
            *UNSTORABLE,
            0,
            1,
            1.5,
            *OTHER_TYPES,
        ),
    )


def choice(*values: str) -> Kind:
    return Kind(
        takes=values,
        refuses=(
            "",
            "other",
            values[0].upper(),
            f"{values[0]} ",
            *UNSTORABLE,
            0,
            1.5,
            *OTHER_TYPES,
        ),
    )


AMOUNT = whole_number(1, 10**9)
USER_ID = Kind(
    takes=("x" * 128, "ü" * 128, "auth0|5f7c8ec7c33c6c004bbafe82", "Jürgen~!$&'()*+,;=:@", "..."),
    refuses=(
        "",
        "x" * 129,
        ".",
        "..",
        *(f"a{one}b" for one in " \t\n\r\u00a0\u2003\u3000/?#%{}\x01\x7f\u0085\u200b"),
        *UNSTORABLE,
        0,
        1.5,
        *OTHER_TYPES,
    ),
)
AN_ID = Kind(
    takes=(),
    refuses=(
        "",
        "x",
        UUIDS[0][:-1],
        f"{UUIDS[0]}0",
        f" {UUIDS[0]}",
        "z" * 36,
        *UNSTORABLE,
        0,
        1.5,
        *OTHER_TYPES,
    ),
)
METADATA = Kind(
    takes=({}, {"a": [1, 2.5, None, True, {"b": "ü"}], "n": 10**30}, {"k": "x" * (16 * 1024 - 8)}),
    refuses=(
        [],
        ["a"],
        "a",
        "",
        0,
        1.5,
        True,
        {"k": "x" * (16 * 1024 - 7)},
        {"k": "ü" * 8 * 1024},
        {"k": "a\0"},
        {"a\0": 1},
        {"k": {"a": ["\ud800"]}},
        {"\udfff": 1},
    ),
)
EMAIL = Kind(
    takes=("a@b", "A.b+c@example.org", f"{'a' * 242}@example.org", "ü@exämple.org"),
    refuses=(
        "",
        "a",
        "@",
        "a@",
        "@b",
        "a@b@c",
        "a b@c",
        "a@b\n",
        f"{'a' * 243}@example.org",
        *UNSTORABLE,
        0,
        *OTHER_TYPES,
    ),
)


def instant(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()


EXPIRES_AT = Kind(
    takes=(instant(1), instant(3649), (datetime.now(UTC) + timedelta(days=2)).isoformat()),
    refuses=(
        "",
        "tomorrow",
        "2040-01-01",
        "2040-01-01T00:00:00",
        "2040-13-01T00:00:00Z",
        "2040-02-30T00:00:00Z",
        instant(-1),
        instant(3652),
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59-12:00",
        *UNSTORABLE,
        2**31,
        1.5,
        *OTHER_TYPES,
    ),
)
BOOL = Kind(takes=(True, False), refuses=("true", "", 0, 1, 1.5, [], {}, *UNSTORABLE))
KEY = text(1, 255)
INTERVAL = choice("monthly", "quarterly", "yearly")


# The routes


@dataclass(frozen=True)
class Field:
    """A field of a body; `null` tells whether null is as good as none."""

    kind: Kind
    required: bool = False
    null: bool = True


@dataclass(frozen=True)
class Call:
    """A route with a body that it takes."""

    path: str
    good: dict[str, Any]
    fields: dict[str, Field]
    status: int = 200
    needs: str = ""
    """What must be there before: `hold`, `subscription` or `gift`."""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def internal(self) -> bool:
        return self.path.startswith("/internal")


MUST = {"required": True, "null": False}
DEBIT_FIELDS = {
    "amount": Field(AMOUNT, **MUST),
    "appId": Field(text(1, 64), **MUST),
    "description": Field(text(0, 500), **MUST),
    "metadata": Field(METADATA),
    "idempotencyKey": Field(KEY),
}
DEBIT = {"amount": 1, "appId": "app", "description": "x"}
CALLS = [
    Call("/credits/use", DEBIT, DEBIT_FIELDS),
    Call("/sync/activate", {}, {"interval": Field(INTERVAL, null=False)}),
    Call(
        "/sync/change-interval",
        {"interval": "yearly"},
        {"interval": Field(INTERVAL, **MUST)},
        needs="subscription",
    ),
    Call(
        "/gifts",
        {"totalCredits": 1},
        {
            "totalCredits": Field(whole_number(1, 10_000), required=True, null=False),
            "message": Field(text(0, 500)),
            "expirationDays": Field(whole_number(1, 3650)),
            "expiresAt": Field(EXPIRES_AT),
            "idempotencyKey": Field(KEY),
        },
        status=201,
    ),
    Call(
        "/gifts",
        {"credits": 1, "type": "personalized", "targetEmail": "zoe@example.org"},
        {
            "credits": Field(whole_number(1, 10_000)),
            "type": Field(Kind(("personalized",), choice("personalized").refuses)),
            "targetEmail": Field(EMAIL, required=True, null=False),
        },
        status=201,
    ),
    Call(
        "/gifts/CODE/redeem",
        {},
        {"sourceAppId": Field(text(1, 64))},
        needs="gift",
    ),
    Call("/internal/credits/init", {"userId": USER}, {"userId": Field(USER_ID, **MUST)}),
    Call(
        "/internal/credits/use",
        {**DEBIT, "userId": USER},
        {**DEBIT_FIELDS, "userId": Field(Kind((), USER_ID.refuses), **MUST)},
    ),
    Call(
        "/internal/credits/refund",
        {"userId": USER, "amount": 1, "description": "x"},
        {
            "userId": Field(USER_ID, **MUST),
            "amount": Field(AMOUNT, **MUST),
            "description": Field(text(0, 500), **MUST),
            "appId": Field(text(1, 64), null=False),
            "metadata": Field(METADATA),
            "idempotencyKey": Field(KEY),
            "transactionId": Field(AN_ID),
        },
    ),
    Call(
        "/internal/credits/grant",
        {"userId": USER, "amount": 1, "reason": "reward"},
        {
            "userId": Field(USER_ID, **MUST),
            "amount": Field(AMOUNT, **MUST),
            "reason": Field(text(1, 64), **MUST),
            "referenceId": Field(text(1, 128), **MUST),
            "description": Field(text(0, 256)),
        },
    ),
    Call(
        "/internal/credits/reserve",
        {"userId": USER, "amount": 1, "reason": "research"},
        {
            "userId": Field(Kind((), USER_ID.refuses), **MUST),
            "amount": Field(AMOUNT, **MUST),
            "reason": Field(text(1, 200), **MUST),
            "expiresInSeconds": Field(whole_number(1, 604_800), null=False),
            "idempotencyKey": Field(KEY),
        },
    ),
    Call(
        "/internal/credits/commit",
        {},
        {
            "reservationId": Field(AN_ID, **MUST),
            "userId": Field(Kind((), USER_ID.refuses)),
            "description": Field(text(0, 500)),
            "amount": Field(AMOUNT),
        },
        needs="hold",
    ),
    Call(
        "/internal/credits/refund-reservation",
        {},
        {
            "reservationId": Field(AN_ID, **MUST),
            "userId": Field(Kind((), USER_ID.refuses)),
        },
        needs="hold",
    ),
    Call(
        "/internal/gifts/redeem-pending",
        {"userId": USER, "email": "nobody@example.org"},
        {
            "userId": Field(USER_ID, **MUST),
            "email": Field(EMAIL, **MUST),
            "emailVerified": Field(BOOL),
        },
    ),
]
FIELDS = [
    pytest.param(call, name, id=f"{call.path[1:]}-{name}") for call in CALLS for name in call.fields
]
ROUTES = [pytest.param(call, id=call.path[1:]) for call in CALLS if call.path != "/gifts"] + [
    pytest.param(next(call for call in CALLS if call.path == "/gifts"), id="gifts")
]


@dataclass(frozen=True)
class Shared:
    """A service, and a look into its database."""

    service: Running
    admin: Connection

    async def moves(self) -> int:
        """How many rows and holds there are: refused calls add none."""
        counted: int = await self.admin.fetchval(
            "SELECT (SELECT count(*) FROM credits.transactions)"
            " + (SELECT count(*) FROM credits.reservations)"
            " + (SELECT coalesce(sum(version), 0) FROM credits.balances)"
        )
        return counted

    async def post(
        self, call: Call, body: dict[str, Any], user: str = USER, path: str | None = None
    ) -> Answer:
        """Send a body; half of a surrogate pair goes out as an escape."""
        return await self.send(call, json.dumps(body).encode(), JSON, user, path)

    async def send(
        self,
        call: Call,
        raw: bytes,
        headers: dict[str, str],
        user: str = USER,
        path: str | None = None,
    ) -> Answer:
        sent = {"X-Forwarded-For": an_address(), **headers}
        if call.path.endswith("/redeem") and user == USER:
            # Nobody may try more than ten a minute.
            user = f"{USER}-{next(_numbers)}"
        if call.internal:
            sent["X-Service-Key"] = self.service.settings.service_keys[0]
        else:
            sent["Authorization"] = f"Bearer {self.service.token(user)}"
        async with self.service.session.post(
            f"{self.service.url}/api/v1{path or call.path}",
            data=raw,
            headers=sent,
            skip_auto_headers=["Content-Type"],
        ) as answer:
            return Answer(answer.status, await answer.json(), dict(answer.headers))

    async def prepared(self, call: Call) -> tuple[dict[str, Any], str, str]:
        """A body that the route takes, for whom, and the path: with what must be there before."""
        user = f"{USER}-{next(_numbers)}"
        await self.service.grant(user, 10**9)
        body = {name: user if value == USER else value for name, value in call.good.items()}
        path = call.path
        match call.needs:
            case "hold":
                held = await self.service.call(
                    "POST",
                    "/internal/credits/reserve",
                    internal=True,
                    json={"userId": user, "amount": 10**9, "reason": "x"},
                )
                body["reservationId"] = held.body["reservationId"]
            case "subscription":
                await self.service.call("POST", "/sync/activate", user=user)
            case "gift":
                gift = await self.service.call(
                    "POST", "/gifts", user=user, json={"totalCredits": 1}
                )
                path = path.replace("CODE", gift.body["code"])
        if call.path.endswith("/grant"):
            body["referenceId"] = f"reference-{user}"
        return body, user, path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(cluster: Cluster, template: str) -> AsyncIterator[Shared]:
    """One service for all tables: what is refused changes nothing, what is taken has its user."""
    async with (
        shared_clone(cluster, template) as clone,
        running_service(as_settings(cluster, clone.name)) as running,
    ):
        admin = await connect(clone.admin_url)
        await running.grant(USER, 10**9)
        yield Shared(running, admin)
        await admin.close()


def refused_base(call: Call) -> dict[str, Any]:
    """A body that is right by its form; what it names need not be there."""
    body = dict(call.good)
    if call.needs == "hold":
        body["reservationId"] = UUIDS[1]
    if call.path.endswith("/grant"):
        body["referenceId"] = "refused"
    return body


def shown(value: Any) -> str:
    return repr(value)[:60]


# Bodies, field by field


@pytest.mark.parametrize(("call", "name"), FIELDS)
async def test_what_a_field_refuses(shared: Shared, call: Call, name: str) -> None:
    rule = call.fields[name]
    base = refused_base(call)
    values = list(rule.kind.refuses)
    if not rule.null:
        values.append(None)
    if rule.required:
        values.append(MISSING)
    before = await shared.moves()
    wrong: list[tuple[str, Any]] = []
    for value in values:
        body = {**base, name: value}
        if value is MISSING:
            del body[name]
        answer = await shared.post(call, body)
        if answer.status != 400:
            wrong.append((shown(value), answer.status))
            continue
        named = {one.split(".")[0].split("[")[0] for one in wrong_fields(answer)}
        if named != {name}:
            wrong.append((shown(value), named))
        assert name in answer.body["message"]

    assert wrong == []
    assert await shared.moves() == before


@pytest.mark.parametrize(("call", "name"), FIELDS)
async def test_what_a_field_takes(shared: Shared, call: Call, name: str) -> None:
    rule = call.fields[name]
    values = list(rule.kind.takes)
    if rule.null:
        values.append(None)
    if not rule.required:
        values.append(MISSING)
    wrong = []
    for value in values:
        base, user, path = await shared.prepared(call)
        body = {**base, name: value}
        if value is MISSING:
            body.pop(name, None)
        if name == "credits" and value in (None, MISSING):
            body["totalCredits"] = 1
        answer = await shared.post(call, body, user, path)
        if answer.status != call.status:
            wrong.append((shown(value), answer.status, answer.body))

    assert wrong == []


@pytest.mark.parametrize("call", ROUTES)
async def test_every_wrong_field_is_named_at_once(shared: Shared, call: Call) -> None:
    body = {name: ["wrong"] for name in call.fields}

    answer = await shared.post(call, body)

    assert wrong_fields(answer) == sorted(call.fields)


@pytest.mark.parametrize("call", ROUTES)
async def test_unknown_fields_are_ignored(shared: Shared, call: Call) -> None:
    body, user, path = await shared.prepared(call)
    extra = {"zzUnknown": {"a": [1, {"b": None}]}, "ZZ": "\ud800", "": 1, "__proto__": {}}

    answer = await shared.post(call, {**body, **extra}, user, path)

    assert answer.status == call.status, answer.body


async def test_what_is_kept_is_what_was_sent(shared: Shared) -> None:
    await shared.service.grant("echo", 100)
    description = "\u0001\x7f\n\t\\ \" ' \u2028 \U0001f600 \ufffd \ufeff e\u0301"
    metadata: dict[str, Any] = {
        "": "",
        "ü": [0, -1, 1.5, 10**18, None, True, {"deep": [[[]]]}],
        "1": "\\u0000",
    }

    answer = await shared.post(
        CALLS[0],
        {"amount": 1, "appId": " a ", "description": description, "metadata": metadata},
        "echo",
    )

    transaction = answer.body["transaction"]
    assert (transaction["appId"], transaction["description"]) == (" a ", description)
    assert transaction["metadata"] == metadata


# Bodies as a whole


def nested(levels: int) -> Iterator[bytes]:
    yield b"[" * levels + b"]" * levels
    yield b'{"a":' * levels + b"1" + b"}" * levels
    yield b'{"metadata": ' + b"[" * levels + b"]" * levels + b"}"
    yield b'{"metadata": {"a": ' + b'{"a":' * levels + b"1" + b"}" * levels + b"}}"
    yield b'{"idempotencyKey": ' + b"[" * levels + b"]" * levels + b"}"
    yield b'{"unknown": "\\ud800", "x": ' + b"[" * levels + b"]" * levels + b"}"
    yield b"[" * levels


NO_OBJECTS = (
    b"[]",
    b'[{"amount": 1}]',
    b'"text"',
    b"5",
    b"1.5",
    b"null",
    b"true",
    b"{",
    b'{"a": 1,}',
    b"{'a': 1}",
    b'{"a": 1} {}',
    b" ",
    b"\0",
    b"amount=5",
    b'{"a": NaN}',
    b'{"a": -Infinity}',
    b'{"a": 1e999}',
    b'{"a": "\xff"}',
    b'{"a": "\xed\xa0\x80"}',
    b'{"a": "\0"}',
    b'{"a": "\\x"}',
    b"\xef\xbb\xbf{}",
    '{"a": 1}'.encode("utf-16"),
)


@pytest.mark.parametrize("call", ROUTES)
async def test_what_is_no_json_object(shared: Shared, call: Call) -> None:
    before = await shared.moves()
    for raw in NO_OBJECTS:
        require_error(await shared.send(call, raw, JSON), 400, "invalid_request")
    assert await shared.moves() == before


@pytest.mark.parametrize("call", ROUTES)
async def test_ten_thousand_levels_of_nesting(shared: Shared, call: Call) -> None:
    before = await shared.moves()
    for raw in nested(10_000):
        if len(raw) <= 64 * 1024:
            require_error(await shared.send(call, raw, JSON), 400, "invalid_request")
    assert await shared.moves() == before


async def test_metadata_nested_as_deep_as_it_may_be(shared: Shared) -> None:
    def metadata(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = {"a": value}
        return value

    body, user, path = await shared.prepared(CALLS[0])
    taken = await shared.post(CALLS[0], {**body, "metadata": metadata(60)}, user, path)
    refused = await shared.post(CALLS[0], {**body, "metadata": metadata(70)}, user, path)

    assert taken.status == 200
    assert taken.body["transaction"]["metadata"] == metadata(60)
    assert wrong_fields(refused) == ["metadata"]


@pytest.mark.parametrize("call", ROUTES)
async def test_a_body_of_64_kib_and_not_more(shared: Shared, call: Call) -> None:
    for size, status in ((64 * 1024, call.status), (64 * 1024 + 1, 413), (65 * 1024, 413)):
        body, user, path = await shared.prepared(call)
        empty = len(json.dumps({**body, "filler": ""}))
        raw = json.dumps({**body, "filler": "x" * (size - empty)}).encode()
        assert len(raw) == size
        answer = await shared.send(call, raw, JSON, user, path)
        assert answer.status == status, answer.body
        if status == 413:
            require_error(answer, 413, "payload_too_large")


@pytest.mark.parametrize("call", ROUTES)
async def test_content_types(shared: Shared, call: Call) -> None:
    for content_type, status in (
        ("application/json", call.status),
        ("application/json; charset=utf-8", call.status),
        ("APPLICATION/JSON", call.status),
        (None, 415),
        ("", 415),
        ("text/plain", 415),
        ("text/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/jsonp", 415),
    ):
        body, user, path = await shared.prepared(call)
        headers = {} if content_type is None else {"Content-Type": content_type}
        answer = await shared.send(call, json.dumps(body).encode(), headers, user, path)
        assert answer.status == status, (content_type, answer.body)
        if status == 415:
            require_error(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("call", ROUTES)
async def test_a_missing_body_is_an_empty_object(shared: Shared, call: Call) -> None:
    required = sorted(name for name, rule in call.fields.items() if rule.required)
    if call.path == "/gifts":
        required = ["totalCredits"]
    for headers in ({}, JSON):
        _, user, path = await shared.prepared(call)
        answer = await shared.send(call, b"", headers, user, path)
        if required:
            assert wrong_fields(answer) == required
        else:
            assert answer.status == call.status


async def test_routes_without_a_body_take_any(shared: Shared) -> None:
    for path in ("/sync/deactivate", "/internal/sync/charge-recurring"):
        call = Call(path, {}, {})
        for raw in (b"", b"{}", b"[" * 10_000, b"\xff", b"x" * 60_000):
            answer = await shared.send(call, raw, JSON)
            assert answer.status in (200, 400), (path, raw[:10], answer.body)
            assert answer.body.get("error") in (None, "sync_not_active", "invalid_request")


# Purchases: without Stripe nothing is taken, but what is wrong is told first


PURCHASE = Call("/credits/purchase", {}, {})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("packageId", (*AN_ID.refuses, None, MISSING)),
        ("idempotencyKey", KEY.refuses),
        ("successUrl", ("", "x" * 2049, *UNSTORABLE, 0, *OTHER_TYPES)),
        ("cancelUrl", ("", "x" * 2049, *UNSTORABLE, 0, *OTHER_TYPES)),
    ],
)
async def test_what_a_purchase_refuses(shared: Shared, name: str, values: tuple[Any, ...]) -> None:
    base = {
        "packageId": UUIDS[1],
        "successUrl": "http://localhost:5173/ok",
        "cancelUrl": "http://localhost:5173/no",
    }
    require_error(await shared.post(PURCHASE, base), 503, "stripe_not_configured")
    for value in values:
        body = {**base, name: value}
        if value is MISSING:
            del body[name]
        assert wrong_fields(await shared.post(PURCHASE, body)) == [name], shown(value)


# Queries


WRONG_NUMBERS = (
    "",
    "1.5",
    "+5",
    " 5",
    "5 ",
    "5_0",
    "0x10",
    "1e1",
    "true",
    "null",
    "\u0665",
    "9" * 400,
)
Edges = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
PAGES: Edges = {
    "limit": (("1", "500"), ("0", "501", "-1", *WRONG_NUMBERS)),
    "offset": (("0", "1000000000"), ("-1", "1000000001", *WRONG_NUMBERS)),
}
TYPES = ("purchase", "usage", "refund", "gift", "grant", "reversal", "forfeiture")
QUERIES: dict[str, Edges] = {
    "/credits/transactions": {
        **PAGES,
        "before": (
            ("1", "9223372036854775807"),
            (
                "",
                "x",
                "0",
                "-1",
                "1.5",
                "+1",
                "1 1",
                "9223372036854775808",
                "\u0661",
                "1" * 65,
                "1\0",
            ),
        ),
        "type": (TYPES, ("", "other", "USAGE", "usage,gift", "a\0")),
        "appId": (("a", "ä" * 64), ("", "a" * 65, "a\0b")),
    },
    "/credits/purchases": PAGES,
    "/gifts/me/created": PAGES,
    "/gifts/me/received": PAGES,
    "/credits/usage": {"days": (("1", "366"), ("0", "367", "-1", *WRONG_NUMBERS))},
}


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in QUERIES.items() for name in names]
)
async def test_query_parameters(shared: Shared, path: str, name: str) -> None:
    takes, refuses = QUERIES[path][name]
    for value in takes:
        answer = await shared.service.call("GET", f"{path}?{name}={quote(value)}", user=USER)
        assert (answer.status, isinstance(answer.body, list)) == (200, True), value
    for value in refuses:
        answer = await shared.service.call("GET", f"{path}?{name}={quote(value)}", user=USER)
        assert wrong_fields(answer) == [name], value
    twice = await shared.service.call(
        "GET", f"{path}?{name}={quote(takes[0])}&{name}={quote(takes[1])}", user=USER
    )
    assert wrong_fields(twice) == [name]


@pytest.mark.parametrize("path", QUERIES)
async def test_unknown_parameters_are_ignored(shared: Shared, path: str) -> None:
    answer = await shared.service.call("GET", f"{path}?unknown=1&a[]=%00&=", user=USER)

    assert answer.status == 200


# Paths and headers


async def test_user_ids_in_paths(shared: Shared) -> None:
    key = {"X-Service-Key": shared.service.settings.service_keys[0]}
    for path in ("/internal/credits/balance", "/internal/sync/status"):
        for user_id, status in [
            *((value, 200) for value in USER_ID.takes),
            *((value, 400) for value in USER_ID.refuses if isinstance(value, str) and value),
        ]:
            encoded = quote(user_id.encode("utf-8", "surrogatepass"), safe="").replace(".", "%2E")
            url = URL(f"{shared.service.url}/api/v1{path}/{encoded}", encoded=True)
            async with shared.service.session.get(url, headers=key) as answer:
                got = Answer(answer.status, await answer.json(), dict(answer.headers))
            assert got.status == status, (path, user_id, got.body)
            if status == 400:
                assert wrong_fields(got) == ["userId"]


@pytest.mark.parametrize(
    "purchase_id",
    ["x", "1", UUIDS[0], UUIDS[0].replace("-", ""), f"%7B{UUIDS[0]}%7D", "%00", "a%2Fb", "%F0"],
)
async def test_what_is_no_id_of_a_purchase_is_not_found(shared: Shared, purchase_id: str) -> None:
    answer = await shared.service.call("GET", f"/credits/purchase/{purchase_id}", user=USER)

    require_error(answer, 404, "not_found")


@pytest.mark.parametrize(
    ("value", "status"),
    [("a", 200), ("k" * 255, 200), ("with spaces", 200), ("k" * 256, 400), ("", 400)],
)
async def test_idempotency_keys_in_headers(shared: Shared, value: str, status: int) -> None:
    user = f"keys-{next(_numbers)}"
    await shared.service.grant(user, 10)
    answer = await shared.service.call(
        "POST", "/credits/use", user=user, json=DEBIT, headers={"Idempotency-Key": value}
    )

    assert answer.status == status
    if status == 400:
        assert wrong_fields(answer) == ["Idempotency-Key"]


async def test_the_name_of_a_service(shared: Shared) -> None:
    for name, status in (("a" * 64, 200), ("mana-research", 200), ("", 200), ("a" * 65, 400)):
        answer = await shared.service.call(
            "POST",
            "/internal/credits/init",
            internal=True,
            json={"userId": f"named-{uuid4()}"},
            headers={"X-App-Id": name},
        )
        assert answer.status == status, (name, answer.body)
