"""Support: what administrators see of users and of the whole, and what they do, written down."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from aiohttp import web

from service.api.credits import (
    HistoryPage,
    Moved,
    Page,
    PurchaseView,
    Transaction,
    UsagePeriod,
)
from service.api.fields import (
    Amount,
    EventId,
    IdempotencyKey,
    Limit,
    OptionalReason500,
    Reason500,
    SearchText,
    SomeIds,
)
from service.api.gifts import GiftStatus, GiftType
from service.api.sync import Status
from service.keys import CALLER, DB, SETTINGS, STRIPE
from service.queries import admin, credits, notices, purchases, sync
from service.queries.admin import Account, Administrator, DayTotals, MaskedGift, Overview
from service.reconcile import replay_event
from service.wire import (
    Answer,
    Auth,
    Body,
    NoFields,
    Routes,
    Timestamp,
    build,
    columns,
    idempotency_key,
    one_of,
    path_text,
    path_user_id,
    read_body,
    read_query,
    respond,
    respond_page,
    timestamp,
)

routes = Routes()

ActionKind = Literal["grant", "refund", "gift_sync", "revoke_sync_gift"]
HoldStatus = Literal["open", "committed", "refunded", "expired"]
EventState = Literal["received", "applied", "ignored", "failed"]
NoticeKind = Literal["sync_paused", "gift_expired", "charge_coming"]
NoticeState = Literal["pending", "delivered", "undeliverable", "failed"]


class UserFound(Answer):
    """A user that a search found; `balance` is what can be spent."""

    user_id: str
    email: str | None
    balance: int
    reserved: int
    sync_active: bool
    last_move_at: Timestamp | None


class HoldView(Answer):
    """Credits held for a call that is under way."""

    id: UUID
    amount: int
    reason: str
    status: Annotated[str, one_of(HoldStatus)]
    created_at: Timestamp
    expires_at: Timestamp


class AccountView(Answer):
    """A user; zeros and nulls for one never seen. Of the open reservations the newest 50."""

    user_id: str
    email: str | None
    balance: int
    reserved: int
    total_earned: int
    total_spent: int
    transactions_count: int
    created_at: Timestamp | None
    sync: Status
    reservations: list[HoldView]

    @classmethod
    def of(cls, account: Account) -> "AccountView":
        """From the query's answer."""
        return build(
            cls,
            columns(account),
            balance=account.available,
            sync=Status.of(account.sync),
            reservations=[build(HoldView, columns(hold)) for hold in account.open_holds],
        )


class SupportGift(Answer):
    """A gift that the user made. The code of an active one is masked, and it has no address."""

    id: UUID
    code: str
    url: str | None
    short_url: str | None
    creator_id: str
    creator_name: str | None
    total_credits: int
    redeemed: int
    type: Annotated[str, one_of(GiftType)]
    status: Annotated[str, one_of(GiftStatus)]
    target_email: str | None
    message: str | None
    expires_at: Timestamp
    redeemed_by: str | None
    redeemed_at: Timestamp | None
    created_at: Timestamp
    updated_at: Timestamp

    @classmethod
    def of(cls, gift: MaskedGift, base_url: str) -> "SupportGift":
        """From the query's answer."""
        url = None if gift.status == "active" else f"{base_url}/g/{gift.code}"
        redeemed = 1 if gift.status == "depleted" else 0
        return build(cls, columns(gift), url=url, short_url=url, redeemed=redeemed)


class ActionView(Answer):
    """What an administrator did to the user, and why."""

    id: UUID
    user_id: str
    admin_id: str
    admin_name: str | None
    action: Annotated[str, one_of(ActionKind)]
    reason: str | None
    transaction_id: UUID | None
    details: Mapping[str, Any]
    created_at: Timestamp


class GiftState(Answer):
    """Whether a user's Cloud Sync is a gift, and on."""

    success: Literal[True]
    user_id: str
    gifted: bool
    active: bool


class Day(Answer):
    """A day (UTC) of the whole ledger, in credits; `outstanding` is what users had at its end."""

    date: Annotated[str, msgspec.Meta(extra_json_schema={"format": "date"})]
    sold: int
    granted: int
    used: int
    reversed: int
    refunded: int
    outstanding: int

    @classmethod
    def of(cls, day: DayTotals) -> "Day":
        """From the query's answer."""
        return build(cls, columns(day), date=day.day.isoformat())


class Subscriptions(Answer):
    """How many pay for Cloud Sync, are paused, and have it as a gift."""

    active: int
    paused: int
    gifted: int


class NextRun(Answer):
    """What the next run of charges will do, with 10,000 subscriptions at most; in credits."""

    due: int
    charges: int
    pauses: int
    credits: int


class JobView(Answer):
    """A job; `did` and `error` are of the last run that ended."""

    job: str
    last_started_at: Timestamp | None
    last_ended_at: Timestamp | None
    last_succeeded_at: Timestamp | None
    did: Mapping[str, Any] | None
    error: str | None
    late: bool


class LedgerCheck(Answer):
    """What the last check of the money rules found; nulls before the first."""

    checked_at: Timestamp | None
    violations: int | None


class OpenEvents(Answer):
    """Stripe events that failed, or wait for an answer of Stripe."""

    failed: int
    received: int


class OpenNotices(Answer):
    """Notices that wait to be sent, were given up, or have no address to go to."""

    waiting: int
    failed: int
    undeliverable: int


class OverviewView(Answer):
    """How the whole of it stands; days newest first, today (UTC) included."""

    days: list[Day]
    subscriptions: Subscriptions
    next_run: NextRun
    jobs: list[JobView]
    ledger_check: LedgerCheck
    stripe_events: OpenEvents
    notices: OpenNotices

    @classmethod
    def of(cls, now: Overview, days: list[Day], jobs: list[JobView]) -> "OverviewView":
        """From the queries' answers."""
        return cls(
            days=days,
            subscriptions=Subscriptions(
                active=now.subscriptions_active,
                paused=now.subscriptions_paused,
                gifted=now.subscriptions_gifted,
            ),
            next_run=NextRun(
                due=now.next_run_due,
                charges=now.next_run_charges,
                pauses=now.next_run_pauses,
                credits=now.next_run_credits,
            ),
            jobs=jobs,
            ledger_check=LedgerCheck(
                checked_at=timestamp(now.ledger_checked_at), violations=now.ledger_violations
            ),
            stripe_events=OpenEvents(failed=now.events_failed, received=now.events_received),
            notices=OpenNotices(
                waiting=now.notices_waiting,
                failed=now.notices_failed,
                undeliverable=now.notices_undeliverable,
            ),
        )


class EventView(Answer):
    """A stored Stripe event; `purchaseId` is null where its purchase is not known."""

    id: str
    type: str
    state: Annotated[str, one_of(EventState)]
    error: str | None
    received_at: Timestamp
    attempts: int
    next_attempt_at: Timestamp | None
    purchase_id: UUID | None


class EventReplayed(Answer):
    """What became of the event; `received` waits for an answer of Stripe."""

    id: str
    state: Annotated[str, one_of(EventState)]
    outcome: str | None
    error: str | None


class NoticeView(Answer):
    """A notice of the outbox."""

    id: UUID
    user_id: str
    kind: Annotated[str, one_of(NoticeKind)]
    state: Annotated[str, one_of(NoticeState)]
    attempts: int
    last_error: str | None
    created_at: Timestamp
    next_attempt_at: Timestamp | None


class Retried(Answer):
    """How many notices are sent once more."""

    retried: int


class UserSearch(Body, kw_only=True):
    """What is known of the user.

    An id or its beginning, an e-mail address or its beginning, a purchase, a transaction, a
    PaymentIntent, a Stripe customer, a gift's code.
    """

    query: SearchText
    limit: Limit = 20


class GrantAsAdmin(Body, kw_only=True):
    """A grant, and why."""

    amount: Amount
    reason: Reason500
    idempotency_key: IdempotencyKey | None = None


class RefundAsAdmin(Body, kw_only=True):
    """A refund of a debit, of all that is left of it without `amount`, and why."""

    transaction_id: UUID
    amount: Amount | None = None
    reason: Reason500
    idempotency_key: IdempotencyKey | None = None


class WithReason(Body):
    """Why it is done."""

    reason: OptionalReason500 | None = None


class EventPage(Body, kw_only=True):
    """A page of Stripe events; `before` is the id of the last one of the page before."""

    state: Literal["failed", "received"] = "failed"
    limit: Limit = 50
    before: EventId | None = None


class NoticePage(Body, kw_only=True):
    """A page of notices; `before` is the id of the last one of the page before."""

    state: Literal["failed", "undeliverable", "pending"] = "failed"
    limit: Limit = 50
    before: UUID | None = None


class RetryNotices(Body):
    """Which notices to send once more; without ids, all that failed or had no address."""

    ids: SomeIds | None = None


def _administrator(request: web.Request) -> Administrator:
    return Administrator(id=request[CALLER].user_id, name=request[CALLER].name)


@routes.get("/api/v1/admin/users", auth=Auth.ADMIN, query=UserSearch, answer=list[UserFound])
async def find_users(request: web.Request) -> web.Response:
    """Find users, the best match first."""
    search = read_query(request, UserSearch)
    rows = await admin.find_users(request.app[DB], search.query, search.limit)
    return respond([build(UserFound, columns(row), balance=row.available) for row in rows])


@routes.get("/api/v1/admin/users/{userId}", auth=Auth.ADMIN, answer=AccountView)
async def get_account(request: web.Request) -> web.Response:
    """What a user has, holds and subscribes to."""
    account = await admin.get_account(request.app[DB], path_user_id(request))
    return respond(AccountView.of(account))


@routes.get(
    "/api/v1/admin/users/{userId}/transactions",
    auth=Auth.ADMIN,
    query=HistoryPage,
    answer=list[Transaction],
    links=True,
)
async def list_transactions_of_user(request: web.Request) -> web.Response:
    """A user's ledger, newest first, with a Link to the next page while there is more."""
    page = read_query(request, HistoryPage)
    rows = await credits.list_transactions(
        request.app[DB],
        user_id=path_user_id(request),
        limit=page.limit + 1,
        before_seq=page.before_seq,
        offset=page.offset,
        type_=page.type,
        app_id=page.app_id,
    )
    return respond_page(request, rows, page.limit, Transaction.of, attrgetter("seq"))


@routes.get(
    "/api/v1/admin/users/{userId}/purchases",
    auth=Auth.ADMIN,
    query=Page,
    answer=list[PurchaseView],
)
async def list_purchases_of_user(request: web.Request) -> web.Response:
    """A user's purchases, newest first."""
    page = read_query(request, Page)
    rows = await purchases.list_purchases(
        request.app[DB], user_id=path_user_id(request), limit=page.limit, offset=page.offset
    )
    return respond([PurchaseView.of(row) for row in rows])


@routes.get(
    "/api/v1/admin/users/{userId}/gifts", auth=Auth.ADMIN, query=Page, answer=list[SupportGift]
)
async def list_gifts_of_user(request: web.Request) -> web.Response:
    """The gifts a user made, newest first."""
    page = read_query(request, Page)
    rows = await admin.list_masked_gifts(
        request.app[DB], user_id=path_user_id(request), limit=page.limit, offset=page.offset
    )
    return respond([SupportGift.of(row, request.app[SETTINGS].base_url) for row in rows])


@routes.get(
    "/api/v1/admin/users/{userId}/actions", auth=Auth.ADMIN, query=Page, answer=list[ActionView]
)
async def list_admin_actions(request: web.Request) -> web.Response:
    """What administrators did to a user, newest first."""
    page = read_query(request, Page)
    rows = await admin.list_admin_actions(
        request.app[DB], user_id=path_user_id(request), limit=page.limit, offset=page.offset
    )
    return respond([build(ActionView, columns(row)) for row in rows])


@routes.post("/api/v1/admin/users/{userId}/grant", auth=Auth.ADMIN, body=GrantAsAdmin, answer=Moved)
async def grant_as_admin(request: web.Request) -> web.Response:
    """Give a user credits; safe to repeat with the same idempotency key."""
    body = await read_body(request, GrantAsAdmin)
    move = await admin.grant_as_admin(
        request.app[DB],
        _administrator(request),
        user_id=path_user_id(request),
        amount=body.amount,
        reason=body.reason,
        idempotency_key=idempotency_key(request, body),
    )
    return respond(Moved.of(move), replayed=move.replayed)


@routes.post(
    "/api/v1/admin/users/{userId}/refund",
    auth=Auth.ADMIN,
    body=RefundAsAdmin,
    answer=Moved,
    errors=("not_found",),
)
async def refund_as_admin(request: web.Request) -> web.Response:
    """Give a debit back, or a part of it; all refunds of a debit together never exceed it."""
    body = await read_body(request, RefundAsAdmin)
    move = await admin.refund_as_admin(
        request.app[DB],
        _administrator(request),
        user_id=path_user_id(request),
        transaction_id=body.transaction_id,
        amount=body.amount,
        reason=body.reason,
        idempotency_key=idempotency_key(request, body),
    )
    return respond(Moved.of(move), replayed=move.replayed)


@routes.get("/api/v1/admin/sync/{userId}", auth=Auth.ADMIN, answer=Status)
async def get_sync_status_for_admin(request: web.Request) -> web.Response:
    """Cloud Sync of a user."""
    return respond(Status.of(await sync.get_sync_status(request.app[DB], path_user_id(request))))


@routes.post("/api/v1/admin/sync/{userId}/gift", auth=Auth.ADMIN, body=WithReason, answer=GiftState)
async def gift_sync(request: web.Request) -> web.Response:
    """Turn a user's Cloud Sync on, never charged, until revoked."""
    body = await read_body(request, WithReason)
    status = await admin.gift_sync(
        request.app[DB],
        _administrator(request),
        user_id=path_user_id(request),
        reason=body.reason,
    )
    return respond(
        GiftState(success=True, user_id=status.user_id, gifted=status.gifted, active=status.active)
    )


@routes.delete(
    "/api/v1/admin/sync/{userId}/gift",
    auth=Auth.ADMIN,
    body=WithReason,
    answer=GiftState,
    errors=("sync_not_gifted",),
)
async def revoke_sync_gift(request: web.Request) -> web.Response:
    """End a gifted Cloud Sync; what the user had paid for stays his."""
    body = await read_body(request, WithReason)
    status = await admin.revoke_sync_gift(
        request.app[DB],
        _administrator(request),
        user_id=path_user_id(request),
        reason=body.reason,
    )
    return respond(
        GiftState(success=True, user_id=status.user_id, gifted=status.gifted, active=status.active)
    )


@routes.get("/api/v1/admin/overview", auth=Auth.ADMIN, query=UsagePeriod, answer=OverviewView)
async def get_overview(request: web.Request) -> web.Response:
    """The ledger per day, subscriptions, jobs, and what waits for somebody to look at it."""
    period = read_query(request, UsagePeriod)
    days = await admin.list_daily_totals(request.app[DB], period.days)
    jobs = await admin.list_job_states(request.app[DB])
    return respond(
        OverviewView.of(
            await admin.get_overview(request.app[DB]),
            days=[Day.of(day) for day in days],
            jobs=[build(JobView, columns(job)) for job in jobs],
        )
    )


@routes.get(
    "/api/v1/admin/stripe-events",
    auth=Auth.ADMIN,
    query=EventPage,
    answer=list[EventView],
    links=True,
)
async def list_stripe_events(request: web.Request) -> web.Response:
    """Stripe events that failed or wait, newest first, with a Link while there is more."""
    page = read_query(request, EventPage)
    rows = await admin.list_stripe_events(
        request.app[DB], state=page.state, limit=page.limit + 1, before=page.before
    )
    return respond_page(
        request, rows, page.limit, lambda row: build(EventView, columns(row)), attrgetter("id")
    )


@routes.post(
    "/api/v1/admin/stripe-events/{eventId}/replay",
    auth=Auth.ADMIN,
    body=NoFields,
    answer=EventReplayed,
    errors=("payment_provider_error",),
)
async def replay_stripe_event(request: web.Request) -> web.Response:
    """Apply a Stripe event once more, asking Stripe where it takes that; moves nothing twice."""
    await read_body(request, NoFields)
    event_id = path_text(request, "eventId", 255)
    result = await replay_event(request.app[DB], request.app[STRIPE], event_id)
    return respond(
        EventReplayed(id=event_id, state=result.state, outcome=result.outcome, error=result.error)
    )


@routes.get(
    "/api/v1/admin/notices",
    auth=Auth.ADMIN,
    query=NoticePage,
    answer=list[NoticeView],
    links=True,
)
async def list_notices(request: web.Request) -> web.Response:
    """Notices that were not delivered, newest first, with a Link while there is more."""
    page = read_query(request, NoticePage)
    rows = await admin.list_notices(
        request.app[DB], state=page.state, limit=page.limit + 1, before=page.before
    )
    return respond_page(
        request, rows, page.limit, lambda row: build(NoticeView, columns(row)), attrgetter("id")
    )


@routes.post(
    "/api/v1/admin/notices/retry",
    auth=Auth.ADMIN,
    body=RetryNotices,
    answer=Retried,
    errors=("not_found",),
)
async def retry_notices(request: web.Request) -> web.Response:
    """Send notices that were given up once more."""
    body = await read_body(request, RetryNotices)
    return respond(Retried(retried=await notices.retry_notices(request.app[DB], body.ids)))
