"""What every request passes: ids, the access log, the envelope, CORS, declarations."""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Iterator, MutableMapping
from typing import Any
from uuid import UUID

import pytest
import structlog
from aiohttp import web
from structlog.testing import LogCapture

from service import errors, logs
from service.db import Database
from service.errors import SQLSTATES, from_postgres
from service.ids import is_user_id, uuid7
from service.middleware import application as serving
from service.settings import Settings
from service.wire import Auth, Body, Routes, read_body, respond
from tests.api.http_support import Client, Connect, until

ORIGIN = "http://localhost:5173"
STRANGER = "https://evil.example.org"


class PlantedError(Exception):
    """What nobody foresaw, with words that must not get out."""

    sqlstate = "23505"
    message = "duplicate key"
    detail = "Key (code)=(GIFT-CODE) already exists."

    def __str__(self) -> str:
        return f"{self.message} DETAIL: {self.detail}"


def application() -> web.Application:
    routes = Routes()

    @routes.get("/api/v1/gifts/{code}", auth=Auth.PUBLIC)
    async def gift(request: web.Request) -> web.Response:
        structlog.get_logger("test").info("inside")
        return respond({})

    @routes.post("/api/v1/gifts", auth=Auth.PUBLIC)
    async def create(request: web.Request) -> web.Response:
        return respond({}, 201)

    @routes.delete("/api/v1/gifts/{code}", auth=Auth.PUBLIC)
    async def cancel(request: web.Request) -> web.Response:
        raise errors.ApiError(402, "insufficient_credits", "Insufficient credits", {"required": 30})

    @routes.get("/broken", auth=Auth.PUBLIC)
    async def broken(request: web.Request) -> web.Response:
        raise PlantedError

    @routes.get("/ledger", auth=Auth.PUBLIC)
    async def ledger(request: web.Request) -> web.Response:
        raise errors.ApiError(500, "internal_error", "Internal server error")

    @routes.get("/away", auth=Auth.PUBLIC)
    async def away(request: web.Request) -> web.Response:
        raise errors.UnavailableError

    @routes.get("/gone", auth=Auth.PUBLIC)
    async def gone(request: web.Request) -> web.Response:
        raise web.HTTPGone(text="details of ours")

    return serving(Settings.from_env({"MANA_ENV": "development"}), routes)


@pytest.fixture
async def client(connect: Connect) -> Client:
    return await connect(application())


@pytest.fixture
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    capture = LogCapture()
    structlog.configure(processors=[logs.add_request_id, logs.write_exception, capture])
    yield capture.entries
    structlog.reset_defaults()


# Request ids


@pytest.mark.parametrize("given", ["a", "x" * 128, "0123-abc_DEF:~", "with spaces inside"])
async def test_a_request_keeps_its_id(
    client: Client, lines: list[MutableMapping[str, Any]], given: str
) -> None:
    answer = await client.get("/api/v1/gifts/ABCD", headers={"X-Request-Id": given})
    assert answer.headers["X-Request-Id"] == given
    assert [line["request_id"] for line in lines] == [given, given]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a\tb", "\u00fc"])
async def test_a_request_gets_an_id(client: Client, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given}
    answer = await client.get("/api/v1/gifts/ABCD", headers=headers)
    assert UUID(answer.headers["X-Request-Id"]).version == 7


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nowhere"),
        ("PUT", "/api/v1/gifts"),
        ("GET", "/broken"),
        ("GET", "/away"),
        ("OPTIONS", "/api/v1/gifts"),
        ("DELETE", "/api/v1/gifts/A"),
    ],
)
async def test_errors_carry_the_id(client: Client, method: str, path: str) -> None:
    answer = await client.request(method, path, headers={"X-Request-Id": "mine"})
    assert answer.headers["X-Request-Id"] == "mine"


# The envelope


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/api/v1/gifts/A/", 404, "not_found"),
        ("PUT", "/api/v1/gifts/A", 405, "method_not_allowed"),
        ("GET", "/api/v1/gifts", 405, "method_not_allowed"),
        ("OPTIONS", "/api/v1/gifts", 405, "method_not_allowed"),
        ("PROPFIND", "/api/v1/gifts", 405, "method_not_allowed"),
        ("DELETE", "/api/v1/gifts/A", 402, "insufficient_credits"),
        ("GET", "/broken", 500, "internal_error"),
        ("GET", "/ledger", 500, "internal_error"),
        ("GET", "/away", 503, "unavailable"),
        ("GET", "/gone", 410, "invalid_request"),
        ("GET", "/%", 404, "not_found"),
        ("GET", "/%00", 404, "not_found"),
        ("GET", "/..%2f..%2fetc", 404, "not_found"),
    ],
)
async def test_every_error_has_the_envelope(
    client: Client, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.request(method, path)
    text = await answer.text()
    body = json.loads(text)
    assert answer.status == body["statusCode"] == status
    assert answer.content_type == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert body["error"] == code
    assert body["message"]
    assert set(body) <= {"statusCode", "error", "message", "details"}
    assert "ours" not in text
    assert "GIFT-CODE" not in text
    if status == 500:
        assert body["message"] == "Internal server error"
        assert body["details"] == {"requestId": answer.headers["X-Request-Id"]}
    if status == 503:
        assert int(answer.headers["Retry-After"]) >= 1


async def test_facts_are_told(client: Client) -> None:
    answer = await client.delete("/api/v1/gifts/A")
    assert (await answer.json())["details"] == {"required": 30}


async def test_405_names_the_methods(client: Client) -> None:
    answer = await client.put("/api/v1/gifts/A")
    assert answer.headers["Allow"] == "DELETE,GET,HEAD"


async def test_head_is_get_without_a_body(client: Client) -> None:
    got = await client.get("/api/v1/gifts/A", headers={"X-Request-Id": "mine"})
    answer = await client.head("/api/v1/gifts/A", headers={"X-Request-Id": "mine"})
    assert answer.status == 200
    assert await answer.read() == b""
    assert answer.headers["Content-Length"] == got.headers["Content-Length"]
    assert (await client.head("/nowhere")).status == 404


# The log


async def test_one_line_a_request(client: Client, lines: list[MutableMapping[str, Any]]) -> None:
    await client.get("/api/v1/gifts/SECRETCODE?token=s3cret", headers={"X-Request-Id": "mine"})
    inside, line = lines
    assert inside["event"] == "inside"
    assert inside["request_id"] == "mine"
    assert line.pop("ms") >= 0
    assert line == {
        "event": "request",
        "log_level": "info",
        "request_id": "mine",
        "method": "GET",
        "route": "/api/v1/gifts/{code}",
        "status": 200,
        "caller": "none",
    }
    assert "SECRET" not in str(lines).upper().replace("S3CRET", "")


async def test_the_line_of_a_head_says_so(
    client: Client, lines: list[MutableMapping[str, Any]]
) -> None:
    await client.request("HEAD", "/api/v1/gifts/A")
    line = lines[-1]
    assert (line["route"], line["method"]) == ("/api/v1/gifts/{code}", "HEAD")


async def test_what_is_not_routed_is_not_written_out(
    client: Client, lines: list[MutableMapping[str, Any]]
) -> None:
    await client.request("PROPFIND", "/api/v1/giftz/SECRETCODE")
    (line,) = lines
    assert (line["route"], line["method"], line["status"]) == ("unmatched", "OTHER", 404)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("OPTIONS *", 404),
        ("CONNECT example.org:443", 404),
        ("GET //", 404),
        ("GET http://example.org", 404),
        ("POST http://example.org/broken", 405),
    ],
)
async def test_what_is_no_path_of_ours_passes_the_same(
    client: Client, lines: list[MutableMapping[str, Any]], target: str, status: int
) -> None:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    try:
        head, body = await _asked(reader, writer, target)
    finally:
        writer.close()
    assert head.startswith(f"HTTP/1.1 {status}")
    assert "X-Request-Id: mine" in head
    assert body["statusCode"] == status
    assert ("Allow: GET,HEAD" in head) == (status == 405)
    (line,) = lines
    assert (line["route"], line["status"], line["request_id"]) == ("unmatched", status, "mine")


async def _asked(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str
) -> tuple[str, Any]:
    """The head and the body of the answer to a request that no client would send."""
    writer.write(f"{target} HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"(?i)content-length: (\d+)", head)
    assert length is not None, head
    return head, json.loads(await reader.readexactly(int(length[1])))


async def test_what_is_not_foreseen_is_logged_without_its_data(
    client: Client, lines: list[MutableMapping[str, Any]]
) -> None:
    answer = await client.get("/broken")
    assert answer.status == 500
    error, line = lines
    assert error["log_level"] == "error"
    assert "PlantedError: 23505 duplicate key" in error["exception"]
    assert "in broken" in error["exception"]
    assert "GIFT-CODE" not in str(lines)
    assert line["status"] == 500
    assert error["request_id"] == line["request_id"] == answer.headers["X-Request-Id"]


def production_settings() -> Settings:
    return Settings.from_env(
        {
            "DATABASE_URL": "postgresql://mana:pass-word@db/x",
            "MANA_AUTH_URL": "https://auth.example.org",
            "MANA_SERVICE_KEY": "service-key-1,service-key-12",
            "STRIPE_SECRET_KEY": "sk_live_1",
            "STRIPE_WEBHOOK_SECRET": "whsec_1",
        }
    )


@contextlib.contextmanager
def configured(settings: Settings) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure(settings)
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level
        structlog.reset_defaults()


def test_production_logs_are_json_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    with configured(production_settings()):
        log = structlog.get_logger("test")
        token = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ1In0.c2lnbmF0dXJl"
        log.info(
            "hello", said=f"key service-key-12 and sk_live_1 and {token}", number=5, id=uuid7()
        )
        logging.getLogger("elsewhere").warning("postgresql://mana:%s@db/x", "pass-word")
        try:
            int("service-key-1")
        except ValueError:
            log.exception("failed")
        circle = ValueError("in a circle")
        circle.__cause__ = circle
        log.error("odd", exc_info=circle)
        log.debug("not shown")
        logging.getLogger("stripe").info("not shown either")
    written = capsys.readouterr().err
    lines = [json.loads(line) for line in written.splitlines()]
    assert len(lines) == 4
    assert lines[0]["said"] == "key [hidden] and [hidden] and [hidden]"
    assert lines[0]["number"] == 5
    assert lines[0]["level"] == "info"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", lines[0]["time"])
    assert lines[1]["event"] == "postgresql://mana:[hidden]@db/x"
    assert "ValueError: invalid literal for int() with base 10: '[hidden]'" in lines[2]["exception"]
    for hidden in ("pass-word", "service-key", "sk_live", "eyJ"):
        assert hidden not in written


# CORS


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/gifts/A", 200),
        ("GET", "/nowhere", 404),
        ("PUT", "/api/v1/gifts/A", 405),
        ("DELETE", "/api/v1/gifts/A", 402),
        ("GET", "/broken", 500),
        ("GET", "/away", 503),
    ],
)
async def test_cors(client: Client, method: str, path: str, status: int) -> None:
    answer = await client.request(method, path, headers={"Origin": ORIGIN})
    assert answer.status == status
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert answer.headers["Access-Control-Expose-Headers"] == "Link, X-Request-Id, Retry-After"
    assert answer.headers["Vary"] == "Origin"
    answer = await client.request(method, path, headers={"Origin": STRANGER})
    assert answer.status == status
    assert not [name for name in answer.headers if name.startswith("Access-Control")]
    assert answer.headers["Vary"] == "Origin"
    assert (await client.request(method, path)).headers["Vary"] == "Origin"


@pytest.mark.parametrize("path", ["/api/v1/gifts/A", "/nowhere"])
async def test_preflights(client: Client, path: str) -> None:
    asked = {
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": "authorization,x-service-key",
    }
    answer = await client.options(path, headers={"Origin": ORIGIN} | asked)
    assert answer.status == 204
    assert await answer.read() == b""
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE"
    assert (
        answer.headers["Access-Control-Allow-Headers"]
        == "Authorization, Content-Type, Idempotency-Key"
    )
    assert answer.headers["Vary"] == "Origin"
    assert "X-Request-Id" in answer.headers
    for stranger in (STRANGER, "null", ORIGIN + "/", ORIGIN.upper(), ORIGIN + ".evil.org"):
        answer = await client.options(path, headers={"Origin": stranger} | asked)
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


# Declarations


async def test_a_route_without_a_declaration_stops_the_start(connect: Connect) -> None:
    async def handler(request: web.Request) -> web.Response:
        return respond({})

    app = application()
    app.router.add_get("/forgotten", handler)
    with pytest.raises(RuntimeError, match="/forgotten"):
        await connect(app)


async def test_a_body_that_breaks_off_is_no_500(
    connect: Connect, lines: list[MutableMapping[str, Any]]
) -> None:
    routes = Routes()

    class Anything(Body):
        a: int = 1

    @routes.post("/bodies", auth=Auth.PUBLIC, body=Anything)
    async def bodies(request: web.Request) -> web.Response:
        return respond(await read_body(request, Anything))

    app = serving(Settings.from_env({"MANA_ENV": "development"}), routes)
    client = await connect(app)
    head = b"POST /bodies HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    # What breaks off before its end, by length and in the middle of a chunk.
    for rest in (
        b'Content-Length: 100\r\n\r\n{"a":',
        b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n',
    ):
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(head + rest)
        writer.write_eof()
        await reader.read()
        writer.close()
    # What is there, but is not what its headers say.
    for rest in (
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
    ):
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(head + rest)
        assert (await reader.readline()).split()[1] == b"400"
        writer.close()
    await until(lambda: len(lines) >= 2)
    assert all(line["status"] in (400, 499) for line in lines if line["event"] == "request"), lines
    assert not [line for line in lines if line["log_level"] == "error"]


# Errors and ids


class Raised:
    def __init__(self, sqlstate: str | None, detail: str | None = None) -> None:
        self.sqlstate, self.detail = sqlstate, detail


def test_the_table() -> None:
    assert set(SQLSTATES) == {f"MC{number:03}" for number in range(1, 15)} | {"22021", "22P05"}
    error = from_postgres(Raised("MC002", '{"required": 30, "available": 12}'))
    assert error is not None
    assert (error.status, error.code) == (402, "insufficient_credits")
    assert error.details == {"required": 30, "available": 12}
    error = from_postgres(
        Raised("MC001", '{"field": "amount", "message": "must be at most 5", "left": 5}')
    )
    assert error is not None
    assert error.details == [{"field": "amount", "message": "must be at most 5", "left": 5}]
    assert error.message == "Invalid request: amount must be at most 5"
    for detail in (None, "", "no json", "[]", "5"):
        error = from_postgres(Raised("MC004", detail))
        assert error is not None
        assert error.details is None
    ledger = from_postgres(Raised("MC014", '{"user": "u"}'))
    assert ledger is not None
    assert (ledger.status, ledger.message, ledger.details) == (500, "Internal server error", None)
    text = from_postgres(Raised("22021", "invalid byte"))
    assert text is not None
    assert (text.status, text.details) == (400, None)
    assert from_postgres(Raised("23505", "Key (x)=(secret)")) is None
    assert from_postgres(Raised(None)) is None


def test_ids_are_ordered_and_unique() -> None:
    ids = [uuid7() for _ in range(2000)]
    assert len(set(ids)) == len(ids)
    assert {one.version for one in ids} == {7}
    assert {one.variant for one in ids} == {ids[0].variant} == {"specified in RFC 4122"}
    # The clock of a machine may be set back by a little, not by a minute.
    assert (ids[-1].int >> 80) - (ids[0].int >> 80) < 60_000


def test_user_ids() -> None:
    assert is_user_id("user-1")
    assert not is_user_id("")


async def test_a_database_that_was_not_opened() -> None:
    with pytest.raises(errors.UnavailableError):
        await Database("postgresql://nobody@127.0.0.1:1/none").row("SELECT 1")
