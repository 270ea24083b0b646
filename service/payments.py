"""What the service knows of Stripe: its objects, as far as they matter here, and what goes wrong.

Stripe's own library is not loaded with it. That and what it brings take 7 MB, which a service that
sells nothing does not need (`service.stripe_gateway`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from service.errors import ApiError

EVENT_TYPES: Final = (
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "payment_intent.canceled",
    "payment_intent.processing",
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
    "charge.refunded",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.refund.updated",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "charge.dispute.closed",
)
"""What credits._apply_stripe_event knows; Stripe lists at most 20 types at once."""


class PaymentProviderError(ApiError):
    """Stripe refused, failed, or did not answer; `provider_code` is its stable code, if any."""

    def __init__(self, provider_code: str | None = None) -> None:
        super().__init__(
            502, "payment_provider_error", "The payment provider could not be reached or refused"
        )
        self.provider_code = provider_code


class PaymentRefusedError(PaymentProviderError):
    """Stripe is there, but does not answer this call: what another is about may fare better."""


class UnknownCustomerError(PaymentRefusedError):
    """Stripe no longer knows the customer: the caller makes a new one, and uses another key."""


class InvalidSignatureError(ApiError):
    """A webhook whose signature is missing, wrong or stale, or whose body is no event."""

    def __init__(self) -> None:
        super().__init__(400, "invalid_request", "The webhook's signature is missing or not valid")


@dataclass(frozen=True, slots=True)
class Order:
    """What is bought, as it goes to Stripe."""

    purchase_id: UUID
    user_id: str
    customer_id: str
    credits: int
    amount_cents: int
    description: str
    """The package's name, which the payer sees."""


@dataclass(frozen=True, slots=True)
class PaymentIntent:
    """The part of a PaymentIntent that matters here; amounts in cents."""

    id: str
    client_secret: str | None
    status: str
    amount: int
    amount_received: int
    currency: str
    customer_id: str | None
    metadata: Mapping[str, str]
    created: int
    """Unix seconds."""
    failure_code: str | None
    """Why the last attempt to pay failed."""


@dataclass(frozen=True, slots=True)
class CheckoutSession:
    """The part of a Checkout Session that matters here; the amount in cents."""

    id: str
    url: str | None
    """Where the payer goes; None once the session is over."""
    status: str | None
    payment_status: str
    payment_intent_id: str | None
    """Made by Stripe when the payer starts to pay, so it may be None."""
    amount_total: int | None
    currency: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Event:
    """A verified webhook event."""

    id: str
    type: str
    created: int
    """Unix seconds."""
    payload: Mapping[str, Any]
    """The whole event, as PostgreSQL can store it."""
