"""Gifts: one wrapper for each function of `sql/functions/gifts`. Amounts are whole credits."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from service.db import Database
from service.ids import uuid7


@dataclass(frozen=True, slots=True)
class Gift:
    """A gift as its creator sees it."""

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
    created_at: datetime
    updated_at: datetime
    replayed: bool


@dataclass(frozen=True, slots=True)
class PublicGift:
    """What anybody who has a code may see."""

    code: str
    type: str
    status: str
    total_credits: int
    message: str | None
    creator_name: str | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ReceivedGift:
    """A gift as its redeemer sees it."""

    id: UUID
    code: str
    credits: int
    message: str | None
    creator_name: str | None
    status: str
    source_app_id: str | None
    redeemed_at: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Redemption:
    """How an attempt ended: `outcome` is `success` or why it was refused.

    `available` is None when it was refused.
    """

    outcome: str
    gift_id: UUID
    credits: int
    message: str | None
    creator_name: str | None
    replayed: bool
    available: int


@dataclass(frozen=True, slots=True)
class PendingRedemption:
    """How many waiting gifts were redeemed, and for how many credits."""

    redeemed: int
    total_credits: int
    available: int


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What a cancelled gift gave back."""

    refunded_credits: int
    replayed: bool
    available: int


async def create_gift(
    db: Database,
    *,
    user_id: str,
    credits: int,
    type_: str,
    target_email: str | None,
    message: str | None,
    expires_at: datetime | None,
    expiration_days: int | None,
    creator_name: str | None,
    idempotency_key: str | None,
    email: str | None,
) -> Gift:
    """Put credits of a user into a code. ApiError 400, 402, 409."""
    row = await db.move(
        "SELECT * FROM gifts.create_gift("
        "p_user_id => $1, p_credits => $2, p_type => $3, p_target_email => $4, p_message => $5,"
        " p_expires_at => $6, p_expiration_days => $7, p_creator_name => $8,"
        " p_idempotency_key => $9, p_email => $10, p_id => $11)",
        user_id,
        credits,
        type_,
        target_email,
        message,
        expires_at,
        expiration_days,
        creator_name,
        idempotency_key,
        email,
        uuid7(),
    )
    return Gift(**row)


async def get_gift(db: Database, code: str) -> PublicGift:
    """What whoever has a code may see. ApiError 404."""
    return PublicGift(**await db.row("SELECT * FROM gifts.get_gift($1)", code))


async def redeem_gift(
    db: Database,
    *,
    code: str,
    user_id: str,
    email: str | None,
    email_verified: bool,
    source_app_id: str | None,
    idempotency_key: str | None,
) -> Redemption:
    """Try to redeem a gift; a refusal is an outcome. ApiError 404 for an unknown code."""
    row = await db.move(
        "SELECT * FROM gifts.redeem_gift("
        "p_code => $1, p_user_id => $2, p_email => $3, p_email_verified => $4,"
        " p_source_app_id => $5, p_id => $6, p_idempotency_key => $7)",
        code,
        user_id,
        email,
        email_verified,
        source_app_id,
        uuid7(),
        idempotency_key,
    )
    return Redemption(**row)


async def redeem_pending_gifts(
    db: Database, *, user_id: str, email: str, email_verified: bool | None
) -> PendingRedemption:
    """Redeem every personalized gift that waits for an address."""
    row = await db.move(
        "SELECT * FROM gifts.redeem_pending_gifts("
        "p_user_id => $1, p_email => $2, p_email_verified => $3)",
        user_id,
        email,
        email_verified,
    )
    return PendingRedemption(**row)


async def cancel_gift(
    db: Database, *, user_id: str, gift_id: UUID, idempotency_key: str | None
) -> Cancellation:
    """Return a gift to its creator. ApiError 400, 404, 409."""
    row = await db.move(
        "SELECT * FROM gifts.cancel_gift("
        "p_user_id => $1, p_gift_id => $2, p_idempotency_key => $3)",
        user_id,
        gift_id,
        idempotency_key,
    )
    return Cancellation(**row)


async def list_created_gifts(db: Database, *, user_id: str, limit: int, offset: int) -> list[Gift]:
    """The gifts a user made, newest first."""
    rows = await db.rows(
        "SELECT * FROM gifts.list_created_gifts($1, $2, $3)", user_id, limit, offset
    )
    return [Gift(**row) for row in rows]


async def list_received_gifts(
    db: Database, *, user_id: str, limit: int, offset: int
) -> list[ReceivedGift]:
    """The gifts a user redeemed, newest first."""
    rows = await db.rows(
        "SELECT * FROM gifts.list_received_gifts($1, $2, $3)", user_id, limit, offset
    )
    return [ReceivedGift(**row) for row in rows]
