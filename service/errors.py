"""What can go wrong, and how it is told: one table from SQLSTATE to HTTP.

Each error of the database's own class `MC` has one row here and one in `sql/README.md`. Python
reads `.sqlstate` and `.detail` of an error, never its message: the words for people are here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

RETRY_AFTER_SECONDS: Final = 2
"""When to try again after a 503: about what a restart of PostgreSQL takes."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that a request got wrong, by its name on the wire."""

    field: str
    message: str


class ApiError(Exception):
    """An answer that is not a success: its status, stable code, words for people, and facts."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.headers: Mapping[str, str] = headers or {}


class UnavailableError(ApiError):
    """503: nothing has happened, and trying again soon is right."""

    def __init__(self, message: str = "The service is not available at the moment") -> None:
        super().__init__(
            503, "unavailable", message, headers={"Retry-After": str(RETRY_AFTER_SECONDS)}
        )


class OutcomeUnknownError(ApiError):
    """503 without Retry-After: the move may have happened, so the caller looks before repeating."""

    def __init__(self) -> None:
        super().__init__(
            503,
            "outcome_unknown",
            "The connection to the database broke: the operation may or may not have happened",
        )


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """A row of the table: what one SQLSTATE is over HTTP."""

    status: int
    code: str
    message: str


SQLSTATES: Final[Mapping[str, ErrorSpec]] = MappingProxyType(
    {
        "MC001": ErrorSpec(400, "invalid_request", "Invalid request"),
        "MC002": ErrorSpec(402, "insufficient_credits", "Insufficient credits"),
        "MC003": ErrorSpec(
            409,
            "idempotency_key_reused",
            "This idempotency key was already used for another request",
        ),
        "MC004": ErrorSpec(404, "not_found", "Not found"),
        "MC005": ErrorSpec(400, "gift_not_active", "This gift is no longer active"),
        "MC006": ErrorSpec(400, "gift_expired", "This gift has expired"),
        "MC007": ErrorSpec(403, "gift_wrong_recipient", "This gift is for somebody else"),
        "MC008": ErrorSpec(400, "sync_already_active", "Cloud Sync is already active"),
        "MC009": ErrorSpec(400, "sync_already_gifted", "Cloud Sync is already a gift"),
        "MC010": ErrorSpec(400, "sync_not_active", "Cloud Sync is not active"),
        "MC011": ErrorSpec(400, "sync_gifted", "Cloud Sync is a gift and is not charged"),
        "MC012": ErrorSpec(400, "sync_not_gifted", "Cloud Sync is not a gift"),
        "MC013": ErrorSpec(
            400, "reservation_resolved", "This reservation is already committed or refunded"
        ),
        # Never a caller's fault: a defect, or a hand in the database.
        "MC014": ErrorSpec(500, "internal_error", "Internal server error"),
        # PostgreSQL's own: text that it cannot store, where a check before it let it through.
        "22021": ErrorSpec(400, "invalid_request", "The request contains characters not allowed"),
        "22P05": ErrorSpec(400, "invalid_request", "The request contains characters not allowed"),
    }
)


REFUSALS: Final[Mapping[str, ErrorSpec]] = MappingProxyType(
    {
        spec.code: spec
        for spec in (
            *(spec for spec in SQLSTATES.values() if spec.status < 500),
            ErrorSpec(400, "invalid_request", "Invalid request: details name the fields"),
            ErrorSpec(401, "unauthorized", "No credentials, or wrong ones"),
            ErrorSpec(403, "forbidden", "Not allowed"),
            ErrorSpec(405, "method_not_allowed", "Method not allowed"),
            ErrorSpec(413, "payload_too_large", "The body is too large"),
            ErrorSpec(415, "unsupported_media_type", "The body is not JSON"),
            ErrorSpec(429, "rate_limited", "Too many requests: try again after Retry-After"),
            ErrorSpec(502, "payment_provider_error", "Stripe failed: repeat with the same key"),
            ErrorSpec(503, "stripe_not_configured", "This installation sells nothing"),
            ErrorSpec(503, "unavailable", "Nothing happened: try again after Retry-After"),
            ErrorSpec(503, "outcome_unknown", "It may have happened: look before repeating"),
        )
    }
)
"""Every code that a caller can get but `internal_error`, in the words of the OpenAPI document."""


class DatabaseError(Protocol):
    """What is read of an error of PostgreSQL."""

    @property
    def sqlstate(self) -> str | None:
        """The five characters that name the error."""

    @property
    def detail(self) -> str | None:
        """For class MC: facts, as JSON."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An error that a function tells rather than raises, since it did other calls as well."""

    sqlstate: str
    detail: str | None


def from_postgres(error: DatabaseError) -> ApiError | None:
    """The answer for an error of the database, by the table; None for one that is not in it."""
    spec = SQLSTATES.get(error.sqlstate or "")
    if spec is None:
        return None
    # DETAIL of class MC is written by our functions; of any other it can quote other people's data.
    facts = _facts(error.detail) if (error.sqlstate or "").startswith("MC") else {}
    if spec.status >= 500:
        return ApiError(spec.status, spec.code, spec.message)
    if isinstance(facts.get("field"), str) and isinstance(facts.get("message"), str):
        return ApiError(
            spec.status,
            spec.code,
            f"{spec.message}: {facts['field']} {facts['message']}",
            [facts],
        )
    return ApiError(spec.status, spec.code, spec.message, facts or None)


def _facts(detail: str | None) -> dict[str, Any]:
    try:
        facts = json.loads(detail or "{}")
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def invalid(field: str, message: str) -> ApiError:
    """400 for one field; `message` continues a sentence that begins with the field's name."""
    return invalid_fields([FieldError(field, message)])


def invalid_fields(errors: Sequence[FieldError]) -> ApiError:
    """400 with every field that is wrong."""
    return ApiError(
        400,
        "invalid_request",
        "Invalid request: " + "; ".join(f"{error.field} {error.message}" for error in errors),
        [{"field": error.field, "message": error.message} for error in errors],
    )


def bad_request(message: str) -> ApiError:
    """400 for a request that is wrong as a whole, such as a body that is not JSON."""
    return ApiError(400, "invalid_request", message)


def unauthorized(message: str) -> ApiError:
    """401; says what is wrong in general words, never what was expected."""
    return ApiError(401, "unauthorized", message)


def forbidden(message: str = "Not allowed") -> ApiError:
    """403 for a caller who is known and may not."""
    return ApiError(403, "forbidden", message)


def not_found(message: str = "Not found") -> ApiError:
    """404; also for what belongs to somebody else."""
    return ApiError(404, "not_found", message)


def payload_too_large(limit: int) -> ApiError:
    """413; `limit` in bytes."""
    return ApiError(413, "payload_too_large", f"The body is larger than {limit // 1024} KiB")


def unsupported_media_type() -> ApiError:
    """415: every body is JSON."""
    return ApiError(415, "unsupported_media_type", "The body must be application/json")


def too_slow() -> ApiError:
    """400 for a body that does not arrive; the connection cannot be used for another request."""
    return ApiError(
        400, "invalid_request", "The body did not arrive in time", headers={"Connection": "close"}
    )


def rate_limited(seconds: int) -> ApiError:
    """429; the call may be made again after `seconds`."""
    return ApiError(429, "rate_limited", "Too many requests", headers={"Retry-After": str(seconds)})


def stripe_not_configured() -> ApiError:
    """503 without Retry-After: this installation sells nothing."""
    return ApiError(503, "stripe_not_configured", "Payments are not configured")


_GIFT_REFUSALS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "failed_wrong_user": "MC007",
        "failed_expired": "MC006",
        "failed_depleted": "MC005",
        "failed_already_claimed": "MC005",
        "failed_cancelled": "MC005",
    }
)


def gift_refusal(outcome: str) -> ApiError:
    """The answer for a refused attempt on a gift.

    The attempt is written down, so it comes as an outcome and not as an error of PostgreSQL.
    """
    spec = SQLSTATES[_GIFT_REFUSALS[outcome]]
    return ApiError(spec.status, spec.code, spec.message, {"outcome": outcome})


def internal_error(request_id: str) -> ApiError:
    """500: all that is told is where to look in the log."""
    return ApiError(500, "internal_error", "Internal server error", {"requestId": request_id})


def is_not_migrated(error: BaseException) -> bool:
    """Whether an error of PostgreSQL says that a schema, table, column, function or grant lacks."""
    return getattr(error, "sqlstate", None) in ("3F000", "42P01", "42703", "42883", "42501")
