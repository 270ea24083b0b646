"""Shapes of answers: exactly these keys, each with a value of its kind."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

from multidict import CIMultiDict

from tests.support.running import Answer

Kind = Callable[[Any], bool]
Shape = Mapping[str, Any]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def an_id(value: Any) -> bool:
    """A UUID as text."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None and bool(UUID(value))


def a_time(value: Any) -> bool:
    """ISO 8601 in UTC with milliseconds and Z."""
    return isinstance(value, str) and _TIME.fullmatch(value) is not None


def a_number(value: Any) -> bool:
    """A whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def a_text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def a_bool(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def nothing(value: Any) -> bool:
    """Null."""
    return value is None


def maybe(kind: Kind) -> Kind:
    """Of a kind, or null."""
    return lambda value: value is None or kind(value)


BALANCE: Shape = {
    "balance": a_number,
    "totalEarned": a_number,
    "totalSpent": a_number,
    "reserved": a_number,
    "transactionsCount": a_number,
}
TRANSACTION: Shape = {
    "id": an_id,
    "userId": a_text,
    "type": a_text,
    "status": "completed",
    "amount": a_number,
    "balanceBefore": a_number,
    "balanceAfter": a_number,
    "appId": a_text,
    "description": a_text,
    "metadata": lambda value: value is None or isinstance(value, dict),
    "idempotencyKey": maybe(a_text),
    "createdAt": a_time,
    "completedAt": a_time,
}
MOVED: Shape = {
    "success": True,
    "transaction": TRANSACTION,
    "newBalance": {"balance": a_number, "totalEarned": a_number, "totalSpent": a_number},
}
PACKAGE: Shape = {
    "id": an_id,
    "name": a_text,
    "description": maybe(a_text),
    "credits": a_number,
    "priceEuroCents": a_number,
    "stripePriceId": maybe(a_text),
    "active": a_bool,
    "sortOrder": a_number,
    "metadata": lambda value: value is None or isinstance(value, dict),
    "createdAt": a_time,
    "updatedAt": a_time,
}
PURCHASE: Shape = {
    "id": an_id,
    "userId": a_text,
    "packageId": an_id,
    "credits": a_number,
    "priceEuroCents": a_number,
    "stripePaymentIntentId": maybe(a_text),
    "stripeCustomerId": maybe(a_text),
    "status": a_text,
    "metadata": lambda value: value is None or isinstance(value, dict),
    "createdAt": a_time,
    "completedAt": maybe(a_time),
}
SYNC_STATUS: Shape = {
    "active": a_bool,
    "interval": a_text,
    "nextChargeAt": maybe(a_time),
    "pausedAt": maybe(a_time),
    "paused": a_bool,
    "gifted": a_bool,
    "price": a_number,
    "paidUntil": maybe(a_time),
}
GIFT: Shape = {
    "id": an_id,
    "code": a_text,
    "url": a_text,
    "shortUrl": a_text,
    "creatorId": a_text,
    "creatorName": maybe(a_text),
    "totalCredits": a_number,
    "redeemed": a_number,
    "type": a_text,
    "status": a_text,
    "targetEmail": maybe(a_text),
    "message": maybe(a_text),
    "expiresAt": a_time,
    "createdAt": a_time,
    "updatedAt": a_time,
}
RECEIVED_GIFT: Shape = {
    "id": an_id,
    "code": a_text,
    "credits": a_number,
    "creditsReceived": a_number,
    "message": maybe(a_text),
    "creatorName": maybe(a_text),
    "status": a_text,
    "sourceAppId": maybe(a_text),
    "redeemedAt": a_time,
    "createdAt": a_time,
}
PUBLIC_GIFT: Shape = {
    "code": a_text,
    "type": a_text,
    "status": a_text,
    "totalCredits": a_number,
    "redeemed": a_bool,
    "message": maybe(a_text),
    "creatorName": maybe(a_text),
    "expiresAt": a_time,
    "isPersonalized": a_bool,
}


def differences(value: Any, shape: Any, where: str = "answer") -> Iterator[str]:
    """What a value lacks, has too much, or has of another kind."""
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            yield f"{where} is no object: {value!r}"
            return
        for name in sorted(shape.keys() - value.keys()):
            yield f"{where}.{name} is missing"
        for name in sorted(value.keys() - shape.keys()):
            yield f"{where}.{name} is not in the contract"
        for name in shape.keys() & value.keys():
            yield from differences(value[name], shape[name], f"{where}.{name}")
    elif callable(shape):
        if not shape(value):
            yield f"{where} is of another kind: {value!r}"
    elif type(value) is not type(shape) or value != shape:
        yield f"{where} is {value!r} and not {shape!r}"


def require_shape(value: Any, shape: Shape) -> None:
    """Fail unless a value is exactly of a shape."""
    assert list(differences(value, shape)) == []


def require_error(answer: Answer, status: int, code: str, details: Any = ...) -> None:
    """Fail unless an answer is this error, in the one envelope; `...` is whatever details."""
    assert (answer.status, answer.body.get("error")) == (status, code), answer.body
    assert answer.body["statusCode"] == status
    assert isinstance(answer.body["message"], str)
    assert answer.body["message"]
    assert set(answer.body) <= {"statusCode", "error", "message", "details"}
    assert header(answer, "X-Request-Id")
    if details is not ...:
        assert answer.body.get("details") == details


def header(answer: Answer, name: str) -> str | None:
    """A header of an answer; its name in any case."""
    return CIMultiDict(answer.headers).get(name)


def wrong_fields(answer: Answer) -> list[str]:
    """The fields that a 400 names; fails for any other answer."""
    require_error(answer, 400, "invalid_request")
    details = answer.body["details"]
    for one in details:
        assert isinstance(one["field"], str)
        assert isinstance(one["message"], str)
    return sorted(one["field"] for one in details)


def next_page(answer: Answer) -> str | None:
    """The path and query behind `/api/v1` of the next page, or None where there is no more."""
    link = header(answer, "Link")
    if link is None:
        return None
    match = re.fullmatch(r'<https?://[^/]+/api/v1(/[^>]+)>; rel="next"', link)
    assert match is not None, link
    return match[1]
