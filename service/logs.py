"""Structured logs: JSON in production, lines for people in development. No secret gets in."""

import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec
import structlog

from service.settings import Settings

_TOKEN: Final = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_HIDDEN: Final = "[hidden]"

Event = MutableMapping[str, Any]

_log = structlog.get_logger("service.access")

_request_id: ContextVar[str] = ContextVar("request_id")


def name_request(request_id: str) -> None:
    """Put the id of a request into the lines that this task writes from now on."""
    _request_id.set(request_id)


def add_request_id(logger: object, name: str, event: Event) -> Event:
    """Put in the id of the request that a line is about, as a structlog processor."""
    if (request_id := _request_id.get(None)) is not None:
        event.setdefault("request_id", request_id)
    return event


def configure(settings: Settings, *, once: bool = False) -> None:
    """Set up logging for this process, to standard error; `once`: for good, which is quicker."""
    shared: list[structlog.typing.Processor] = [
        add_request_id,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        write_exception,
        Redactor(settings.secrets()),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_json)
        if settings.production
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        # Our own lines are written directly: by way of the standard library each costs several
        # times as much, and there is one for every request.
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=once,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    # What it says at lower levels is every request, with what is in it.
    logging.getLogger("stripe").setLevel(logging.WARNING)


class Redactor:
    """Replaces the known secrets, and whatever looks like a token, in every value of a line."""

    def __init__(self, secrets: Sequence[str]) -> None:
        # The longest first, so that a key that begins like another is hidden whole.
        known = sorted((secret for secret in secrets if len(secret) >= 6), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, logger: object, name: str, event: Event) -> Event:
        """Clean one line, as a structlog processor."""
        for key, value in event.items():
            if isinstance(value, str):
                event[key] = self.hide(value)
        return event

    def hide(self, text: str) -> str:
        """`text` without secrets."""
        if self._known is not None:
            text = self._known.sub(_HIDDEN, text)
        return _TOKEN.sub(_HIDDEN, text)


class RequestLine(msgspec.Struct, kw_only=True):
    """The line of a request."""

    method: str
    route: str
    """Its template, never the path itself: that holds gift codes and user ids."""
    status: int
    ms: float
    """Rounded as it is written."""
    request_id: str
    caller: str
    app: str | msgspec.UnsetType | None = msgspec.UNSET
    """The name that a service gave itself."""
    event: str = "request"
    level: str = "info"
    time: str = ""


WriteRequests = Callable[[Sequence[RequestLine]], None]
"""Writes the lines of requests that have ended. What a client chose is clean already."""


def write_requests(lines: Sequence[RequestLine]) -> None:
    """Write them as any other line."""
    for line in lines:
        line.ms = round(line.ms, 1)
        said = {
            name: value
            for name in line.__struct_fields__
            if name not in ("event", "level", "time")
            and (value := getattr(line, name)) is not msgspec.UNSET
        }
        _log.info(line.event, **said)


class RequestLog:
    """Writes the lines of requests in production, as `write_requests` would, and much quicker.

    There is one for every request, so that it would take longer than much else that a request
    needs. Those that are written at once have one time.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encode_lines = msgspec.json.Encoder().encode_lines

    @classmethod
    def to_stderr(cls, settings: Settings) -> WriteRequests:
        """The log of a process that writes its lines at that level, and nothing else otherwise."""
        if logging.getLevelNamesMapping()[settings.log_level.upper()] > logging.INFO:
            return _write_nothing
        return cls(sys.stderr)

    def __call__(self, lines: Sequence[RequestLine]) -> None:
        """Write them."""
        time = f"{datetime.now(UTC).isoformat()[:-6]}Z"
        for line in lines:
            line.time = time
            line.ms = round(line.ms, 1)
        self._stream.write(self._encode_lines(lines).decode())
        self._stream.flush()


def _write_nothing(lines: Sequence[RequestLine]) -> None:
    pass


def write_exception(logger: object, name: str, event: Event) -> Event:
    """Write an exception as its frames and names.

    Its own words are left out where they quote data: DETAIL of PostgreSQL, for one.
    """
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    elif isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = "".join(_written(error, set()))
    return event


def _written(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    # An error can be its own cause, in a circle.
    if before is not None and id(before) not in seen:
        yield from _written(before, seen)
        yield "\n"
    yield from traceback.format_tb(error.__traceback__)
    state = getattr(error, "sqlstate", None)
    said = f"{state} {getattr(error, 'message', '')}" if state else str(error)
    yield f"{type(error).__qualname__}: {said}\n"


def _json(event: Event, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
