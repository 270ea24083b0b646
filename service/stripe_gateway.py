"""The one place that talks to Stripe. No object of its library leaves this module.

A call raises PaymentProviderError for whatever goes wrong: Stripe's words are for the log.
Repeating a call with the same idempotency key is safe, and answers what the first one made.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import msgspec
import stripe
import structlog

from service.payments import (
    EVENT_TYPES,
    CheckoutSession,
    Event,
    InvalidSignatureError,
    Order,
    PaymentIntent,
    PaymentProviderError,
    PaymentRefusedError,
    UnknownCustomerError,
)
from service.settings import StripeSettings

if TYPE_CHECKING:
    from stripe.params import (
        CustomerCreateParams,
        EventListParams,
        PaymentIntentCreateParams,
        RefundListParams,
    )
    from stripe.params.checkout import SessionCreateParams

CALL_SECONDS: Final = 10.0
"""For one attempt; the library's own time-out is 80 s."""
TOTAL_SECONDS: Final = 15.0
"""For a call with its repetition."""
NETWORK_RETRIES: Final = 1
SIGNATURE_TOLERANCE_SECONDS: Final = 300
CURRENCY: Final = "eur"
PAYMENT_METHODS: Final = ("card", "sepa_debit")
"""Sent as `allowed_payment_method_types`: the API version that stripe 16 pins (endive) refuses
`payment_method_types` in requests."""

PAGE: Final = 100
"""Objects a page of a list, which is Stripe's most."""

_log = structlog.get_logger(__name__)


class StripeGateway:
    """Stripe's calls, over a session of its own; see `connected`."""

    def __init__(
        self,
        settings: StripeSettings,
        session: aiohttp.ClientSession,
        *,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        """`call_seconds` is for one attempt to reach Stripe."""
        self._webhook_secret = settings.webhook_secret
        self._client = stripe.StripeClient(
            settings.secret_key,
            base_addresses={"api": settings.api_base} if settings.api_base else {},
            max_network_retries=NETWORK_RETRIES,
            http_client=stripe.AIOHTTPClient(
                timeout=aiohttp.ClientTimeout(total=call_seconds), session=session
            ),
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(
        cls, settings: StripeSettings, *, call_seconds: float = CALL_SECONDS
    ) -> AsyncIterator["StripeGateway"]:
        """A gateway whose connections are closed at the end of the context."""
        async with aiohttp.ClientSession() as session:
            yield cls(settings, session, call_seconds=call_seconds)

    async def create_customer(self, user_id: str, email: str | None, key: str) -> str:
        """Make a customer and answer its id; `key` is the idempotency key."""
        params: CustomerCreateParams = {"metadata": {"userId": user_id}}
        if email is not None:
            params["email"] = email
        async with _told("create_customer"):
            made = await self._client.v1.customers.create_async(params, {"idempotency_key": key})
            return made.id

    async def create_payment_intent(self, order: Order, key: str) -> PaymentIntent:
        """Make a PaymentIntent for card or SEPA debit; `key` is the idempotency key.

        Raises UnknownCustomerError when Stripe does not know the order's customer.
        """
        params: PaymentIntentCreateParams = {
            "amount": order.amount_cents,
            "currency": CURRENCY,
            "customer": order.customer_id,
            "description": order.description,
            "metadata": _metadata(order),
            "allowed_payment_method_types": [*PAYMENT_METHODS],
        }
        async with _told("create_payment_intent", customer=True):
            made = await self._client.v1.payment_intents.create_async(
                params, {"idempotency_key": key}
            )
            return _payment_intent(made)

    async def retrieve_payment_intent(self, payment_intent_id: str) -> PaymentIntent:
        """How a PaymentIntent stands."""
        async with _told("retrieve_payment_intent"):
            return _payment_intent(
                await self._client.v1.payment_intents.retrieve_async(payment_intent_id)
            )

    async def create_checkout_session(
        self, order: Order, key: str, *, success_url: str, cancel_url: str
    ) -> CheckoutSession:
        """Make a Checkout Session; `key` is the idempotency key.

        Raises UnknownCustomerError when Stripe does not know the order's customer.
        """
        metadata = _metadata(order)
        params: SessionCreateParams = {
            "mode": "payment",
            "customer": order.customer_id,
            "client_reference_id": str(order.purchase_id),
            "success_url": success_url,
            "cancel_url": cancel_url,
            "allowed_payment_method_types": [*PAYMENT_METHODS],
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": CURRENCY,
                        "unit_amount": order.amount_cents,
                        "product_data": {"name": order.description},
                    },
                }
            ],
            "metadata": metadata,
            # A session's metadata does not reach its PaymentIntent.
            "payment_intent_data": {"metadata": metadata, "description": order.description},
        }
        async with _told("create_checkout_session", customer=True):
            made = await self._client.v1.checkout.sessions.create_async(
                params, {"idempotency_key": key}
            )
            return _checkout_session(made)

    async def retrieve_checkout_session(self, session_id: str) -> CheckoutSession:
        """How a Checkout Session stands."""
        async with _told("retrieve_checkout_session"):
            return _checkout_session(
                await self._client.v1.checkout.sessions.retrieve_async(session_id)
            )

    async def list_refunds(self, payment_intent_id: str) -> list[Mapping[str, Any]]:
        """All refunds of a payment, as Stripe has them now."""
        refunds: list[Mapping[str, Any]] = []
        while True:
            params: RefundListParams = {"payment_intent": payment_intent_id, "limit": PAGE}
            if refunds:
                params["starting_after"] = refunds[-1]["id"]
            async with _told("list_refunds"):
                page = await self._client.v1.refunds.list_async(params)
                refunds += [_storable(refund.to_dict()) for refund in page.data]
            if not page.has_more or not page.data:
                return refunds

    async def list_events(self, since: datetime) -> AsyncIterator[list[Event]]:
        """The events of EVENT_TYPES that Stripe has made since then, newest first, by pages."""
        last: str | None = None
        while True:
            params: EventListParams = {
                "created": {"gte": int(since.timestamp())},
                "types": [*EVENT_TYPES],
                "limit": PAGE,
            }
            if last is not None:
                params["starting_after"] = last
            async with _told("list_events"):
                page = await self._client.v1.events.list_async(params)
                events = [
                    Event(event.id, event.type, event.created, _storable(event.to_dict()))
                    for event in page.data
                ]
            yield events
            if not page.has_more or not events:
                return
            last = events[-1].id

    async def reachable(self) -> None:
        """Raise PaymentProviderError unless Stripe answers and takes the key."""
        async with _told("reachable"):
            await self._client.v1.customers.list_async({"limit": 1})

    def verify_webhook(self, body: bytes, signature: str | None) -> Event:
        """The event of a webhook; raises InvalidSignatureError unless it is signed and fresh."""
        try:
            stripe.WebhookSignature.verify_header(
                body, signature, self._webhook_secret, SIGNATURE_TOLERANCE_SECONDS
            )
        except (stripe.StripeError, ValueError, TypeError, OverflowError) as error:
            # Its message quotes the body.
            raise InvalidSignatureError from error
        try:
            payload = _storable(json.loads(body))
            event_id, kind, created = payload["id"], payload["type"], payload["created"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InvalidSignatureError from error
        if not (isinstance(event_id, str) and isinstance(kind, str) and isinstance(created, int)):
            raise InvalidSignatureError
        return Event(id=event_id, type=kind, created=created, payload=payload)


@contextlib.asynccontextmanager
async def _told(call: str, *, customer: bool = False) -> AsyncIterator[None]:
    """Bound a call in time, and turn what goes wrong into our own errors, with a log line.

    `customer`: the call names a customer and nothing else that Stripe could miss.
    """
    try:
        async with asyncio.timeout(TOTAL_SECONDS):
            yield
    except stripe.StripeError as error:
        _go_on_unless_cancelled(error)
        code = error.code or getattr(error.error, "type", None)
        _log.warning(
            "Stripe call failed",
            call=call,
            kind=type(error).__name__,
            code=code,
            status=error.http_status,
            stripe_request_id=error.request_id,
        )
        missing = error.http_status in (400, 404) and (
            error.code == "resource_missing" or error.http_status == 404
        )
        if customer and missing:
            raise UnknownCustomerError(code) from error
        # A wrong key (401, 403), too many calls (429) and Stripe's own failures meet every call.
        if error.http_status in (400, 402, 404, 409):
            raise PaymentRefusedError(code) from error
        raise PaymentProviderError(code) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        _go_on_unless_cancelled(error)
        # The library lets these through where a body breaks off after its headers.
        _log.warning("Stripe call failed", call=call, kind=type(error).__name__)
        raise PaymentProviderError from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # An answer that is not what Stripe documents.
        _log.warning("Stripe answered something unexpected", call=call, kind=type(error).__name__)
        raise PaymentRefusedError from error


def _go_on_unless_cancelled(error: Exception) -> None:
    """Let a cancellation be one that on its way became an error, as while connecting.

    Whoever is to stop would go on otherwise, as after any other call that fails.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError from error


def _metadata(order: Order) -> dict[str, str]:
    return {
        "purchaseId": str(order.purchase_id),
        "userId": order.user_id,
        "credits": str(order.credits),
    }


class _PaymentIntent(msgspec.Struct):
    id: str
    status: str
    amount: int
    currency: str
    created: int
    client_secret: str | None = None
    amount_received: int | None = None
    customer: str | dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    last_payment_error: dict[str, Any] | None = None


class _CheckoutSession(msgspec.Struct):
    id: str
    payment_status: str
    url: str | None = None
    status: str | None = None
    payment_intent: str | dict[str, Any] | None = None
    amount_total: int | None = None
    currency: str | None = None
    metadata: dict[str, str] | None = None


def _payment_intent(answer: stripe.PaymentIntent) -> PaymentIntent:
    got = msgspec.convert(answer.to_dict(), _PaymentIntent)
    failure = got.last_payment_error or {}
    return PaymentIntent(
        id=got.id,
        client_secret=got.client_secret,
        status=got.status,
        amount=got.amount,
        amount_received=got.amount_received or 0,
        currency=got.currency,
        customer_id=_id_of(got.customer),
        metadata=got.metadata or {},
        created=got.created,
        failure_code=failure.get("decline_code") or failure.get("code"),
    )


def _checkout_session(answer: stripe.checkout.Session) -> CheckoutSession:
    got = msgspec.convert(answer.to_dict(), _CheckoutSession)
    return CheckoutSession(
        id=got.id,
        url=got.url,
        status=got.status,
        payment_status=got.payment_status,
        payment_intent_id=_id_of(got.payment_intent),
        amount_total=got.amount_total,
        currency=got.currency,
        metadata=got.metadata or {},
    )


def _id_of(reference: str | dict[str, Any] | None) -> str | None:
    """The id of an object that Stripe may have put in whole."""
    return str(reference["id"]) if isinstance(reference, dict) else reference


def _storable(value: Any) -> Any:
    """The same JSON with what jsonb cannot hold replaced: a payment must not fail over a name."""
    if isinstance(value, str):
        text = value.replace("\0", "\ufffd")
        return text if text.isascii() else text.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_storable(key): _storable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    return value
