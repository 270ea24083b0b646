"""Buying credits: what is written down, what Stripe is asked, in which order.

Stripe is never called inside a transaction: the purchase is recorded, Stripe is called with the
purchase's id as idempotency key, and what it made is recorded. Wherever that breaks off, the same
idempotency key of the client goes on from there.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import structlog

from service.db import Database
from service.errors import ApiError, FieldError, invalid_fields
from service.payments import Order, PaymentProviderError, UnknownCustomerError
from service.queries import purchases
from service.queries.purchases import Purchase
from service.settings import Settings

if TYPE_CHECKING:
    from service.stripe_gateway import StripeGateway

_T = TypeVar("_T")

_OPEN: Final = ("pending", "failed")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """A purchase that the buyer can pay: one of the two ways is not None."""

    purchase: Purchase
    client_secret: str | None
    checkout_url: str | None


PURCHASE_ID: Final = "{purchaseId}"
"""What in the addresses of a purchase stands for its id."""


def require_own_urls(settings: Settings, **urls: str | None) -> None:
    """Refuse addresses to which a buyer must not be sent; ApiError 400 naming the fields.

    They must be on an origin of CORS_ORIGINS or of BASE_URL (api.md): anything else would make
    this service a redirector to anywhere, with a payment on the way.
    """
    origins = {*settings.cors_origins, settings.base_origin}
    wrong = [
        FieldError(name, "must be on an origin of this service or of its apps")
        for name, url in urls.items()
        if url is not None and _origin(url) not in origins
    ]
    if wrong:
        raise invalid_fields(wrong)


def _origin(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    # Browsers read a backslash as a slash, and drop control characters.
    if parts.username is not None or "\\" in url or not url.isprintable() or " " in url:
        return None
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + ("" if port in (None, default) else f":{port}")


async def buy(
    db: Database,
    stripe: "StripeGateway",
    *,
    user_id: str,
    email: str | None,
    package_id: UUID,
    success_url: str | None,
    cancel_url: str | None,
    idempotency_key: str | None,
) -> Started:
    """Begin a purchase, or go on with the one that the key began.

    ApiError 400, 404, 409; 502 when Stripe cannot be asked, and then the purchase has failed
    until the same key resumes it.
    """
    purchase = await purchases.start_purchase(
        db,
        user_id=user_id,
        package_id=package_id,
        success_url=success_url,
        cancel_url=cancel_url,
        idempotency_key=idempotency_key,
        email=email,
    )
    try:
        if purchase.success_url is None or purchase.cancel_url is None:
            return await _with_intent(db, stripe, purchase, email)
        return await _with_session(
            db,
            stripe,
            purchase,
            email,
            _address(purchase.success_url, purchase),
            _address(purchase.cancel_url, purchase),
        )
    except PaymentProviderError as error:
        await purchases.fail_purchase(
            db, purchase, f"payment provider: {error.provider_code or 'no answer'}"
        )
        raise


async def _with_intent(
    db: Database, stripe: "StripeGateway", purchase: Purchase, email: str | None
) -> Started:
    if purchase.stripe_payment_intent_id is not None:
        intent = await stripe.retrieve_payment_intent(purchase.stripe_payment_intent_id)
    else:
        intent, customer_id = await _for_customer(
            db, stripe, purchase, email, stripe.create_payment_intent
        )
        # Not a replay, whatever the key: this call is the first that can answer.
        purchase = await purchases.record_payment_intent(
            db, purchase, payment_intent_id=intent.id, customer_id=customer_id
        )
    return Started(purchase, client_secret=intent.client_secret, checkout_url=None)


async def _with_session(
    db: Database,
    stripe: "StripeGateway",
    purchase: Purchase,
    email: str | None,
    success_url: str,
    cancel_url: str,
) -> Started:
    if purchase.stripe_checkout_session_id is None:
        session, customer_id = await _for_customer(
            db,
            stripe,
            purchase,
            email,
            lambda order, key: stripe.create_checkout_session(
                order, key, success_url=success_url, cancel_url=cancel_url
            ),
        )
        purchase = await purchases.record_checkout_session(
            db, purchase, session_id=session.id, url=session.url, customer_id=customer_id
        )
    return Started(purchase, client_secret=None, checkout_url=purchase.stripe_checkout_url)


def _address(url: str, purchase: Purchase) -> str:
    """Where a buyer comes back to; only now is it known which purchase that is about."""
    return url.replace(PURCHASE_ID, str(purchase.id))


async def _for_customer(
    db: Database,
    stripe: "StripeGateway",
    purchase: Purchase,
    email: str | None,
    create: Callable[[Order, str], Awaitable[_T]],
) -> tuple[_T, str]:
    """Ask Stripe for the payment in the name of the user's one customer."""
    customer_id = await purchases.get_stripe_customer(db, purchase.user_id)
    if customer_id is None:
        made = await stripe.create_customer(
            purchase.user_id, email, _customer_key(purchase.user_id, email, None)
        )
        customer_id = await purchases.link_stripe_customer(
            db, user_id=purchase.user_id, customer_id=made
        )
    try:
        return await create(_order(purchase, customer_id), str(purchase.id)), customer_id
    except UnknownCustomerError:
        # Deleted at Stripe, or of another Stripe account: the user gets a new one.
        _log.warning("the Stripe customer is gone", purchase_id=str(purchase.id))
        made = await stripe.create_customer(
            purchase.user_id, email, _customer_key(purchase.user_id, email, customer_id)
        )
        customer_id = await purchases.link_stripe_customer(
            db, user_id=purchase.user_id, customer_id=made, instead_of=customer_id
        )
        # Stripe keeps the refusal under the purchase's own key.
        key = f"{purchase.id}:{customer_id}"
        return await create(_order(purchase, customer_id), key), customer_id


def _order(purchase: Purchase, customer_id: str) -> Order:
    return Order(
        purchase_id=purchase.id,
        user_id=purchase.user_id,
        customer_id=customer_id,
        credits=purchase.credits,
        amount_cents=purchase.price_euro_cents,
        description=purchase.package_name,
    )


def _customer_key(user_id: str, email: str | None, instead_of: str | None) -> str:
    """Stripe's idempotency key for a user's customer: two first purchases that race share one.

    The address is part of it, because Stripe refuses a key that comes with other parameters.
    """
    facts = "\n".join((user_id, email or "", instead_of or ""))
    return "customer:" + hashlib.sha256(facts.encode()).hexdigest()


async def look_up(
    db: Database, stripe: "StripeGateway | None", *, user_id: str, purchase_id: UUID
) -> Purchase:
    """A purchase as it stands; where it is open, Stripe is asked, at most once per 10 seconds.

    So a lost webhook cannot leave a payer waiting. ApiError 404.
    """
    purchase = await purchases.get_purchase(db, user_id=user_id, purchase_id=purchase_id)
    asked = purchase.stripe_payment_intent_id or purchase.stripe_checkout_session_id
    if (
        purchase.status not in _OPEN
        or stripe is None
        or asked is None
        or not await purchases.claim_purchase_poll(db, purchase)
    ):
        return purchase
    try:
        return await follow(db, stripe, purchase)
    except PaymentProviderError:
        return purchase  # the buyer sees what is known; the gateway has logged it


async def follow(db: Database, stripe: "StripeGateway", purchase: Purchase) -> Purchase:
    """Ask Stripe how a purchase's payment stands, and bring the purchase there.

    A purchase for which Stripe has made nothing yet stays as it is: its buyer never got what he
    could have paid with. PaymentProviderError when Stripe does not answer.
    """
    try:
        return await _follow(db, stripe, purchase)
    except PaymentProviderError:
        raise
    except ApiError as error:
        if error.status >= 500:
            raise
        # Paid, but not what was asked for: people must look at it, the buyer cannot mend it.
        _log.error(
            "a payment does not fit its purchase",
            purchase_id=str(purchase.id),
            payment=purchase.stripe_payment_intent_id or purchase.stripe_checkout_session_id,
            problem=error.message,
        )
        return purchase


async def _follow(db: Database, stripe: "StripeGateway", purchase: Purchase) -> Purchase:
    intent_id = purchase.stripe_payment_intent_id
    if intent_id is None:
        if purchase.stripe_checkout_session_id is None:
            return purchase
        session = await stripe.retrieve_checkout_session(purchase.stripe_checkout_session_id)
        intent_id = session.payment_intent_id
        if session.status == "expired":
            return await purchases.follow_payment(
                db,
                purchase,
                payment_intent_id=None,
                status="canceled",
                received_cents=None,
                currency=None,
                failure="the checkout session expired",
            )
        if intent_id is None:
            return purchase
    intent = await stripe.retrieve_payment_intent(intent_id)
    return await purchases.follow_payment(
        db,
        purchase,
        payment_intent_id=intent.id,
        status=intent.status,
        received_cents=intent.amount_received,
        currency=intent.currency,
        failure=intent.failure_code,
    )
