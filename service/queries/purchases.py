"""Packages, purchases, Stripe's customers: one wrapper for each SQL function.

Prices are euro cents, `credits` whole credits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from service.db import Database
from service.ids import uuid7


@dataclass(frozen=True, slots=True)
class Package:
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
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Purchase:
    """A purchase as its buyer sees it, with what Stripe calls it."""

    id: UUID
    user_id: str
    package_id: UUID
    package_name: str
    credits: int
    price_euro_cents: int
    status: str
    failure: str | None
    stripe_customer_id: str | None
    stripe_payment_intent_id: str | None
    stripe_checkout_session_id: str | None
    stripe_checkout_url: str | None
    success_url: str | None
    cancel_url: str | None
    metadata: Mapping[str, Any] | None
    created_at: datetime
    completed_at: datetime | None
    replayed: bool


async def list_packages(db: Database) -> list[Package]:
    """The active packages, in the order of display."""
    return [Package(**row) for row in await db.rows("SELECT * FROM credits.list_packages()")]


async def start_purchase(
    db: Database,
    *,
    user_id: str,
    package_id: UUID,
    success_url: str | None,
    cancel_url: str | None,
    idempotency_key: str | None,
    email: str | None,
) -> Purchase:
    """Write a purchase down before Stripe is asked. ApiError 400, 404, 409."""
    row = await db.move(
        "SELECT * FROM credits.start_purchase("
        "p_user_id => $1, p_package_id => $2, p_success_url => $3, p_cancel_url => $4,"
        " p_idempotency_key => $5, p_email => $6, p_id => $7)",
        user_id,
        package_id,
        success_url,
        cancel_url,
        idempotency_key,
        email,
        uuid7(),
    )
    return Purchase(**row)


async def record_payment_intent(
    db: Database, purchase: Purchase, *, payment_intent_id: str, customer_id: str
) -> Purchase:
    """Keep the PaymentIntent that Stripe made."""
    row = await db.move(
        "SELECT * FROM credits.record_payment_intent("
        "p_user_id => $1, p_purchase_id => $2, p_stripe_payment_intent_id => $3,"
        " p_stripe_customer_id => $4)",
        purchase.user_id,
        purchase.id,
        payment_intent_id,
        customer_id,
    )
    return Purchase(**row)


async def record_checkout_session(
    db: Database, purchase: Purchase, *, session_id: str, url: str | None, customer_id: str
) -> Purchase:
    """Keep the Checkout Session that Stripe made."""
    row = await db.move(
        "SELECT * FROM credits.record_checkout_session("
        "p_user_id => $1, p_purchase_id => $2, p_stripe_checkout_session_id => $3,"
        " p_stripe_checkout_url => $4, p_stripe_customer_id => $5)",
        purchase.user_id,
        purchase.id,
        session_id,
        url,
        customer_id,
    )
    return Purchase(**row)


async def fail_purchase(db: Database, purchase: Purchase, failure: str) -> Purchase:
    """Stripe could not be asked: the purchase failed, until it is resumed."""
    row = await db.move(
        "SELECT * FROM credits.fail_purchase("
        "p_user_id => $1, p_purchase_id => $2, p_failure => $3)",
        purchase.user_id,
        purchase.id,
        failure,
    )
    return Purchase(**row)


async def follow_payment(
    db: Database,
    purchase: Purchase,
    *,
    payment_intent_id: str | None,
    status: str,
    received_cents: int | None,
    currency: str | None,
    failure: str | None,
) -> Purchase:
    """Bring a purchase to where Stripe says that its payment stands.

    ApiError 400 for a payment of another amount, currency or purchase, which credits nothing.
    """
    row = await db.move(
        "SELECT * FROM credits.follow_payment("
        "p_user_id => $1, p_purchase_id => $2, p_stripe_payment_intent_id => $3,"
        " p_stripe_status => $4, p_received_euro_cents => $5, p_currency => $6, p_failure => $7)",
        purchase.user_id,
        purchase.id,
        payment_intent_id,
        status,
        received_cents,
        currency,
        failure,
    )
    return Purchase(**row)


async def get_purchase(db: Database, *, user_id: str, purchase_id: UUID) -> Purchase:
    """One purchase of a user. ApiError 404."""
    return Purchase(
        **await db.row("SELECT * FROM credits.get_purchase($1, $2)", user_id, purchase_id)
    )


async def list_purchases(db: Database, *, user_id: str, limit: int, offset: int) -> list[Purchase]:
    """A user's purchases, newest first."""
    rows = await db.rows("SELECT * FROM credits.list_purchases($1, $2, $3)", user_id, limit, offset)
    return [Purchase(**row) for row in rows]


async def claim_purchase_poll(db: Database, purchase: Purchase) -> bool:
    """Whether the caller may ask Stripe now: true once per 10 seconds."""
    row = await db.move(
        "SELECT credits.claim_purchase_poll($1, $2) AS claimed", purchase.user_id, purchase.id
    )
    claimed: bool = row["claimed"]
    return claimed


async def claim_purchase_checks(db: Database, *, limit: int) -> list[Purchase]:
    """Open purchases that this caller is to ask Stripe about now."""
    rows = await db.move_rows("SELECT * FROM credits.claim_purchase_checks($1)", limit)
    return [Purchase(**row) for row in rows]


async def get_stripe_customer(db: Database, user_id: str) -> str | None:
    """Stripe's id of a user, or None."""
    customer: str | None = await db.value("SELECT credits.get_stripe_customer($1)", user_id)
    return customer


async def link_stripe_customer(
    db: Database, *, user_id: str, customer_id: str, instead_of: str | None = None
) -> str:
    """Link a user to a Stripe customer unless he has one; answers the one he has."""
    row = await db.move(
        "SELECT credits.link_stripe_customer("
        "p_user_id => $1, p_stripe_customer_id => $2, p_instead_of => $3) AS customer_id",
        user_id,
        customer_id,
        instead_of,
    )
    linked: str = row["customer_id"]
    return linked
