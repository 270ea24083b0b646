"""The OpenAPI document: it is valid, it is whole, and it is what the service does.

That every answer is one that it foresees is seen to in tests/support/running.py, for every call of
every test that goes over HTTP.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import asyncpg
import msgspec
import pytest
from aiohttp import web
from jsonschema_rs import Draft202012Validator, meta
from schemathesis.specs.openapi.definitions import OPENAPI_31

from service import errors
from service.api.fields import UserId
from service.app import create_app
from service.ids import is_user_id
from service.keys import PAGES
from service.middleware import declared_routes
from service.openapi import make_document
from service.pages import web_files
from service.paths import WEB
from service.settings import Settings
from service.wire import Answer, Auth, Body, Route, Routes, parse_body
from tests.support.contract import Contract
from tests.support.databases import Connection
from tests.support.routes import declared_routes as routes_with_auth
from tests.support.running import Running

SCHEMES: dict[Auth, list[dict[str, list[str]]]] = {
    Auth.PUBLIC: [],
    Auth.USER: [{"userToken": []}],
    Auth.ADMIN: [{"adminToken": []}],
    Auth.SERVICE: [{"serviceKey": []}],
    Auth.SIGNED: [{"stripeSignature": []}],
}


def application() -> web.Application:
    return create_app(Settings.from_env({"MANA_ENV": "development"}))


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(application()[PAGES]["openapi.json"].body)
    return read


@pytest.fixture(scope="module")
def contract(document: dict[str, Any]) -> Contract:
    return Contract(document)


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a document."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that stands for itself, with everything that it refers to."""
    return {**schema, "components": document["components"]}


# The document as a document


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    problems = [str(error) for error in Draft202012Validator(OPENAPI_31).iter_errors(document)]
    assert problems == []


def test_its_schemas_are_json_schemas(document: dict[str, Any]) -> None:
    schemas = [*document["components"]["schemas"].values()]
    schemas += [part["schema"] for part in walk(document["paths"]) if "schema" in part]
    assert len(schemas) > 100
    for schema in schemas:
        meta.validate(schema, registry=None)


def test_nothing_refers_to_what_is_not_there(document: dict[str, Any]) -> None:
    references = {part["$ref"] for part in walk(document) if isinstance(part.get("$ref"), str)}
    assert references
    for reference in references:
        at: Any = document
        for key in reference.removeprefix("#/").split("/"):
            at = at[key]
    named = {reference.rpartition("/")[2] for reference in references}
    queries = {route.query.__name__ for route in declared_routes(application()) if route.query}
    assert set(document["components"]["schemas"]) - named <= queries


def test_its_examples_are_valid(document: dict[str, Any]) -> None:
    with_examples = [part for part in walk(document["paths"]) if "example" in part]
    assert len(with_examples) > 100
    for part in with_examples:
        validator = Draft202012Validator(resolved(document, part["schema"]), validate_formats=True)
        assert validator.is_valid(part["example"]), part
    for part in walk(document["components"]["schemas"]):
        for example in part.get("examples", ()):
            schema = resolved(document, part)
            assert Draft202012Validator(schema, validate_formats=True).is_valid(example), part


# The document and the routes


def test_every_route_is_documented_and_nothing_else(contract: Contract) -> None:
    assert set(contract.operations()) == set(routes_with_auth())


def test_who_may_call(contract: Contract) -> None:
    told = {key: operation["security"] for key, operation in contract.operations().items()}
    assert told == {key: SCHEMES[auth] for key, auth in routes_with_auth().items()}


def test_what_a_route_says(contract: Contract) -> None:
    for route in declared_routes(application()):
        operation = contract.operations()[route.method, route.path]
        where = (route.method, route.path)
        assert operation["operationId"] == route.handler.__name__, where
        assert operation["summary"], where
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if route.body is not None:
            reference = f"#/components/schemas/{route.body.__name__}"
            assert content["schema"] == {"$ref": reference}, where
        else:
            assert (content is not None) == (route.auth is Auth.SIGNED), where
        parameters = {(one["in"], one["name"]) for one in operation["parameters"]}
        expected = {("path", name) for name in re.findall(r"\{(\w+)\}", route.path)}
        if route.query is not None:
            expected |= {
                ("query", field.encode_name) for field in msgspec.structs.fields(route.query)
            }
        if route.takes_key:
            expected.add(("header", "Idempotency-Key"))
        if 304 in route.others:
            expected.add(("header", "If-None-Match"))
        if route.auth is Auth.SERVICE:
            expected.add(("header", "X-App-Id"))
        assert parameters == expected, where
        statuses = set(operation["responses"])
        assert ({"401"} <= statuses) == (route.auth in (Auth.USER, Auth.ADMIN, Auth.SERVICE)), where
        assert ({"429"} <= statuses) == bool(route.limits), where
        assert ({"409"} <= statuses) == route.takes_key, where
        assert ({"413", "415"} <= statuses) == (route.body is not None), where


def test_every_error_of_the_service_is_known() -> None:
    made = [
        errors.invalid("field", "is wrong"),
        errors.bad_request("wrong"),
        errors.unauthorized("no"),
        errors.forbidden(),
        errors.not_found(),
        errors.payload_too_large(1),
        errors.unsupported_media_type(),
        errors.too_slow(),
        errors.rate_limited(1),
        errors.stripe_not_configured(),
        errors.UnavailableError(),
        errors.OutcomeUnknownError(),
    ]
    for error in made:
        assert errors.REFUSALS[error.code].status == error.status, error.code
    for spec in errors.SQLSTATES.values():
        if spec.status < 500:
            assert errors.REFUSALS[spec.code].status == spec.status, spec.code


async def test_enumerations_are_those_of_the_database(
    document: dict[str, Any], admin: Connection
) -> None:
    async def values(type_: str) -> set[str]:
        rows: list[asyncpg.Record] = await admin.fetch(f"SELECT unnest(enum_range(NULL::{type_}))")
        return {row[0] for row in rows}

    for schema, field, type_ in (
        ("Transaction", "type", "credits.transaction_type"),
        ("PurchaseView", "status", "credits.purchase_status"),
        ("Status", "interval", "credits.sync_interval"),
        ("GiftView", "type", "gifts.gift_type"),
        ("GiftView", "status", "gifts.gift_status"),
        ("ActionView", "action", "credits.admin_action"),
        ("ExportedAction", "action", "credits.admin_action"),
        ("HoldView", "status", "credits.reservation_status"),
        ("EventView", "state", "credits.stripe_event_state"),
        ("NoticeView", "kind", "credits.notice_kind"),
        ("NoticeView", "state", "credits.notice_state"),
    ):
        told = document["components"]["schemas"][schema]["properties"][field]["enum"]
        assert set(told) == await values(type_), (schema, field)


def test_a_route_that_says_too_little_stops_the_start() -> None:
    async def handler(request: web.Request) -> web.Response:
        """Do something."""
        raise NotImplementedError

    async def silent(request: web.Request) -> web.Response:
        raise NotImplementedError

    class Said(Answer):
        """Something."""

        what: str

    def make(*declared: Route) -> None:
        make_document(declared, base_url="http://x", version="1")

    good = Route("GET", "/a", Auth.PUBLIC, (), handler, answer=Said)
    make(good)
    for bad in (
        Route("GET", "/b", Auth.PUBLIC, (), handler),
        Route("GET", "/b", Auth.PUBLIC, (), silent, answer=Said),
        Route("GET", "/b/{unheard}", Auth.PUBLIC, (), handler, answer=Said),
        Route("GET", "/b", Auth.PUBLIC, (), handler, answer=Said, errors=("no_such_code",)),
    ):
        with pytest.raises((ValueError, KeyError)):
            make(bad)
    with pytest.raises(ValueError, match="handler"):
        make(good, good)
    assert Routes().get("/c", auth=Auth.PUBLIC) is not None


ENVELOPE = {"statusCode": 402, "error": "insufficient_credits", "message": "No"}
HEADERS = {"X-Request-Id": "a", "Content-Type": "application/json"}
USE = "/api/v1/credits/use"


def test_the_judge_lets_what_is_documented_pass(contract: Contract) -> None:
    contract.require("POST", USE, 402, HEADERS, ENVELOPE)
    contract.require("POST", USE, 402, HEADERS, ENVELOPE | {"details": {"required": 1}})
    limited = ENVELOPE | {"statusCode": 429, "error": "rate_limited"}
    contract.require("GET", "/api/v1/gifts/X", 429, HEADERS | {"Retry-After": "3"}, limited)


@pytest.mark.parametrize(
    ("path", "status", "headers", "body"),
    [
        (USE, 418, HEADERS, ENVELOPE | {"statusCode": 418}),
        (USE, 402, HEADERS, ENVELOPE | {"error": "sync_gifted"}),
        (USE, 402, HEADERS, ENVELOPE | {"statusCode": 400}),
        (USE, 402, HEADERS, ENVELOPE | {"more": 1}),
        (USE, 402, HEADERS, {"error": "insufficient_credits"}),
        (USE, 402, {"Content-Type": "application/json"}, ENVELOPE),
        (USE, 402, HEADERS | {"Link": "<x>"}, ENVELOPE),
        (USE, 402, HEADERS | {"Content-Type": "text/html"}, ENVELOPE),
        (USE, 200, HEADERS, {"success": True}),
        ("/api/v1/nowhere", 402, HEADERS, ENVELOPE),
    ],
)
def test_the_judge_refuses_what_is_not(
    contract: Contract, path: str, status: int, headers: dict[str, str], body: Any
) -> None:
    with pytest.raises(AssertionError):
        contract.require("POST", path, status, headers, body)


# The schemas and what the service accepts


BODIES: list[tuple[str, dict[str, Any], bool]] = [
    ("CreateGift", {}, False),
    ("CreateGift", {"totalCredits": 1}, True),
    ("CreateGift", {"credits": 10_000}, True),
    ("CreateGift", {"credits": 10_001}, False),
    ("CreateGift", {"totalCredits": None}, False),
    ("CreateGift", {"totalCredits": None, "credits": 1}, True),
    ("CreateGift", {"totalCredits": 1, "type": "personalized"}, False),
    ("CreateGift", {"totalCredits": 1, "type": "personalized", "targetEmail": None}, False),
    ("CreateGift", {"totalCredits": 1, "type": "personalized", "targetEmail": "a@b.org"}, True),
    ("CreateGift", {"totalCredits": 1, "type": "simple", "targetEmail": "a@b.org"}, False),
    ("CreateGift", {"totalCredits": 1, "type": "simple", "targetEmail": None}, True),
    ("CreateGift", {"totalCredits": 1, "targetEmail": "a@b.org"}, True),
    ("CreateGift", {"totalCredits": 1, "targetEmail": "a b.org"}, False),
    ("CreateGift", {"totalCredits": 1, "expiresAt": "2026-05-18T00:09:41.123Z"}, True),
    ("CreateGift", {"totalCredits": 1, "expiresAt": "2026-05-18T00:09:41.123"}, False),
    ("CreateGift", {"totalCredits": 1, "expirationDays": 3651}, False),
    ("UseCredits", {"amount": 1, "appId": "a", "description": ""}, True),
    ("UseCredits", {"amount": 1, "appId": "", "description": ""}, False),
    ("UseCredits", {"amount": 1.5, "appId": "a", "description": ""}, False),
    ("UseCredits", {"amount": True, "appId": "a", "description": ""}, False),
    ("UseCredits", {"amount": "1", "appId": "a", "description": ""}, False),
    ("UseCredits", {"amount": 1_000_000_000, "appId": "a", "description": "x" * 500}, True),
    ("UseCredits", {"amount": 1_000_000_001, "appId": "a", "description": ""}, False),
    ("UseCredits", {"amount": 1, "appId": "a", "description": "x" * 501}, False),
    ("UseCredits", {"amount": 1, "appId": "a", "description": "", "metadata": []}, False),
    ("UseCredits", {"amount": 1, "appId": "a", "description": "", "more": 1}, True),
    ("UseCredits", {"amount": 1, "appId": "a", "description": "", "idempotencyKey": ""}, False),
    ("UseCreditsOf", {"amount": 1, "appId": "a", "description": ""}, False),
    ("StartPurchase", {"packageId": "x"}, False),
    ("ChangeInterval", {"interval": "weekly"}, False),
    ("ChangeInterval", {"interval": "yearly"}, True),
    ("ChangeInterval", {"interval": None}, False),
    ("Activate", {}, True),
]
PACKAGE = {"packageId": "01890a5d-ac96-774b-bcce-b302099a8057"}
BODIES += [
    ("StartPurchase", PACKAGE, True),
    ("StartPurchase", PACKAGE | {"successUrl": "http://a"}, False),
    ("StartPurchase", PACKAGE | {"cancelUrl": "http://a", "successUrl": None}, False),
    ("StartPurchase", PACKAGE | {"cancelUrl": None, "successUrl": None}, True),
    ("StartPurchase", PACKAGE | {"cancelUrl": "http://a", "successUrl": "http://a"}, True),
]


@pytest.mark.parametrize(("name", "body", "good"), BODIES)
def test_the_schema_of_a_body_is_what_is_accepted(
    document: dict[str, Any], name: str, body: dict[str, Any], good: bool
) -> None:
    types = {route.body for route in declared_routes(application()) if route.body is not None}
    (type_,) = [type_ for type_ in types if type_.__name__ == name]
    schema = resolved(document, {"$ref": f"#/components/schemas/{name}"})
    assert Draft202012Validator(schema, validate_formats=True).is_valid(body) == good
    try:
        parse_body(json.dumps(body).encode(), type_)
        accepted = True
    except errors.ApiError:
        accepted = False
    assert accepted == good


@pytest.mark.parametrize(
    "text",
    [
        *("1", "x" * 128, "auth0|5f7c8ec7c33c6c004bbafe82", "Jürgen~!$&'()*+,;=:@", "...", "a.b"),
        *("", "x" * 129, ".", "..", "a\n"),
        *(f"a{one}b" for one in " \t\n/?#%{}\x7f\x00\x85\u200b\u00a0\u2028\u3000\ufeff\u00ad"),
    ],
)
def test_the_pattern_of_user_ids_is_the_rule(text: str) -> None:
    schema = msgspec.json.schema(UserId)
    assert Draft202012Validator(schema).is_valid(text) == is_user_id(text)


def test_whether_a_body_may_be_left_out(document: dict[str, Any], contract: Contract) -> None:
    class Needs(Body):
        what: Literal["this"]

    def required(method: str, path: str) -> bool:
        found: bool = contract.operations()[method, f"/api/v1{path}"]["requestBody"]["required"]
        return found

    with pytest.raises(errors.ApiError):
        parse_body(b"", Needs)
    assert required("POST", "/credits/use")
    assert required("POST", "/gifts")
    assert not required("POST", "/sync/activate")
    assert not required("POST", "/sync/deactivate")


# How it is served


@pytest.mark.parametrize(
    ("path", "type_"),
    [
        ("/openapi.json", "application/json"),
        ("/docs", "text/html; charset=utf-8"),
        *(
            (path, "text/html; charset=utf-8")
            for path in ("/", "/settings/sync", "/gifts", "/admin")
        ),
        *(
            (path, "text/html; charset=utf-8")
            for path in ("/g/CODE", "/purchases/1", "/admin/users/ann")
        ),
        ("/assets/mana.css", "text/css; charset=utf-8"),
        ("/assets/account.js", "text/javascript; charset=utf-8"),
        ("/assets/icon.svg", "image/svg+xml"),
        ("/assets/gift.png", "image/png"),
        ("/client/credits-client.js", "text/javascript; charset=utf-8"),
    ],
)
async def test_pages_are_served(service: Running, path: str, type_: str) -> None:
    plain = {"Accept-Encoding": "identity"}
    async with service.session.get(service.url + path, headers=plain) as answer:
        body = await answer.read()
        assert answer.status == 200
        assert answer.headers["Content-Type"] == type_
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"].startswith("public")
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        etag = answer.headers["ETag"]
        assert re.fullmatch(r'"[0-9a-f]{32}"', etag)
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        async with service.session.get(
            service.url + path, headers={**plain, "If-None-Match": known}
        ) as answer:
            assert answer.status == 304, known
            assert answer.headers["ETag"] == etag
            assert await answer.read() == b""
            service.contract.require("GET", path, 304, answer.headers, None)
    for other in ('"other"', f'"{etag[1:-1]}-gzip"'):
        async with service.session.get(
            service.url + path, headers={**plain, "If-None-Match": other}
        ) as answer:
            assert answer.status == 200
            assert await answer.read() == body
    async with service.session.get(service.url + path) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["ETag"] == f'"{etag[1:-1]}-gzip"'
        assert "Accept-Encoding" in answer.headers["Vary"]
        assert await answer.read() == body
    async with service.session.head(service.url + path, headers=plain) as answer:
        assert answer.status == 200
        assert answer.headers["ETag"] == etag
        assert answer.headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize(
    ("accepted", "gzipped"),
    [
        *[(accepted, True) for accepted in ("gzip", "br, GZIP;q=0.5", "deflate,gzip ; q=1.0, br")],
        *[
            (accepted, False)
            for accepted in ("", "identity", "gzip;q=0", "br, gzip; q=0.00", "x-gzip")
        ],
    ],
)
async def test_a_page_is_compressed_for_whoever_wants_it(
    service: Running, accepted: str, gzipped: bool
) -> None:
    headers = {"Accept-Encoding": accepted}
    async with service.session.get(f"{service.url}/docs", headers=headers) as answer:
        assert answer.status == 200
        assert ("Content-Encoding" in answer.headers) is gzipped


async def test_the_document_names_the_service(service: Running) -> None:
    answer = await service.call("GET", "/openapi.json", base="")
    assert answer.body["openapi"] == "3.1.0"
    assert answer.body["servers"] == [{"url": service.settings.base_url}]


@pytest.mark.parametrize(
    "path",
    [
        *("/docs/", "/assets/", "/assets/docs.html", "/assets/other.js", "/assets/page.html"),
        *("/assets/..%2fkeys.py", "/assets/..%2fdocs.html", "/assets/%2e%2e/x", "/client/..%2fx"),
        *("/assets/docs.js/", "/client/README.md", "/page.html", "/gifts/"),
    ],
)
async def test_no_other_file_is_served(service: Running, path: str) -> None:
    answer = await service.call("GET", path, base="")
    assert (answer.status, answer.body["error"]) == (404, "not_found")


def test_the_pages_ask_no_other_host_and_build_no_html() -> None:
    texts = [file for file in web_files() if file.suffix != ".png"]
    for file in [*texts, WEB / "docs.html", WEB / "page.html"]:
        text = file.read_text()
        # In a module's documentation, addresses are examples.
        code = re.sub(r"/\*.*?\*/|^\s*//.*$", "", text, flags=re.DOTALL | re.MULTILINE)
        named = set(re.findall(r"https?://[^\s\"'`<>]+", code)) - {"http://www.w3.org/2000/svg"}
        assert not named, file.name
        assert not re.search(r"@import|\burl\((?!\"icon\.svg\")", code), file.name
        assert not re.search(r"<style|\sstyle=|\son\w+=\"|<script(?![^>]*\ssrc=)", code), file.name
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", code
        ), file.name


def test_no_script_keeps_a_token() -> None:
    for file in web_files():
        for line in file.read_text(errors="replace").splitlines():
            if "localStorage" in line or "sessionStorage" in line:
                assert "oken" not in line, f"{file.name}: {line}"


def test_a_page_names_every_module_it_needs_so_that_they_come_side_by_side() -> None:
    pages = application()[PAGES]
    body = pages["account"].body.decode()
    assert 'rel="modulepreload" href="/assets/shell.js"' in body
    assert 'rel="modulepreload" href="/client/credits-client.js"' in body
    for name in re.findall(r'modulepreload" href="/([^"]+)"', body):
        assert name in pages


def test_a_page_works_below_a_path_of_the_proxy() -> None:
    app = create_app(
        Settings.from_env({"MANA_ENV": "development", "BASE_URL": "https://example.org/credits"})
    )
    body = app[PAGES]["account"].body.decode()
    assert 'src="/credits/assets/account.js"' in body
    assert '<meta name="mana-base" content="/credits">' in body
    assert not re.search(r'(?:src|href)="/(?!credits/)', body)
