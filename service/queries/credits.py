"""Balances, the ledger, reservations, prices: one wrapper for each function of `sql/functions`.

The fields of what a query returns are the columns of the function's result, in their order.

Amounts are whole credits (1 credit = 1 euro cent). What a function raises reaches the caller as
ApiError, by the table of `service.errors`.
"""

from collections.abc import Awaitable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

import msgspec

from service.batches import Kind, Left
from service.db import Database, Record
from service.errors import ApiError, Refused, from_postgres
from service.ids import uuid7

Origin = Literal["user", "service"]


class Move(msgspec.Struct, frozen=True):
    """A ledger row, and what the user has after it; `credits.move`.

    The four balances at the end are None in a list of the ledger.
    """

    id: UUID
    user_id: str
    seq: int
    type: str
    amount: int
    balance_before: int
    balance_after: int
    app_id: str
    description: str
    metadata: Mapping[str, Any] | None
    reference_id: UUID | None
    idempotency_key: str | None
    created_at: datetime
    replayed: bool
    available: int
    reserved: int
    total_earned: int
    total_spent: int


class BalanceSummary(msgspec.Struct, frozen=True):
    """What a user has; `available` is what can be spent. Times are None for a user never seen."""

    user_id: str
    available: int
    reserved: int
    total_earned: int
    total_spent: int
    transactions_count: int
    version: int
    created_at: datetime | None
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class UsageDay:
    """What one app used on one day (UTC)."""

    day: date
    app_id: str
    credits_used: int
    operations: int


class Hold(msgspec.Struct, frozen=True):
    """A reservation, and what can be spent beside it."""

    reservation_id: UUID
    user_id: str
    amount: int
    reason: str
    status: str
    expires_at: datetime
    created_at: datetime
    replayed: bool
    available: int


class CommittedHold(msgspec.Struct, frozen=True):
    """The debit that a reservation became; `amount` is positive."""

    reservation_id: UUID
    user_id: str
    transaction_id: UUID
    amount: int
    replayed: bool
    available: int


@dataclass(frozen=True, slots=True)
class OperationPrice:
    """`cost` credits for `per` uses of an operation."""

    operation: str
    name: str
    description: str
    category: str
    app: str | None
    cost: int
    per: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class SyncPrice:
    """What an interval of Cloud Sync costs."""

    billing_interval: str
    months: int
    price: int
    updated_at: datetime


# Calls that go together


class BatchCall(NamedTuple):
    """The attributes of `credits.batch_call`, in their order; None where a function has none."""

    operation: str
    user_id: str | None
    id: UUID | None = None
    amount: int | None = None
    app_id: str | None = None
    description: str | None = None
    idempotency_key: str | None = None
    metadata: Mapping[str, Any] | None = None
    origin: Origin | None = None
    transaction_id: UUID | None = None
    reservation_id: UUID | None = None
    reason: str | None = None
    reference_id: str | None = None
    expires_in_seconds: int | None = None


class _Call(msgspec.Struct, frozen=True):
    """A call that can go with others, or alone."""

    batch: BatchCall
    sql: str
    """The function that does it alone. Its answer is one value and not columns: so PostgreSQL does
    not put it aside as rows first, which is some 7 % of a debit."""
    args: tuple[object, ...]

    @property
    def subject(self) -> Hashable:
        """The user, or where only a hold is named that."""
        return self.batch.user_id or self.batch.reservation_id


async def _together(db: Database, calls: Sequence[_Call]) -> list[Record | ApiError | Left]:
    rows = await db.move_together(
        "SELECT * FROM credits.run_batch($1)", [call.batch for call in calls]
    )
    outcomes: list[Record | ApiError | Left] = [Left.ALONE] * len(calls)
    for row in rows:
        if not row["alone"]:
            outcomes[row["place"] - 1] = _outcome(row)
    return outcomes


def _outcome(row: Record) -> Record | ApiError:
    if row["error"] is not None:
        refused = Refused(row["error"], row["detail"])
        # The neighbours are done, so that nothing may be raised here.
        return from_postgres(refused) or ApiError(500, "internal_error", "Internal server error")
    outcome: Record = row["move"] or row["hold"] or row["committed"]
    return outcome


async def _alone(db: Database, call: _Call, settle_until: float | None) -> Record:
    (answer,) = await db.move(call.sql, *call.args, settle_until=settle_until)
    outcome: Record = answer
    return outcome


_MOVES: Final[Kind[_Call, Record]] = Kind("moves", _together, _alone, attrgetter("subject"))


async def _balances(db: Database, user_ids: Sequence[str]) -> list[Record]:
    return await db.rows("SELECT * FROM credits.get_balances($1)", user_ids)


def _balance(db: Database, user_id: str, _settle_until: float | None) -> Awaitable[Record]:
    return db.row("SELECT * FROM credits.get_balance($1)", user_id)


_BALANCES: Final[Kind[str, Record]] = Kind(
    # A read takes the database so little that a second statement costs more than it saves.
    "balances",
    _balances,
    _balance,
    str,
    ordered=False,
    side_by_side=False,
)


async def get_balance(db: Database, user_id: str) -> BalanceSummary:
    """What a user has; zeros for a user never seen."""
    return BalanceSummary(*await db.batched(_BALANCES, user_id))


async def init_balance(db: Database, user_id: str) -> BalanceSummary:
    """Make a user known; again changes nothing."""
    return BalanceSummary(*await db.move("SELECT * FROM credits.init_balance($1)", user_id))


async def use_credits(
    db: Database,
    *,
    user_id: str,
    amount: int,
    app_id: str,
    description: str,
    idempotency_key: str | None,
    metadata: Mapping[str, Any] | None,
    origin: Origin,
) -> Move:
    """Debit a user, at most once per key of this origin. ApiError 400, 402, 409."""
    move_id = uuid7()
    call = _Call(
        BatchCall(
            "use_credits",
            user_id,
            id=move_id,
            amount=amount,
            app_id=app_id,
            description=description,
            idempotency_key=idempotency_key,
            metadata=metadata,
            origin=origin,
        ),
        "SELECT credits.use_credits("
        "p_user_id => $1, p_amount => $2, p_app_id => $3, p_description => $4,"
        " p_idempotency_key => $5, p_metadata => $6, p_id => $7, p_origin => $8)",
        (user_id, amount, app_id, description, idempotency_key, metadata, move_id, origin),
    )
    return Move(*await db.batched(_MOVES, call))


async def refund_credits(
    db: Database,
    *,
    user_id: str,
    amount: int,
    app_id: str,
    description: str,
    idempotency_key: str | None,
    metadata: Mapping[str, Any] | None,
    transaction_id: UUID | None,
) -> Move:
    """Give credits back, for a debit or without one. ApiError 400, 404, 409."""
    move_id = uuid7()
    call = _Call(
        BatchCall(
            "refund_credits",
            user_id,
            id=move_id,
            amount=amount,
            app_id=app_id,
            description=description,
            idempotency_key=idempotency_key,
            metadata=metadata,
            transaction_id=transaction_id,
        ),
        "SELECT credits.refund_credits("
        "p_user_id => $1, p_amount => $2, p_app_id => $3, p_description => $4,"
        " p_idempotency_key => $5, p_metadata => $6, p_transaction_id => $7, p_id => $8)",
        (
            user_id,
            amount,
            app_id,
            description,
            idempotency_key,
            metadata,
            transaction_id,
            move_id,
        ),
    )
    return Move(*await db.batched(_MOVES, call))


async def grant_credits(
    db: Database,
    *,
    user_id: str,
    amount: int,
    reason: str,
    reference_id: str,
    description: str | None,
) -> Move:
    """Grant credits once per user and reference; `replayed` tells that it was granted before."""
    move_id = uuid7()
    call = _Call(
        BatchCall(
            "grant_credits",
            user_id,
            id=move_id,
            amount=amount,
            description=description,
            reason=reason,
            reference_id=reference_id,
        ),
        "SELECT credits.grant_credits("
        "p_user_id => $1, p_amount => $2, p_reason => $3, p_reference_id => $4,"
        " p_description => $5, p_id => $6)",
        (user_id, amount, reason, reference_id, description, move_id),
    )
    return Move(*await db.batched(_MOVES, call))


async def reserve_credits(
    db: Database,
    *,
    user_id: str,
    amount: int,
    reason: str,
    expires_in_seconds: int,
    idempotency_key: str | None,
) -> Hold:
    """Hold credits until they are committed, refunded or expired. ApiError 400, 402, 409."""
    hold_id = uuid7()
    call = _Call(
        BatchCall(
            "reserve_credits",
            user_id,
            id=hold_id,
            amount=amount,
            idempotency_key=idempotency_key,
            reason=reason,
            expires_in_seconds=expires_in_seconds,
        ),
        "SELECT credits.reserve_credits("
        "p_user_id => $1, p_amount => $2, p_reason => $3, p_expires_in_seconds => $4,"
        " p_idempotency_key => $5, p_id => $6)",
        (user_id, amount, reason, expires_in_seconds, idempotency_key, hold_id),
    )
    return Hold(*await db.batched(_MOVES, call))


async def commit_reservation(
    db: Database,
    *,
    reservation_id: UUID,
    user_id: str | None,
    description: str | None,
    amount: int | None,
    idempotency_key: str | None,
) -> CommittedHold:
    """Turn a hold, or `amount` of it, into a debit. ApiError 400, 404, 409."""
    move_id = uuid7()
    call = _Call(
        BatchCall(
            "commit_reservation",
            user_id,
            id=move_id,
            amount=amount,
            description=description,
            idempotency_key=idempotency_key,
            reservation_id=reservation_id,
        ),
        "SELECT credits.commit_reservation("
        "p_reservation_id => $1, p_user_id => $2, p_description => $3, p_amount => $4, p_id => $5,"
        " p_idempotency_key => $6)",
        (reservation_id, user_id, description, amount, move_id, idempotency_key),
    )
    return CommittedHold(*await db.batched(_MOVES, call))


async def refund_reservation(
    db: Database, *, reservation_id: UUID, user_id: str | None, idempotency_key: str | None
) -> Hold:
    """Give a hold back. ApiError 400, 404, 409."""
    call = _Call(
        BatchCall(
            "refund_reservation",
            user_id,
            idempotency_key=idempotency_key,
            reservation_id=reservation_id,
        ),
        "SELECT credits.refund_reservation("
        "p_reservation_id => $1, p_user_id => $2, p_idempotency_key => $3)",
        (reservation_id, user_id, idempotency_key),
    )
    return Hold(*await db.batched(_MOVES, call))


async def list_transactions(
    db: Database,
    *,
    user_id: str,
    limit: int,
    before_seq: int | None,
    offset: int,
    type_: str | None,
    app_id: str | None,
) -> list[Move]:
    """A user's ledger, newest first; `before_seq` goes on behind a page."""
    rows = await db.rows(
        "SELECT * FROM credits.list_transactions("
        "p_user_id => $1, p_limit => $2, p_before_seq => $3, p_offset => $4, p_type => $5,"
        " p_app_id => $6)",
        user_id,
        limit,
        before_seq,
        offset,
        type_,
        app_id,
    )
    return [Move(*row) for row in rows]


async def list_usage(db: Database, user_id: str, days: int) -> list[UsageDay]:
    """Usage per day (UTC) and app over the last `days` days, today included; newest first."""
    rows = await db.rows("SELECT * FROM credits.list_usage($1, $2)", user_id, days)
    return [UsageDay(**row) for row in rows]


async def list_operation_prices(db: Database) -> list[OperationPrice]:
    """What operations cost, in the order of display."""
    rows = await db.rows("SELECT * FROM credits.list_operation_prices()")
    return [OperationPrice(**row) for row in rows]


async def list_sync_prices(db: Database) -> list[SyncPrice]:
    """What Cloud Sync costs, shortest interval first."""
    rows = await db.rows("SELECT * FROM credits.list_sync_prices()")
    return [SyncPrice(**row) for row in rows]
