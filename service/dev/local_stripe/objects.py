"""Stripe's objects that localstripe has not, or not as the service needs them."""

import time
from typing import Any

from localstripe.errors import UserError
from localstripe.resources import PaymentIntent as LocalstripePaymentIntent
from localstripe.resources import StripeObject, random_id

DECLINED = "Your card was declined."
METHOD_TYPES = ("card", "sepa_debit")
SESSION_SECONDS = 24 * 3600


def refusal(
    message: str, *, param: str | None = None, code: str | None = None, status: int = 400
) -> Exception:
    """Make the error that answers a request with Stripe's envelope."""
    contents = {"param": param, "code": code}
    error: Exception = UserError(
        status, message, {name: value for name, value in contents.items() if value is not None}
    )
    return error


def take_method_types(data: dict[str, Any]) -> tuple[list[str] | None, list[str]]:
    """Take from `data` the kinds of payment it asks for; return them, and those that it gets.

    Newer versions of Stripe's API call them `allowed_payment_method_types`.
    """
    for name in ("allowed_payment_method_types", "payment_method_types"):
        wanted = data.pop(name, None)
        if wanted is not None:
            if not isinstance(wanted, list) or not set(wanted) <= set(METHOD_TYPES):
                raise refusal(f"Invalid {name}.", param=name)
            return wanted, wanted
    return None, list(METHOD_TYPES)


class PaymentIntent(LocalstripePaymentIntent):  # type: ignore[misc]
    """A PaymentIntent with the fields that an application reads and localstripe leaves out."""

    def __init__(self, **data: Any) -> None:
        own = {
            name: data.pop(name, None)
            for name in (
                "automatic_payment_methods",
                "description",
                "receipt_email",
                "setup_future_usage",
                "statement_descriptor",
                "statement_descriptor_suffix",
            )
        }
        self.allowed_payment_method_types, self.payment_method_types = take_method_types(data)
        super().__init__(**data)
        for name, value in own.items():
            setattr(self, name, value)
        self.cancellation_reason: str | None = None
        self.canceled_at: int | None = None
        self._failed_method: str | None = None
        self._settles_at: float | None = None
        self._checkout_session: str | None = None

    @property
    def amount_received(self) -> int:
        """What was collected, in the currency's smallest unit."""
        return int(self.amount) if self.status == "succeeded" else 0

    @property
    def last_payment_error(self) -> dict[str, Any] | None:
        """Why the last attempt failed."""
        error: dict[str, Any] | None = super().last_payment_error
        if error is not None:
            error = {**error, "type": "card_error", "payment_method": self._failed_method}
            if error["code"] == "card_declined":
                error["decline_code"] = "generic_decline"
        return error

    def _export(self, expand: list[str] | None = None) -> dict[str, Any]:
        exported: dict[str, Any] = super()._export(expand)
        wanted = {path.split(".")[0] for path in expand or []}
        if self.latest_charge is not None and "latest_charge" not in wanted:
            exported["latest_charge"] = self.latest_charge.id
        return exported


class CheckoutSession(StripeObject):  # type: ignore[misc]
    """A Checkout Session of mode `payment`."""

    object = "checkout.session"
    _id_prefix = "cs_test_"

    def __init__(
        self,
        *,
        base_url: str,
        items: list[tuple[str, int]],
        currency: str,
        amount: int,
        method_types: tuple[list[str] | None, list[str]],
        payment_intent_data: dict[str, Any],
        **fields: Any,
    ) -> None:
        # Longer than localstripe's ids, and as unguessable as the page's address should be.
        super().__init__(id=f"{self._id_prefix}{random_id(40)}")
        self.mode = "payment"
        self.amount_subtotal = amount
        self.amount_total = amount
        self.currency = currency
        self.client_reference_id = fields.get("client_reference_id")
        self.customer = fields.get("customer")
        self.customer_email = fields.get("customer_email")
        self.customer_details: dict[str, Any] | None = None
        self.metadata = fields.get("metadata") or {}
        self.payment_intent: str | None = None
        self.allowed_payment_method_types, self.payment_method_types = method_types
        self.success_url = fields["success_url"]
        self.cancel_url = fields.get("cancel_url")
        self.expires_at = fields.get("expires_at") or int(time.time()) + SESSION_SECONDS
        self.status = "open"
        self.payment_status = "unpaid"
        self.url: str | None = f"{base_url}/c/pay/{self.id}"
        self._items = items
        self._payment_intent_data = payment_intent_data
