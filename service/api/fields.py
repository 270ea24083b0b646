"""The kinds of values that requests carry, with what is said to people about a wrong one.

`message` continues a sentence that begins with the field's name. `check` is a rule that a type
cannot say: it answers what is wrong, or None.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec

from service.ids import is_user_id

AMOUNT_MAX: Final = 1_000_000_000
METADATA_MAX_BYTES: Final = 16 * 1024


def _text(low: int, high: int) -> msgspec.Meta:
    bounds = f"{low} to {high}" if low else f"at most {high}"
    return msgspec.Meta(
        min_length=low,
        max_length=high,
        extra={"message": f"must be a string of {bounds} characters"},
    )


def _whole_number(low: int, high: int) -> msgspec.Meta:
    return msgspec.Meta(
        ge=low, le=high, extra={"message": f"must be a whole number from {low} to {high}"}
    )


def _checked(message: str, check: Callable[[Any], bool]) -> msgspec.Meta:
    return msgspec.Meta(
        extra={"message": message, "check": lambda value: None if check(value) else message}
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


Amount = Annotated[int, _whole_number(1, AMOUNT_MAX)]
"""Credits that move: whole, and at least one."""
UserId = Annotated[
    str,
    _checked(
        "must be 1 to 128 printable characters without white space and / ? # % { }", is_user_id
    ),
]
AppId = Annotated[str, _text(1, 64)]
Description = Annotated[str, _text(0, 500)]
Text500 = Annotated[str, _text(0, 500)]
Text256 = Annotated[str, _text(0, 256)]
Reason64 = Annotated[str, _text(1, 64)]
Reason200 = Annotated[str, _text(1, 200)]
ReferenceId = Annotated[str, _text(1, 128)]
IdempotencyKey = Annotated[str, _text(1, 255)]
Email = Annotated[str, _checked("must be an e-mail address", _is_email)]
Url = Annotated[str, _text(1, 2048)]
Metadata = Annotated[
    dict[str, Any],
    _checked("must be a JSON object of at most 16 KiB", _fits_metadata),
]
Instant = Annotated[
    datetime,
    _checked("must be an ISO 8601 time with a zone, such as 2026-05-18T00:09:41.123Z", _is_instant),
]

Limit = Annotated[int, _whole_number(1, 500)]
Days = Annotated[int, _whole_number(1, 366)]
HoldSeconds = Annotated[int, _whole_number(1, 604_800)]
GiftCredits = Annotated[int, _whole_number(1, 10_000)]
ExpirationDays = Annotated[int, _whole_number(1, 3650)]
Offset = Annotated[int, _whole_number(0, 1_000_000_000)]
Cursor = Annotated[str, _text(1, 64)]
