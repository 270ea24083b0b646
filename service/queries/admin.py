"""What support sees and does: one wrapper for each SQL function. Amounts are whole credits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

from service.db import Database
from service.ids import uuid7
from service.queries.credits import Move
from service.queries.sync import SyncStatus

EventState = Literal["failed", "received"]
NoticeState = Literal["failed", "undeliverable", "pending"]


@dataclass(frozen=True, slots=True)
class Administrator:
    """Who does something, as the token says; the name is cleaned where it is written down."""

    id: str
    name: str | None


@dataclass(frozen=True, slots=True)
class FoundUser:
    """A user that a search found; `available` is what can be spent."""

    user_id: str
    email: str | None
    available: int
    reserved: int
    sync_active: bool
    last_move_at: datetime | None


@dataclass(frozen=True, slots=True)
class OpenHold:
    """A reservation that holds credits now."""

    id: UUID
    amount: int
    reason: str
    status: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Account:
    """A user as support sees him; zeros and None for a user never seen."""

    user_id: str
    email: str | None
    available: int
    reserved: int
    total_earned: int
    total_spent: int
    transactions_count: int
    created_at: datetime | None
    sync: SyncStatus
    open_holds: Sequence[OpenHold]


@dataclass(frozen=True, slots=True)
class Action:
    """What an administrator did to a user."""

    id: UUID
    user_id: str
    admin_id: str
    admin_name: str | None
    action: str
    reason: str | None
    transaction_id: UUID | None
    details: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class MaskedGift:
    """A gift as support sees it: the code of an active one is masked."""

    id: UUID
    code: str
    creator_id: str
    creator_name: str | None
    total_credits: int
    type: str
    status: str
    target_email: str | None
    message: str | None
    expires_at: datetime
    redeemed_by: str | None
    redeemed_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class DayTotals:
    """A day (UTC) of the whole ledger; `outstanding` is what users had at its end."""

    day: date
    sold: int
    granted: int
    used: int
    reversed: int
    refunded: int
    outstanding: int


@dataclass(frozen=True, slots=True)
class Overview:
    """How the whole of it stands now."""

    subscriptions_active: int
    subscriptions_paused: int
    subscriptions_gifted: int
    next_run_due: int
    next_run_charges: int
    next_run_pauses: int
    next_run_credits: int
    ledger_checked_at: datetime | None
    ledger_violations: int | None
    events_failed: int
    events_received: int
    notices_waiting: int
    notices_failed: int
    notices_undeliverable: int


@dataclass(frozen=True, slots=True)
class JobState:
    """A job and its last runs."""

    job: str
    last_started_at: datetime | None
    last_ended_at: datetime | None
    last_succeeded_at: datetime | None
    did: Mapping[str, Any] | None
    error: str | None
    late: bool


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """A stored Stripe event that is not done with."""

    id: str
    type: str
    state: str
    error: str | None
    received_at: datetime
    attempts: int
    next_attempt_at: datetime | None
    purchase_id: UUID | None


@dataclass(frozen=True, slots=True)
class ListedNotice:
    """A notice that was not delivered."""

    id: UUID
    user_id: str
    kind: str
    state: str
    attempts: int
    last_error: str | None
    created_at: datetime
    next_attempt_at: datetime | None


async def find_users(db: Database, query: str, limit: int) -> list[FoundUser]:
    """Whom a text may mean, the best match first. ApiError 400."""
    rows = await db.rows("SELECT * FROM credits.find_users($1, $2)", query, limit)
    return [FoundUser(**row) for row in rows]


async def get_account(db: Database, user_id: str) -> Account:
    """A user as support sees him."""
    row = dict(await db.row("SELECT * FROM credits.get_account($1)", user_id))
    row["sync"] = SyncStatus(**row["sync"])
    row["open_holds"] = [OpenHold(**hold) for hold in row["open_holds"]]
    return Account(**row)


async def list_admin_actions(
    db: Database, *, user_id: str, limit: int, offset: int
) -> list[Action]:
    """What administrators did to a user, newest first."""
    rows = await db.rows(
        "SELECT * FROM credits.list_admin_actions($1, $2, $3)", user_id, limit, offset
    )
    return [Action(**row) for row in rows]


async def list_masked_gifts(
    db: Database, *, user_id: str, limit: int, offset: int
) -> list[MaskedGift]:
    """The gifts a user made, newest first, without codes that are money."""
    rows = await db.rows(
        "SELECT * FROM gifts.list_masked_gifts($1, $2, $3)", user_id, limit, offset
    )
    return [MaskedGift(**row) for row in rows]


async def grant_as_admin(
    db: Database,
    administrator: Administrator,
    *,
    user_id: str,
    amount: int,
    reason: str,
    idempotency_key: str | None,
) -> Move:
    """Grant credits, and write down who and why. ApiError 400, 409."""
    row = await db.move(
        "SELECT * FROM credits.grant_as_admin("
        "p_user_id => $1, p_amount => $2, p_reason => $3, p_admin_id => $4, p_admin_name => $5,"
        " p_idempotency_key => $6, p_id => $7)",
        user_id,
        amount,
        reason,
        administrator.id,
        administrator.name,
        idempotency_key,
        uuid7(),
    )
    return Move(**row)


async def refund_as_admin(
    db: Database,
    administrator: Administrator,
    *,
    user_id: str,
    transaction_id: UUID,
    amount: int | None,
    reason: str,
    idempotency_key: str | None,
) -> Move:
    """Give a debit back, or `amount` of it, and write down who and why. ApiError 400, 404, 409."""
    row = await db.move(
        "SELECT * FROM credits.refund_as_admin("
        "p_user_id => $1, p_transaction_id => $2, p_reason => $3, p_admin_id => $4,"
        " p_admin_name => $5, p_amount => $6, p_idempotency_key => $7, p_id => $8)",
        user_id,
        transaction_id,
        reason,
        administrator.id,
        administrator.name,
        amount,
        idempotency_key,
        uuid7(),
    )
    return Move(**row)


async def gift_sync(
    db: Database, administrator: Administrator, *, user_id: str, reason: str | None
) -> SyncStatus:
    """Cloud Sync on without charges; again is the same."""
    row = await db.move(
        "SELECT * FROM credits.gift_sync("
        "p_user_id => $1, p_admin_id => $2, p_admin_name => $3, p_reason => $4)",
        user_id,
        administrator.id,
        administrator.name,
        reason,
    )
    return SyncStatus(**row)


async def revoke_sync_gift(
    db: Database, administrator: Administrator, *, user_id: str, reason: str | None
) -> SyncStatus:
    """End a gifted Cloud Sync. ApiError 400."""
    row = await db.move(
        "SELECT * FROM credits.revoke_sync_gift("
        "p_user_id => $1, p_id => $2, p_admin_id => $3, p_admin_name => $4, p_reason => $5)",
        user_id,
        uuid7(),
        administrator.id,
        administrator.name,
        reason,
    )
    return SyncStatus(**row)


async def list_daily_totals(db: Database, days: int) -> list[DayTotals]:
    """The whole ledger per day (UTC) over the last `days` days, today included; newest first."""
    rows = await db.rows("SELECT * FROM credits.list_daily_totals($1)", days)
    return [DayTotals(**row) for row in rows]


async def get_overview(db: Database) -> Overview:
    """How the whole of it stands now."""
    return Overview(**await db.row("SELECT * FROM credits.get_overview()"))


async def list_job_states(db: Database) -> list[JobState]:
    """Every job that is expected, and its last runs."""
    rows = await db.rows("SELECT * FROM credits.list_job_states()")
    return [JobState(**row) for row in rows]


async def list_stripe_events(
    db: Database, *, state: EventState, limit: int, before: str | None
) -> list[ListedEvent]:
    """Stored events that are not done with, newest first. ApiError 400."""
    rows = await db.rows(
        "SELECT * FROM credits.list_stripe_events($1, $2, $3)", state, limit, before
    )
    return [ListedEvent(**row) for row in rows]


async def list_notices(
    db: Database, *, state: NoticeState, limit: int, before: UUID | None
) -> list[ListedNotice]:
    """Notices that were not delivered, newest first."""
    rows = await db.rows("SELECT * FROM credits.list_notices($1, $2, $3)", state, limit, before)
    return [ListedNotice(**row) for row in rows]
