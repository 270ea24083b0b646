"""The kinds of values that requests carry, with what is said to people about a wrong one.

`message` continues a sentence that begins with the field's name. `check` is a rule that a type
cannot say: it answers what is wrong, or None; beside it stands as much of the rule as JSON Schema
can say, for the OpenAPI document, and an example.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from service.ids import is_user_id

AMOUNT_MAX: Final = 1_000_000_000
METADATA_MAX_BYTES: Final = 16 * 1024
_NOT_PRINTED = r"\s\u0000-\u001f\u007f-\u00a0\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff"
"""What is white space or not printable, as far as all dialects of regular expressions can say."""
USER_ID_PATTERN: Final = rf"^(?!\.{{1,2}}$)[^/?#%{{}}{_NOT_PRINTED}]+$"
EMAIL_PATTERN: Final = rf"^[^@{_NOT_PRINTED}]+@[^@{_NOT_PRINTED}]+$"


def _text(low: int, high: int, example: str) -> msgspec.Meta:
    bounds = f"{low} to {high}" if low else f"at most {high}"
    return msgspec.Meta(
        min_length=low,
        max_length=high,
        examples=[example],
        extra={"message": f"must be a string of {bounds} characters"},
    )


def _whole_number(low: int, high: int, example: int) -> msgspec.Meta:
    return msgspec.Meta(
        ge=low,
        le=high,
        examples=[example],
        extra={"message": f"must be a whole number from {low} to {high}"},
    )


def _checked(message: str, check: Callable[[Any], bool], **schema: Any) -> msgspec.Meta:
    return msgspec.Meta(
        description=message,
        extra={"message": message, "check": lambda value: None if check(value) else message},
        extra_json_schema=schema,
    )


def _is_email(text: str) -> bool:
    name, at, host = text.rpartition("@")
    return (
        len(text) <= 254
        and bool(name and at and host)
        and text.isprintable()
        and not any(character.isspace() for character in text)
        and "@" not in name
    )


def _fits_metadata(value: dict[str, Any]) -> bool:
    return len(msgspec.json.encode(value)) <= METADATA_MAX_BYTES


def _is_instant(value: datetime) -> bool:
    try:
        value.astimezone(UTC)
    except OverflowError:
        return False
    return value.tzinfo is not None


Amount = Annotated[int, _whole_number(1, AMOUNT_MAX, 30)]
"""Credits that move: whole, and at least one."""
UserId = Annotated[
    str,
    _checked(
        "must be 1 to 128 printable characters without white space and / ? # % { }",
        is_user_id,
        minLength=1,
        maxLength=128,
        pattern=USER_ID_PATTERN,
        examples=["auth0|5f7c8ec7c33c6c004bbafe82"],
    ),
]
AppId = Annotated[str, _text(1, 64, "chat")]
Description = Annotated[str, _text(0, 500, "A long conversation")]
Text500 = Annotated[str, _text(0, 500, "Happy birthday!")]
Text256 = Annotated[str, _text(0, 256, "A survey that was answered")]
Reason64 = Annotated[str, _text(1, 64, "survey")]
Reason200 = Annotated[str, _text(1, 200, "research:deep")]
Reason500 = Annotated[str, _text(1, 500, "The export failed, see ticket 4711")]
OptionalReason500 = Annotated[str, _text(0, 500, "A thank-you for a good bug report")]
ReferenceId = Annotated[str, _text(1, 128, "survey-2026-05")]
IdempotencyKey = Annotated[str, _text(1, 255, "9b2d3c1e-order-17")]
Email = Annotated[
    str,
    _checked(
        "must be an e-mail address",
        _is_email,
        format="email",
        maxLength=254,
        pattern=EMAIL_PATTERN,
        examples=["ann@example.org"],
    ),
]
Url = Annotated[str, _text(1, 2048, "http://localhost:5173/credits")]
Metadata = Annotated[
    dict[str, Any],
    _checked("must be a JSON object of at most 16 KiB", _fits_metadata, examples=[{"model": "x"}]),
]
Instant = Annotated[
    datetime,
    _checked(
        "must be an ISO 8601 time with a zone, such as 2026-05-18T00:09:41.123Z",
        _is_instant,
        format="date-time",
        examples=["2026-05-18T00:09:41.123Z"],
    ),
]

Limit = Annotated[int, _whole_number(1, 500, 50)]
Days = Annotated[int, _whole_number(1, 366, 30)]
HoldSeconds = Annotated[int, _whole_number(1, 604_800, 3600)]
GiftCredits = Annotated[int, _whole_number(1, 10_000, 100)]
ExpirationDays = Annotated[int, _whole_number(1, 3650, 90)]
SearchText = Annotated[str, _text(1, 254, "ann@example.org")]
EventId = Annotated[str, _text(1, 255, "evt_1NG8Du2eZvKYlo2CUI79vXWy")]
SomeIds = Annotated[
    list[UUID],
    msgspec.Meta(
        max_length=500,
        examples=[["01890a5d-ac96-774b-bcce-b302099a8057"]],
        extra={"message": "must be a list of at most 500 UUIDs"},
    ),
]
Offset = Annotated[int, _whole_number(0, 1_000_000_000, 0)]
CURSOR_PATTERN: Final = "^[1-9][0-9]{0,17}$"
Cursor = Annotated[
    str, _text(1, 64, "1042"), msgspec.Meta(extra_json_schema={"pattern": CURSOR_PATTERN})
]
