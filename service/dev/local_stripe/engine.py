"""Payments: what the routes and the page do, and which events tell of it."""

import asyncio
import json
import time
from typing import Any

from localstripe import resources

from service.dev.local_stripe.objects import (
    DECLINED,
    CheckoutSession,
    PaymentIntent,
    refusal,
    take_method_types,
)
from service.dev.local_stripe.store import DataFile
from service.dev.local_stripe.webhooks import WebhookSender

_SESSION_IGNORED = frozenset(
    {
        "allow_promotion_codes",
        "billing_address_collection",
        "customer_creation",
        "customer_update",
        "locale",
        "payment_method_options",
        "submit_type",
        "ui_mode",
    }
)
_CONFIRM_IGNORED = frozenset(
    {"client_secret", "mandate_data", "off_session", "return_url", "use_stripe_sdk"}
)
_EXPIRES_WITHIN = (30 * 60, 24 * 3600)


class Engine:
    """Everything that pays, in terms of localstripe's objects."""

    def __init__(
        self, data: DataFile, sender: WebhookSender, *, base_url: str, sepa_delay: float
    ) -> None:
        self._data = data
        self._sender = sender
        self._base_url = base_url
        self._sepa_delay = sepa_delay
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # Events

    def announce(self, event: Any) -> None:
        """Send an event; this takes the place of localstripe's own sender."""
        exported = {
            **event._export(),
            "pending_webhooks": len(self._sender.endpoints),
            "request": {"id": None, "idempotency_key": None},
        }
        self._sender.schedule(event.id, event.type, json.dumps(exported).encode())

    def emit(self, event_type: str, subject: Any) -> None:
        """Make an event about an object as it is now, and send it."""
        self.announce(resources.Event(event_type, subject))

    # Time

    def resume(self) -> None:
        """Take up again what an earlier process left: debits under way, sessions still open."""
        for thing in list(resources.store.values()):
            if isinstance(thing, PaymentIntent) and thing.status == "processing":
                self._later(thing.id, thing._settles_at or 0, self._settle, thing)
            elif isinstance(thing, CheckoutSession) and thing.status == "open":
                self._later(thing.id, thing.expires_at, self._expire_in_time, thing)

    def stop(self) -> None:
        """Forget what was to happen later; resume() knows it again."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _later(self, key: str, when: float, callback: Any, thing: Any) -> None:
        delay = max(0.0, when - time.time())
        self._timers[key] = asyncio.get_running_loop().call_later(delay, self._due, callback, thing)

    def _due(self, callback: Any, thing: Any) -> None:
        self._timers.pop(thing.id, None)
        if f"{thing.object}:{thing.id}" not in resources.store:
            return  # The data were deleted in the meantime.
        callback(thing)
        self._data.save()

    # Payment intents

    def create_intent(self, **data: Any) -> PaymentIntent:
        """Create a PaymentIntent, and confirm it with `confirm`."""
        confirm = resources.try_convert_to_bool(data.pop("confirm", None))
        for name in _CONFIRM_IGNORED:
            data.pop(name, None)
        if data.get("customer") is not None:
            _require_customer(data["customer"])
        intent = PaymentIntent(**data)
        self.emit("payment_intent.created", intent)
        if confirm:
            self.confirm_intent(intent)
        return intent

    def confirm_intent(self, intent: PaymentIntent, method_id: str | None = None) -> None:
        """Pay; raises the refusal that Stripe answers with when the card is declined."""
        if intent.status not in ("requires_payment_method", "requires_confirmation"):
            raise refusal(
                "You cannot confirm this PaymentIntent because it has a status of "
                f"{intent.status}.",
                code="payment_intent_unexpected_state",
            )
        if method_id is not None:
            # Stripe's names for test cards (pm_card_visa) become objects when they are looked up.
            intent.payment_method = resources.PaymentMethod._api_retrieve(method_id).id
        if intent.payment_method is None:
            raise refusal(
                "You cannot confirm this PaymentIntent because it's missing a payment method.",
                code="payment_intent_unexpected_state",
            )
        method = resources.PaymentMethod._api_retrieve(intent.payment_method)
        if method.type not in intent.payment_method_types:
            raise refusal(
                f"The PaymentMethod provided ({method.type}) is not allowed here.",
                param="payment_method",
            )
        intent.latest_charge = None
        if method._requires_authentication():
            intent._confirm(on_failure_now=intent._report_failure)
            return
        self._charge(intent, method)

    def _charge(self, intent: PaymentIntent, method: Any) -> None:
        charge = resources.Charge(
            amount=intent.amount,
            currency=intent.currency,
            customer=intent.customer,
            source=method.id,
            capture=intent.capture_method != "manual",
        )
        charge.payment_intent = intent.id
        charge.metadata = dict(intent.metadata)
        # localstripe declines some cards when they are attached only; a payment needs no attaching.
        declined = method._attaching_is_declined() or method._charging_is_declined()
        charge._authorized = not declined
        intent.latest_charge = charge
        if method.type == "sepa_debit":
            intent._settles_at = time.time() + self._sepa_delay
            self.emit("payment_intent.processing", intent)
            self._later(intent.id, intent._settles_at, self._settle, intent)
        elif declined:
            self._fail(intent, "card_declined", DECLINED)
            raise refusal(DECLINED, code="card_declined", status=402)
        else:
            charge._initialize_charge(on_success=intent._on_success)

    def _fail(self, intent: PaymentIntent, code: str, message: str) -> None:
        intent.latest_charge.status = "failed"
        intent.latest_charge.failure_code = code
        intent.latest_charge.failure_message = message
        # As Stripe does: the payer has to choose again.
        intent._failed_method, intent.payment_method = intent.payment_method, None
        self.emit("payment_intent.payment_failed", intent)

    def _settle(self, intent: PaymentIntent) -> None:
        """End a debit that was under way."""
        if intent.status != "processing":
            return
        charge = intent.latest_charge
        session = self._session_of(intent)
        if charge._authorized:
            charge.balance_transaction = resources.BalanceTransaction(
                amount=charge.amount,
                currency=charge.currency,
                exchange_rate=1.0,
                reporting_category="charge",
                source=charge.id,
                type="charge",
            ).id
            charge.status = "succeeded"
            intent._on_success()
            if session is not None:
                session.payment_status = "paid"
                self.emit("checkout.session.async_payment_succeeded", session)
        else:
            self._fail(intent, "insufficient_funds", "The debit was returned by the bank.")
            if session is not None:
                self.emit("checkout.session.async_payment_failed", session)

    def settle_now(self, intent_id: str) -> PaymentIntent:
        """Let the bank of a debit that is under way answer now."""
        intent: PaymentIntent = PaymentIntent._api_retrieve(intent_id)
        if intent.status != "processing":
            raise refusal(f"There is no debit under way: the payment has {intent.status}.")
        timer = self._timers.pop(intent.id, None)
        if timer is not None:
            timer.cancel()
        self._settle(intent)
        return intent

    def cancel_intent(self, intent: PaymentIntent, reason: str | None = None) -> None:
        """Cancel a PaymentIntent that was not paid."""
        if intent.status in ("succeeded", "canceled", "processing"):
            raise refusal(
                f"You cannot cancel this PaymentIntent because it has a status of {intent.status}.",
                code="payment_intent_unexpected_state",
            )
        intent._canceled = True
        intent.next_action = None
        intent.cancellation_reason = reason
        intent.canceled_at = int(time.time())
        self.emit("payment_intent.canceled", intent)

    # Checkout Sessions

    def create_session(self, **data: Any) -> CheckoutSession:
        """Create a Checkout Session from the request's parameters."""
        for name in _SESSION_IGNORED:
            data.pop(name, None)
        if data.pop("mode", None) != "payment":
            raise refusal("Only the mode payment is known here.", param="mode")
        items, currency, amount = _line_items(data.pop("line_items", None))
        fields = {
            name: data.pop(name, None)
            for name in ("cancel_url", "client_reference_id", "customer", "customer_email")
        }
        success_url = data.pop("success_url", None)
        if not isinstance(success_url, str) or not success_url:
            raise refusal("Missing required param: success_url.", param="success_url")
        method_types = take_method_types(data)
        if fields["customer"] is not None:
            _require_customer(fields["customer"])
        expires_at = data.pop("expires_at", None)
        if expires_at is not None:
            expires_at = resources.try_convert_to_int(expires_at)
            shortest, longest = (time.time() + seconds for seconds in _EXPIRES_WITHIN)
            # Stripe counts from its own now; a minute covers a request that was under way.
            if not isinstance(expires_at, int) or not shortest - 60 <= expires_at <= longest + 60:
                raise refusal(
                    "The expires_at timestamp must be between 30 minutes and 24 hours from now.",
                    param="expires_at",
                )
        metadata = data.pop("metadata", None)
        intent_data = data.pop("payment_intent_data", None) or {}
        if data:
            unknown = next(iter(data))
            raise refusal(
                f"Received unknown parameter: {unknown}", param=unknown, code="parameter_unknown"
            )
        session = CheckoutSession(
            base_url=self._base_url,
            items=items,
            currency=currency,
            amount=amount,
            payment_intent_data=intent_data,
            success_url=success_url,
            method_types=method_types,
            expires_at=expires_at,
            metadata=metadata,
            **fields,
        )
        self._later(session.id, session.expires_at, self._expire_in_time, session)
        return session

    def find_session(self, session_id: str) -> CheckoutSession | None:
        """Look a session up."""
        found = resources.store.get(f"checkout.session:{session_id}")
        return found if isinstance(found, CheckoutSession) else None

    def expire_session(self, session: CheckoutSession) -> None:
        """End a session that is open."""
        if session.status != "open":
            raise refusal(
                'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout '
                f"Session has a status of {session.status}."
            )
        self._close(session, "expired")
        intent = self._intent_of(session)
        if intent is not None:
            self.cancel_intent(intent, "abandoned")
        self.emit("checkout.session.expired", session)

    def pay_session(self, session: CheckoutSession, method_data: dict[str, Any]) -> str | None:
        """Pay an open session; return what to tell the payer when it was declined."""
        intent = self._intent_of(session)
        if intent is None:
            data = dict(session._payment_intent_data)
            intent = self.create_intent(
                **data,
                amount=session.amount_total,
                currency=session.currency,
                customer=session.customer,
                payment_method_types=session.payment_method_types,
            )
            intent._checkout_session = session.id
            session.payment_intent = intent.id
        method = resources.PaymentMethod(**method_data)
        try:
            self.confirm_intent(intent, method.id)
        except resources.UserError as error:
            return str(error.body["error"].get("message", "The payment failed."))
        self._close(session, "complete")
        session.payment_status = "paid" if intent.status == "succeeded" else "unpaid"
        session.customer_details = {"email": self._email_of(session), "name": None}
        self.emit("checkout.session.completed", session)
        return None

    def _expire_in_time(self, session: CheckoutSession) -> None:
        if session.status == "open":
            self.expire_session(session)

    def _close(self, session: CheckoutSession, status: str) -> None:
        session.status = status
        session.url = None
        timer = self._timers.pop(session.id, None)
        if timer is not None:
            timer.cancel()

    def _intent_of(self, session: CheckoutSession) -> PaymentIntent | None:
        found = resources.store.get(f"payment_intent:{session.payment_intent}")
        return found if isinstance(found, PaymentIntent) else None

    def _session_of(self, intent: PaymentIntent) -> CheckoutSession | None:
        return self.find_session(intent._checkout_session) if intent._checkout_session else None

    def _email_of(self, session: CheckoutSession) -> str | None:
        if session.customer_email:
            return str(session.customer_email)
        customer = resources.store.get(f"customer:{session.customer}")
        return None if customer is None else customer.email


def _require_customer(customer: Any) -> None:
    if f"customer:{customer}" not in resources.store:
        raise refusal(f"No such customer: '{customer}'", param="customer", code="resource_missing")


def _line_items(given: Any) -> tuple[list[tuple[str, int]], str, int]:
    """Read the line items; return each one's name and amount, their currency and their sum."""
    if not isinstance(given, list) or not given:
        raise refusal("Missing required param: line_items.", param="line_items")
    items: list[tuple[str, int]] = []
    currencies = set()
    for index, item in enumerate(given):
        where = f"line_items[{index}]"
        price = item.get("price_data") if isinstance(item, dict) else None
        if not isinstance(price, dict):
            raise refusal(f"Missing required param: {where}[price_data].", param=where)
        product = price.get("product_data")
        quantity = resources.try_convert_to_int(item.get("quantity", 1))
        unit_amount = resources.try_convert_to_int(price.get("unit_amount"))
        if not isinstance(product, dict) or not product.get("name"):
            raise refusal(
                f"Missing required param: {where}[price_data][product_data][name].", param=where
            )
        if not isinstance(unit_amount, int) or unit_amount < 0:
            raise refusal(f"Invalid integer: {where}[price_data][unit_amount]", param=where)
        if not isinstance(quantity, int) or quantity < 1:
            raise refusal(f"Invalid integer: {where}[quantity]", param=where)
        currencies.add(str(price.get("currency", "")).lower())
        name = str(product["name"])
        items.append((name if quantity == 1 else f"{quantity} x {name}", unit_amount * quantity))
    if len(currencies) != 1 or not next(iter(currencies)):
        raise refusal("All line items must have the same currency.", param="line_items")
    amount = sum(part for _, part in items)
    if amount <= 0:
        raise refusal("The Checkout Session's total amount must be more than zero.")
    return items, currencies.pop(), amount
