"""The outbox: one wrapper for each SQL function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from service.db import Database

CHANNEL = "mana_credits_notices"
"""What NOTIFY wakes the sender on; a hint, and polling is the truth."""

State = Literal["pending", "delivered", "undeliverable", "failed"]


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice that is this caller's to send until its lease ends."""

    id: UUID
    user_id: str
    kind: str
    data: Mapping[str, Any]
    recipient: str | None
    attempts: int
    created_at: datetime


async def claim_notices(db: Database, *, limit: int, lease_seconds: int) -> list[Notice]:
    """Take notices that are to be sent now."""
    rows = await db.move_rows(
        "SELECT * FROM credits.claim_notices(p_limit => $1, p_lease_seconds => $2)",
        limit,
        lease_seconds,
    )
    return [Notice(**row) for row in rows]


async def settle_notice(
    db: Database,
    notice: Notice,
    state: State,
    *,
    error: str | None = None,
    retry_in_seconds: float | None = None,
) -> bool:
    """Write down how an attempt ended; `pending` is tried again after `retry_in_seconds`.

    False when it was settled before, or is somebody else's by now.
    """
    row = await db.move(
        "SELECT credits.settle_notice("
        "p_user_id => $1, p_id => $2, p_state => $3, p_error => $4, p_retry_in_seconds => $5,"
        " p_attempt => $6)",
        notice.user_id,
        notice.id,
        state,
        error,
        retry_in_seconds,
        notice.attempts,
    )
    settled: bool = row[0]
    return settled


async def retry_notices(db: Database, ids: Sequence[UUID] | None) -> int:
    """Send notices that were given up once more, these or all of them. ApiError 404.

    How many there were; repeated after a broken connection, it finds none to be sent again.
    """
    row = await db.move("SELECT credits.retry_notices($1) AS retried", ids)
    retried: int = row["retried"]
    return retried
