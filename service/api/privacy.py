"""Data subject requests: everything that is stored about a user, and the end of it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from aiohttp import web

from service.api.admin import ActionKind
from service.api.credits import PurchaseStatus, TransactionType
from service.api.gifts import GiftStatus, GiftType
from service.api.sync import Interval
from service.keys import CALLER, DB
from service.queries import privacy
from service.queries.privacy import Erasure
from service.wire import (
    PIECE_BYTES,
    Answer,
    Auth,
    Routes,
    Timestamp,
    one_of,
    path_user_id,
    respond,
    respond_pieces,
    timestamp,
)

routes = Routes()

Origin = Literal["user", "service", "system"]


class ExportedBalance(Answer):
    """What the user has, in credits; times are null for one never seen."""

    balance: int
    total_earned: int
    total_spent: int
    reserved: int
    transactions_count: int
    created_at: Timestamp | None
    updated_at: Timestamp | None


class ExportedContact(Answer):
    """The last known address."""

    email: str
    updated_at: Timestamp


class ExportedTransaction(Answer):
    """A row of the ledger; `seq` counts them."""

    seq: int
    id: UUID
    type: Annotated[str, one_of(TransactionType)]
    origin: Annotated[str, one_of(Origin)]
    amount: int
    balance_before: int
    balance_after: int
    app_id: str
    description: str
    metadata: Mapping[str, Any] | None
    reference_id: UUID | None
    idempotency_key: str | None
    created_at: Timestamp


class ExportedDebitRefund(Answer):
    """How much of a debit was refunded."""

    transaction_id: UUID
    debited: int
    refunded: int


class ExportedUsage(Answer):
    """What one app used on one day (UTC)."""

    date: Annotated[str, msgspec.Meta(extra_json_schema={"format": "date"})]
    app_id: str
    credits_used: int
    operations: int


class ExportedReservation(Answer):
    """Credits held, and how that ended."""

    id: UUID
    amount: int
    reason: str
    status: str
    committed_amount: int | None
    transaction_id: UUID | None
    idempotency_key: str | None
    expires_at: Timestamp
    created_at: Timestamp
    resolved_at: Timestamp | None


class ExportedReversal(Answer):
    """A refund or a dispute at Stripe, and the credits it has taken."""

    id: str
    amount_euro_cents: int
    credits: int
    status: str
    created_at: Timestamp
    updated_at: Timestamp


class ExportedPurchase(Answer):
    """A purchase with its refunds and disputes."""

    id: UUID
    package_id: UUID
    credits: int
    price_euro_cents: int
    status: Annotated[str, one_of(PurchaseStatus)]
    failure: str | None
    stripe_customer_id: str | None
    stripe_payment_intent_id: str | None
    stripe_checkout_session_id: str | None
    stripe_checkout_url: str | None
    stripe_status: str | None
    success_url: str | None
    cancel_url: str | None
    transaction_id: UUID | None
    idempotency_key: str | None
    metadata: Mapping[str, Any] | None
    refunds: list[ExportedReversal]
    disputes: list[ExportedReversal]
    created_at: Timestamp
    updated_at: Timestamp
    completed_at: Timestamp | None


class ExportedEvent(Answer):
    """A stored event of Stripe's that is about the user; Stripe has what it says."""

    id: str
    type: str
    state: str
    created_at: Timestamp
    received_at: Timestamp


class ExportedSubscription(Answer):
    """Cloud Sync."""

    active: bool
    gifted: bool
    interval: Annotated[str, one_of(Interval)]
    price: int
    periods: int
    anchor_at: Timestamp | None
    next_charge_at: Timestamp | None
    paid_until: Timestamp | None
    paused_at: Timestamp | None
    created_at: Timestamp
    updated_at: Timestamp


class ExportedGift(Answer):
    """A gift that the user made."""

    id: UUID
    code: str
    creator_name: str | None
    total_credits: int
    type: Annotated[str, one_of(GiftType)]
    status: Annotated[str, one_of(GiftStatus)]
    target_email: str | None
    message: str | None
    expires_at: Timestamp
    redeemed_at: Timestamp | None
    created_at: Timestamp
    updated_at: Timestamp


class ExportedAttempt(Answer):
    """An attempt to redeem a gift, with what the giver wrote where it succeeded."""

    id: UUID
    gift_id: UUID
    outcome: str
    credits: int
    source_app_id: str | None
    creator_name: str | None
    message: str | None
    target_email: str | None
    created_at: Timestamp


class ExportedAddressedGift(Answer):
    """A gift of somebody else's for an address of the user, which he has not redeemed."""

    id: UUID
    target_email: str
    status: Annotated[str, one_of(GiftStatus)]
    total_credits: int
    expires_at: Timestamp
    created_at: Timestamp


class ExportedNotice(Answer):
    """A notice to the user."""

    id: UUID
    kind: str
    state: str
    data: Mapping[str, Any]
    recipient: str | None
    created_at: Timestamp
    delivered_at: Timestamp | None


class ExportedKeyedCall(Answer):
    """An idempotency key that stands beside nothing else."""

    origin: Annotated[str, one_of(Origin)]
    idempotency_key: str
    operation: str
    subject: str
    result: Mapping[str, Any] | None
    created_at: Timestamp


class ExportedAction(Answer):
    """What an administrator did to the user, and why."""

    id: UUID
    action: Annotated[str, one_of(ActionKind)]
    reason: str | None
    amount: int | None
    debit_id: UUID | None
    transaction_id: UUID | None
    created_at: Timestamp


class ExportedActionAsAdmin(Answer):
    """What the user did as an administrator; to whom and why is the other's."""

    id: UUID
    admin_name: str | None
    action: Annotated[str, one_of(ActionKind)]
    amount: int | None
    idempotency_key: str | None
    created_at: Timestamp


class ExportedErasure(Answer):
    """That the user, as an administrator, erased somebody: nobody knows any more whom."""

    erased_at: Timestamp


class UserExport(Answer):
    """Everything that is stored about a user; for a user never seen the same, empty."""

    user_id: str
    exported_at: Timestamp
    balance: ExportedBalance
    contact: ExportedContact | None
    transactions: list[ExportedTransaction]
    debit_refunds: list[ExportedDebitRefund]
    usage: list[ExportedUsage]
    reservations: list[ExportedReservation]
    purchases: list[ExportedPurchase]
    stripe_customer_id: str | None
    stripe_events: list[ExportedEvent]
    subscription: ExportedSubscription | None
    gifts_created: list[ExportedGift]
    gift_attempts: list[ExportedAttempt]
    gifts_addressed: list[ExportedAddressedGift]
    notices: list[ExportedNotice]
    keyed_calls: list[ExportedKeyedCall]
    admin_actions: list[ExportedAction]
    actions_as_admin: list[ExportedActionAsAdmin]
    erasures_as_admin: list[ExportedErasure]


class UserErased(Answer):
    """What erasing a user did; `erasedAt` is null where nothing was known of him.

    `forfeitedCredits` is what was left, `writtenOffCredits` what the balance was below zero by.
    """

    success: Literal[True]
    forfeited_credits: int
    written_off_credits: int
    cancelled_gifts: int
    released_holds: int
    erased_at: Timestamp | None

    @classmethod
    def of(cls, erasure: Erasure) -> "UserErased":
        """From the query's answer."""
        return cls(
            success=True,
            forfeited_credits=erasure.forfeited_credits,
            written_off_credits=erasure.written_off_credits,
            cancelled_gifts=erasure.cancelled_gifts,
            released_holds=erasure.released_holds,
            erased_at=timestamp(erasure.erased_at),
        )


@routes.get("/api/v1/internal/users/{userId}/export", auth=Auth.SERVICE, answer=UserExport)
async def export_user(request: web.Request) -> web.Response:
    """Everything that is stored about a user, as of one moment."""
    return await _export(request)


@routes.get("/api/v1/admin/users/{userId}/export", auth=Auth.ADMIN, answer=UserExport)
async def export_user_for_admin(request: web.Request) -> web.Response:
    """The same for support: everything that is stored about a user, as of one moment."""
    return await _export(request)


@routes.delete("/api/v1/internal/users/{userId}", auth=Auth.SERVICE, answer=UserErased)
async def erase_user(request: web.Request) -> web.Response:
    """Erase a user, for good.

    Cloud Sync ends, open holds and active gifts go back to him, and what is left is forfeited. A
    random pseudonym takes his place; the amounts and times of the ledger stay. Calling again
    changes nothing, and to every other call he is a user never seen.
    """
    return respond(UserErased.of(await privacy.erase_user(request.app[DB], path_user_id(request))))


@routes.delete("/api/v1/admin/users/{userId}", auth=Auth.ADMIN, answer=UserErased)
async def erase_user_as_admin(request: web.Request) -> web.Response:
    """The same by support: erase a user, for good.

    It is written down who did it. There is no reason to give, since it could tell who was erased.
    """
    erasure = await privacy.erase_user(
        request.app[DB], path_user_id(request), admin_id=request[CALLER].user_id
    )
    return respond(UserErased.of(erasure))


async def _export(request: web.Request) -> web.Response:
    pieces = await privacy.export_user(request.app[DB], path_user_id(request), PIECE_BYTES)
    return respond_pieces(pieces, headers={"Cache-Control": "no-store"})
