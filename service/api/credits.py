"""Personal credits: what a user has, spends and buys."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

import msgspec
from aiohttp import web

from service import purchasing
from service.api.fields import (
    Amount,
    AppId,
    Cursor,
    Days,
    Description,
    IdempotencyKey,
    Limit,
    Metadata,
    Offset,
    Url,
)
from service.errors import FieldError, stripe_not_configured
from service.keys import CALLER, DB, SETTINGS, STRIPE
from service.queries import credits, purchases
from service.queries.credits import BalanceSummary, Move
from service.queries.purchases import Purchase
from service.wire import (
    Answer,
    Auth,
    Body,
    Replayable,
    Routes,
    Timestamp,
    build,
    columns,
    idempotency_key,
    one_of,
    path_uuid,
    read_body,
    read_query,
    respond,
    respond_page,
    timestamp,
)

routes = Routes()

SEQ_MAX = 2**63 - 1

TransactionType = Literal["purchase", "usage", "refund", "gift", "grant", "reversal", "forfeiture"]
PurchaseStatus = Literal[
    "pending",
    "completed",
    "failed",
    "cancelled",
    "refunded",
    "partially_refunded",
    "disputed",
]


BOTH_URLS: dict[str, Any] = {"successUrl": {"type": "string"}, "cancelUrl": {"type": "string"}}
NEITHER_URL: dict[str, Any] = {"successUrl": {"type": "null"}, "cancelUrl": {"type": "null"}}


class Balance(Answer):
    """What a user has, in credits; `balance` is what can be spent."""

    balance: int
    total_earned: int
    total_spent: int
    reserved: int
    transactions_count: int

    @classmethod
    def of(cls, summary: BalanceSummary) -> "Balance":
        """From the query's answer."""
        return cls(
            balance=summary.available,
            total_earned=summary.total_earned,
            total_spent=summary.total_spent,
            reserved=summary.reserved,
            transactions_count=summary.transactions_count,
        )


class Transaction(Answer):
    """A row of the ledger; a debit has a negative amount."""

    id: UUID
    user_id: str
    type: Annotated[str, one_of(TransactionType)]
    status: Literal["completed"]
    amount: int
    balance_before: int
    balance_after: int
    app_id: str
    description: str
    metadata: Mapping[str, Any] | None
    idempotency_key: str | None
    created_at: Timestamp
    completed_at: Timestamp

    @classmethod
    def of(cls, move: Move) -> "Transaction":
        """From the query's answer. A row of the ledger is complete as soon as it is there."""
        created_at = timestamp(move.created_at)
        return cls(
            id=move.id,
            user_id=move.user_id,
            type=move.type,
            status="completed",
            amount=move.amount,
            balance_before=move.balance_before,
            balance_after=move.balance_after,
            app_id=move.app_id,
            description=move.description,
            metadata=move.metadata,
            idempotency_key=move.idempotency_key,
            created_at=created_at,
            completed_at=created_at,
        )


class NewBalance(Answer):
    """What a user has after a move, in credits."""

    balance: int
    total_earned: int
    total_spent: int


class Moved(Replayable):
    """A move that was made, or had been made before."""

    success: Literal[True]
    transaction: Transaction
    new_balance: NewBalance

    @classmethod
    def of(cls, move: Move) -> "Moved":
        """From the query's answer."""
        return cls(
            success=True,
            transaction=Transaction.of(move),
            new_balance=NewBalance(
                balance=move.available,
                total_earned=move.total_earned,
                total_spent=move.total_spent,
            ),
        )


class Package(Answer):
    """What can be bought."""

    id: UUID
    name: str
    description: str | None
    credits: int
    price_euro_cents: int
    stripe_price_id: str | None
    active: bool
    sort_order: int
    metadata: Mapping[str, Any] | None
    created_at: Timestamp
    updated_at: Timestamp


class Operation(Answer):
    """What an operation costs: `cost` credits for `per` uses."""

    operation: str
    name: str
    description: str
    category: str
    app: str | None
    cost: int
    per: int


class Pricing(Answer):
    """Every price, in credits."""

    operation_costs: dict[str, int]
    operations: list[Operation]
    sync: dict[str, int]
    last_updated: Timestamp


class Usage(Answer):
    """What one app used on one day (UTC)."""

    date: Annotated[str, msgspec.Meta(extra_json_schema={"format": "date"})]
    app_id: str
    credits_used: int
    operations: int


class PurchaseView(Answer):
    """A purchase, as its buyer sees it."""

    id: UUID
    user_id: str
    package_id: UUID
    credits: int
    price_euro_cents: int
    stripe_payment_intent_id: str | None
    stripe_customer_id: str | None
    status: Annotated[str, one_of(PurchaseStatus)]
    metadata: Mapping[str, Any] | None
    created_at: Timestamp
    completed_at: Timestamp | None

    @classmethod
    def of(cls, purchase: Purchase) -> "PurchaseView":
        """From the query's answer."""
        return cls(
            id=purchase.id,
            user_id=purchase.user_id,
            package_id=purchase.package_id,
            credits=purchase.credits,
            price_euro_cents=purchase.price_euro_cents,
            stripe_payment_intent_id=purchase.stripe_payment_intent_id,
            stripe_customer_id=purchase.stripe_customer_id,
            status=purchase.status,
            metadata=purchase.metadata,
            created_at=timestamp(purchase.created_at),
            completed_at=timestamp(purchase.completed_at),
        )


class StartedIntent(Replayable):
    """A purchase to be paid by a PaymentIntent; `amount` in euro cents."""

    purchase_id: UUID
    client_secret: str | None
    amount: int
    credits: int


class StartedCheckout(Replayable):
    """A purchase to be paid on Stripe's page; `amount` in euro cents."""

    purchase_id: UUID
    checkout_url: str | None
    amount: int
    credits: int


class UseCredits(Body, kw_only=True):
    """A debit."""

    amount: Amount
    app_id: AppId
    description: Description
    idempotency_key: IdempotencyKey | None = None
    metadata: Metadata | None = None


class StartPurchase(Body, kw_only=True):
    """What to buy; with both addresses it is paid on Stripe's page.

    They must be on an origin of this service or of its apps; `{purchaseId}` in them stands for the
    purchase's id.
    """

    package_id: UUID
    success_url: Url | None = None
    cancel_url: Url | None = None
    idempotency_key: IdempotencyKey | None = None

    rules: ClassVar[dict[str, Any]] = {
        "oneOf": [
            {"required": ["successUrl", "cancelUrl"], "properties": BOTH_URLS},
            {"properties": NEITHER_URL},
        ]
    }

    def problems(self) -> list[FieldError]:
        """One address alone would leave the buyer on Stripe's page."""
        if (self.success_url is None) == (self.cancel_url is None):
            return []
        missing = "successUrl" if self.success_url is None else "cancelUrl"
        return [FieldError(missing, "is required where the other address is given")]


class Page(Body, kw_only=True):
    """A page of a list."""

    limit: Limit = 50
    offset: Offset = 0


class HistoryPage(Page, kw_only=True):
    """A page of the ledger; `before` is the cursor of a Link header."""

    before: Cursor | None = None
    type: TransactionType | None = None
    app_id: AppId | None = None

    def problems(self) -> list[FieldError]:
        """A cursor is opaque to clients, and a number here."""
        if self.before is None or self.before_seq is not None:
            return []
        return [FieldError("before", "must be a cursor from a Link header")]

    @property
    def before_seq(self) -> int | None:
        """The cursor's seq, None for no cursor or for what is none."""
        if self.before is None or not (self.before.isascii() and self.before.isdigit()):
            return None
        seq = int(self.before)
        return seq if 1 <= seq <= SEQ_MAX else None


class UsagePeriod(Body):
    """The last days, today (UTC) included."""

    days: Days = 30


@routes.get("/api/v1/credits/balance", auth=Auth.USER, answer=Balance)
async def get_balance(request: web.Request) -> web.Response:
    """What the caller has; zeros for a user never seen."""
    return respond(Balance.of(await credits.get_balance(request.app[DB], request[CALLER].user_id)))


@routes.post(
    "/api/v1/credits/use",
    auth=Auth.USER,
    body=UseCredits,
    answer=Moved,
    errors=("insufficient_credits",),
)
async def use_credits(request: web.Request) -> web.Response:
    """Debit the caller; safe to repeat with the same idempotency key."""
    body = await read_body(request, UseCredits)
    move = await credits.use_credits(
        request.app[DB],
        user_id=request[CALLER].user_id,
        amount=body.amount,
        app_id=body.app_id,
        description=body.description,
        idempotency_key=idempotency_key(request, body),
        metadata=body.metadata,
        origin="user",
    )
    return respond(Moved.of(move), replayed=move.replayed)


@routes.get(
    "/api/v1/credits/transactions",
    auth=Auth.USER,
    query=HistoryPage,
    answer=list[Transaction],
    links=True,
)
async def list_transactions(request: web.Request) -> web.Response:
    """The caller's ledger, newest first, with a Link to the next page while there is more."""
    page = read_query(request, HistoryPage)
    rows = await credits.list_transactions(
        request.app[DB],
        user_id=request[CALLER].user_id,
        limit=page.limit + 1,
        before_seq=page.before_seq,
        offset=page.offset,
        type_=page.type,
        app_id=page.app_id,
    )
    return respond_page(request, rows, page.limit, Transaction.of, attrgetter("seq"))


@routes.get("/api/v1/credits/purchases", auth=Auth.USER, query=Page, answer=list[PurchaseView])
async def list_purchases(request: web.Request) -> web.Response:
    """The caller's purchases, newest first."""
    page = read_query(request, Page)
    rows = await purchases.list_purchases(
        request.app[DB],
        user_id=request[CALLER].user_id,
        limit=page.limit,
        offset=page.offset,
    )
    return respond([PurchaseView.of(row) for row in rows])


@routes.get("/api/v1/credits/packages", auth=Auth.PUBLIC, answer=list[Package])
async def list_packages(request: web.Request) -> web.Response:
    """The active packages, in the order of display."""
    rows = await purchases.list_packages(request.app[DB])
    return respond([build(Package, columns(row)) for row in rows])


@routes.get("/api/v1/credits/pricing", auth=Auth.PUBLIC, answer=Pricing)
async def get_pricing(request: web.Request) -> web.Response:
    """Every price; `operationCosts` holds what is priced per single use."""
    operations = await credits.list_operation_prices(request.app[DB])
    sync = await credits.list_sync_prices(request.app[DB])
    return respond(
        Pricing(
            operation_costs={o.operation: o.cost for o in operations if o.per == 1},
            operations=[build(Operation, columns(o)) for o in operations],
            sync={price.billing_interval: price.price for price in sync},
            last_updated=timestamp(
                max([o.updated_at for o in operations] + [price.updated_at for price in sync])
            ),
        )
    )


@routes.get("/api/v1/credits/usage", auth=Auth.USER, query=UsagePeriod, answer=list[Usage])
async def list_usage(request: web.Request) -> web.Response:
    """What the caller's apps used per day (UTC), newest day first."""
    period = read_query(request, UsagePeriod)
    rows = await credits.list_usage(request.app[DB], request[CALLER].user_id, period.days)
    return respond(
        [
            Usage(
                date=row.day.isoformat(),
                app_id=row.app_id,
                credits_used=row.credits_used,
                operations=row.operations,
            )
            for row in rows
        ]
    )


@routes.post(
    "/api/v1/credits/purchase",
    auth=Auth.USER,
    body=StartPurchase,
    answer=StartedIntent | StartedCheckout,
    errors=("not_found", "payment_provider_error", "stripe_not_configured"),
)
async def start_purchase(request: web.Request) -> web.Response:
    """Begin a purchase; the same key after a 502 resumes it."""
    body = await read_body(request, StartPurchase)
    purchasing.require_own_urls(
        request.app[SETTINGS], successUrl=body.success_url, cancelUrl=body.cancel_url
    )
    stripe = request.app[STRIPE]
    if stripe is None:
        raise stripe_not_configured()
    caller = request[CALLER]
    started = await purchasing.buy(
        request.app[DB],
        stripe,
        user_id=caller.user_id,
        email=caller.email,
        package_id=body.package_id,
        success_url=body.success_url,
        cancel_url=body.cancel_url,
        idempotency_key=idempotency_key(request, body),
    )
    purchase = started.purchase
    answer: Answer
    if purchase.success_url is None:
        answer = StartedIntent(
            purchase_id=purchase.id,
            client_secret=started.client_secret,
            amount=purchase.price_euro_cents,
            credits=purchase.credits,
        )
    else:
        answer = StartedCheckout(
            purchase_id=purchase.id,
            checkout_url=started.checkout_url,
            amount=purchase.price_euro_cents,
            credits=purchase.credits,
        )
    return respond(answer, replayed=purchase.replayed)


@routes.get(
    "/api/v1/credits/purchase/{purchaseId}",
    auth=Auth.USER,
    answer=PurchaseView,
    errors=("outcome_unknown",),
)
async def get_purchase(request: web.Request) -> web.Response:
    """A purchase of the caller's; an open one is looked up at Stripe."""
    purchase = await purchasing.look_up(
        request.app[DB],
        request.app[STRIPE],
        user_id=request[CALLER].user_id,
        purchase_id=path_uuid(request, "purchaseId"),
    )
    return respond(PurchaseView.of(purchase))
