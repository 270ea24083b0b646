"""What other services of ours call, with the service key."""

from typing import Literal
from uuid import UUID

import structlog
from aiohttp import web

from service.api.credits import Balance, Moved, UseCredits
from service.api.fields import (
    Amount,
    AppId,
    Description,
    Email,
    HoldSeconds,
    IdempotencyKey,
    Metadata,
    Reason64,
    Reason200,
    ReferenceId,
    Text256,
    UserId,
)
from service.api.sync import Status
from service.keys import DB, METRICS, SERVICE_CALLER
from service.queries import credits, gifts, sync
from service.wire import (
    Answer,
    Auth,
    Body,
    NoFields,
    Replayable,
    Routes,
    Timestamp,
    idempotency_key,
    path_user_id,
    read_body,
    respond,
    timestamp,
)

routes = Routes()

CHARGE_SECONDS = 25.0

_log = structlog.get_logger(__name__)


class BalanceRow(Answer):
    """A user's balance; `balance` is what can be spent."""

    user_id: str
    balance: int
    total_earned: int
    total_spent: int
    version: int
    created_at: Timestamp | None
    updated_at: Timestamp | None


class Granted(Replayable):
    """A grant that was made, or had been made before."""

    ok: Literal[True]
    already_granted: bool
    new_balance: int
    transaction_id: UUID


class Reserved(Replayable):
    """Credits held; `balance` is what can be spent beside them."""

    reservation_id: UUID
    balance: int
    expires_at: Timestamp


class Committed(Replayable):
    """A hold that became a debit of `amount`."""

    success: Literal[True]
    transaction_id: UUID
    balance: int
    amount: int


class ReservationRefunded(Replayable):
    """A hold that went back."""

    success: Literal[True]
    balance: int


class PendingRedeemed(Answer):
    """How many waiting gifts a new user got."""

    redeemed: int
    total_credits: int


class ChargeRun(Answer):
    """What a charge run did; `more` says whether something is still due."""

    charged: int
    paused: int
    errors: int
    total: int
    more: bool


class InitBalance(Body):
    """Whom to make known."""

    user_id: UserId


class UseCreditsOf(UseCredits, kw_only=True):
    """A debit of a user."""

    user_id: UserId


class RefundCredits(Body, kw_only=True):
    """Credits to give back."""

    user_id: UserId
    amount: Amount
    description: Description
    app_id: AppId = "system"
    metadata: Metadata | None = None
    idempotency_key: IdempotencyKey | None = None
    transaction_id: UUID | None = None


class GrantCredits(Body, kw_only=True):
    """A reward."""

    user_id: UserId
    amount: Amount
    reason: Reason64
    reference_id: ReferenceId
    description: Text256 | None = None


class ReserveCredits(Body, kw_only=True):
    """Credits to hold."""

    user_id: UserId
    amount: Amount
    reason: Reason200
    expires_in_seconds: HoldSeconds = 86_400
    idempotency_key: IdempotencyKey | None = None


class CommitReservation(Body, kw_only=True):
    """A hold to debit."""

    reservation_id: UUID
    user_id: UserId | None = None
    description: Description | None = None
    amount: Amount | None = None
    idempotency_key: IdempotencyKey | None = None


class RefundReservation(Body, kw_only=True):
    """A hold to give back."""

    reservation_id: UUID
    user_id: UserId | None = None
    idempotency_key: IdempotencyKey | None = None


class RedeemPending(Body, kw_only=True):
    """Who has just registered."""

    user_id: UserId
    email: Email
    email_verified: bool | None = None


@routes.get("/api/v1/internal/credits/balance/{userId}", auth=Auth.SERVICE, answer=Balance)
async def get_user_balance(request: web.Request) -> web.Response:
    """What a user has; zeros for a user never seen."""
    return respond(Balance.of(await credits.get_balance(request.app[DB], path_user_id(request))))


@routes.post(
    "/api/v1/internal/credits/init", auth=Auth.SERVICE, body=InitBalance, answer=BalanceRow
)
async def init_balance(request: web.Request) -> web.Response:
    """Make a user known; again changes nothing."""
    body = await read_body(request, InitBalance)
    summary = await credits.init_balance(request.app[DB], body.user_id)
    return respond(
        BalanceRow(
            user_id=summary.user_id,
            balance=summary.available,
            total_earned=summary.total_earned,
            total_spent=summary.total_spent,
            version=summary.version,
            created_at=timestamp(summary.created_at),
            updated_at=timestamp(summary.updated_at),
        )
    )


@routes.post(
    "/api/v1/internal/credits/use",
    auth=Auth.SERVICE,
    body=UseCreditsOf,
    answer=Moved,
    errors=("insufficient_credits",),
)
async def use_user_credits(request: web.Request) -> web.Response:
    """Debit a user; safe to repeat with the same idempotency key."""
    body = await read_body(request, UseCreditsOf)
    move = await credits.use_credits(
        request.app[DB],
        user_id=body.user_id,
        amount=body.amount,
        app_id=body.app_id,
        description=body.description,
        idempotency_key=idempotency_key(request, body),
        metadata=body.metadata,
        origin="service",
    )
    return respond(Moved.of(move), replayed=move.replayed)


@routes.post(
    "/api/v1/internal/credits/refund",
    auth=Auth.SERVICE,
    body=RefundCredits,
    answer=Moved,
    errors=("not_found",),
)
async def refund_credits(request: web.Request) -> web.Response:
    """Give credits back; with `transactionId`, at most what that debit took."""
    body = await read_body(request, RefundCredits)
    key = idempotency_key(request, body)
    if key is None and body.transaction_id is None:
        # Older clients. A retry of theirs refunds twice, so it must be seen who they are.
        request.app[METRICS].unkeyed_refund()
        _log.warning(
            "refund without an idempotency key or a transaction",
            app=request[SERVICE_CALLER].app_id,
        )
    move = await credits.refund_credits(
        request.app[DB],
        user_id=body.user_id,
        amount=body.amount,
        app_id=body.app_id,
        description=body.description,
        idempotency_key=key,
        metadata=body.metadata,
        transaction_id=body.transaction_id,
    )
    return respond(Moved.of(move), replayed=move.replayed)


@routes.post("/api/v1/internal/credits/grant", auth=Auth.SERVICE, body=GrantCredits, answer=Granted)
async def grant_credits(request: web.Request) -> web.Response:
    """Grant a reward, once per user and `referenceId`."""
    body = await read_body(request, GrantCredits)
    move = await credits.grant_credits(
        request.app[DB],
        user_id=body.user_id,
        amount=body.amount,
        reason=body.reason,
        reference_id=body.reference_id,
        description=body.description,
    )
    return respond(
        Granted(
            ok=True,
            already_granted=move.replayed,
            new_balance=move.available,
            transaction_id=move.id,
        ),
        replayed=move.replayed,
    )


@routes.post(
    "/api/v1/internal/credits/reserve",
    auth=Auth.SERVICE,
    body=ReserveCredits,
    answer=Reserved,
    errors=("insufficient_credits",),
)
async def reserve_credits(request: web.Request) -> web.Response:
    """Hold credits for a call that is about to be made."""
    body = await read_body(request, ReserveCredits)
    hold = await credits.reserve_credits(
        request.app[DB],
        user_id=body.user_id,
        amount=body.amount,
        reason=body.reason,
        expires_in_seconds=body.expires_in_seconds,
        idempotency_key=idempotency_key(request, body),
    )
    return respond(
        Reserved(
            reservation_id=hold.reservation_id,
            balance=hold.available,
            expires_at=timestamp(hold.expires_at),
        ),
        replayed=hold.replayed,
    )


@routes.post(
    "/api/v1/internal/credits/commit",
    auth=Auth.SERVICE,
    body=CommitReservation,
    answer=Committed,
    errors=("not_found", "reservation_resolved"),
)
async def commit_reservation(request: web.Request) -> web.Response:
    """Debit what a hold set aside; what is not committed goes back."""
    body = await read_body(request, CommitReservation)
    committed = await credits.commit_reservation(
        request.app[DB],
        reservation_id=body.reservation_id,
        user_id=body.user_id,
        description=body.description,
        amount=body.amount,
        idempotency_key=idempotency_key(request, body),
    )
    return respond(
        Committed(
            success=True,
            transaction_id=committed.transaction_id,
            balance=committed.available,
            amount=committed.amount,
        ),
        replayed=committed.replayed,
    )


@routes.post(
    "/api/v1/internal/credits/refund-reservation",
    auth=Auth.SERVICE,
    body=RefundReservation,
    answer=ReservationRefunded,
    errors=("not_found", "reservation_resolved"),
)
async def refund_reservation(request: web.Request) -> web.Response:
    """Give a hold back."""
    body = await read_body(request, RefundReservation)
    hold = await credits.refund_reservation(
        request.app[DB],
        reservation_id=body.reservation_id,
        user_id=body.user_id,
        idempotency_key=idempotency_key(request, body),
    )
    return respond(
        ReservationRefunded(success=True, balance=hold.available), replayed=hold.replayed
    )


@routes.post(
    "/api/v1/internal/gifts/redeem-pending",
    auth=Auth.SERVICE,
    body=RedeemPending,
    answer=PendingRedeemed,
)
async def redeem_pending(request: web.Request) -> web.Response:
    """Redeem every personalized gift that waits for a new user's address."""
    body = await read_body(request, RedeemPending)
    pending = await gifts.redeem_pending_gifts(
        request.app[DB],
        user_id=body.user_id,
        email=body.email,
        email_verified=body.email_verified,
    )
    return respond(PendingRedeemed(redeemed=pending.redeemed, total_credits=pending.total_credits))


@routes.get("/api/v1/internal/sync/status/{userId}", auth=Auth.SERVICE, answer=Status)
async def get_user_sync_status(request: web.Request) -> web.Response:
    """Cloud Sync of a user; inactive and monthly for a user never seen."""
    return respond(Status.of(await sync.get_sync_status(request.app[DB], path_user_id(request))))


@routes.post(
    "/api/v1/internal/sync/charge-recurring", auth=Auth.SERVICE, body=NoFields, answer=ChargeRun
)
async def charge_recurring(request: web.Request) -> web.Response:
    """Charge what is due, for at most 25 s; pg_cron does the same by itself."""
    await read_body(request, NoFields)
    run = await sync.charge_recurring(request.app[DB], CHARGE_SECONDS)
    return respond(
        ChargeRun(
            charged=run.charged,
            paused=run.paused,
            errors=run.errors,
            total=run.total,
            more=run.more,
        )
    )
