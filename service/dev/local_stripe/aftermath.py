"""What comes after a payment: refunds and disputes, with the events that tell of them.

localstripe refunds without telling anybody, and knows no disputes. At Stripe both are moved on by
banks; here by whoever asks for it, at addresses below /_config.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from localstripe import resources
from localstripe.resources import StripeObject

from service.dev.local_stripe.engine import Engine
from service.dev.local_stripe.objects import PaymentIntent, refusal

REFUND_ENDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        # A refund that was paid out can still come back.
        "pending": ("succeeded", "failed", "canceled"),
        "succeeded": ("failed",),
    }
)
DISPUTE_STEPS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        # The step: the dispute's status after it, and the event that tells of it.
        "withdrawn": ("needs_response", "charge.dispute.funds_withdrawn"),
        "updated": ("under_review", "charge.dispute.updated"),
        "won": ("won", "charge.dispute.closed"),
        "lost": ("lost", "charge.dispute.closed"),
        "warning_closed": ("warning_closed", "charge.dispute.closed"),
        "reinstated": ("won", "charge.dispute.funds_reinstated"),
    }
)


class Dispute(StripeObject):  # type: ignore[misc]
    """A dispute over a charge."""

    object = "dispute"
    _id_prefix = "dp_"

    def __init__(self, intent: PaymentIntent, amount: int, status: str) -> None:
        super().__init__()
        self.charge = intent.latest_charge.id
        self.payment_intent = intent.id
        self.amount = amount
        self.currency = intent.currency
        self.status = status
        self.reason = "fraudulent"
        self.is_charge_refundable = status.startswith("warning_")
        self.metadata: dict[str, str] = {}


class Aftermath:
    """Refunds and disputes of what the engine has charged."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create_refund(self, given: dict[str, Any]) -> Any:
        """Refund a payment, or a part of it; with `metadata[status]` pending it is not done yet."""
        intent = self._intent_of(given.pop("payment_intent", None), given.pop("charge", None))
        metadata = given.pop("metadata", None) or {}
        reason = given.pop("reason", None)
        amount = _amount(given.pop("amount", None), intent)
        if given:
            raise refusal(f"Received unknown parameter: {next(iter(given))}")
        taken = sum(
            refund.amount
            for refund in self._refunds_of(intent)
            if refund.status in ("pending", "succeeded")
        )
        if taken + amount > intent.amount:
            raise refusal(
                "Refund amount is greater than unrefunded amount on charge.",
                param="amount",
                code="charge_already_refunded" if taken == intent.amount else None,
            )
        status = metadata.get("status", "succeeded")
        if status not in REFUND_ENDS:
            raise refusal("metadata[status] must be pending or succeeded.", param="metadata")
        refund = resources.Refund(payment_intent=intent.id, amount=amount, metadata=metadata)
        refund.reason = reason
        refund.status = status
        self._engine.emit("refund.created", refund)
        self._engine.emit("charge.refunded", intent.latest_charge)
        return refund

    def end_refund(self, refund_id: str, status: str) -> Any:
        """A refund comes to an end, as banks let it: succeeded, failed or canceled."""
        refund = _found("refund", refund_id)
        ends = REFUND_ENDS.get(refund.status, ())
        if status not in ends:
            raise refusal(
                f"A refund that is {refund.status} can become {' or '.join(ends) or 'nothing'}.",
                param="status",
            )
        refund.status = status
        self._engine.emit("refund.updated", refund)
        self._engine.emit("charge.refund.updated", refund)
        if status == "failed":
            refund.failure_reason = "expired_or_canceled_card"
            self._engine.emit("refund.failed", refund)
        return refund

    def list_refunds(self, payment_intent: str | None, charge: str | None) -> list[Any]:
        """The refunds of a payment, newest first."""
        return self._refunds_of(self._intent_of(payment_intent, charge))[::-1]

    def open_dispute(self, given: dict[str, Any]) -> Dispute:
        """The payer's bank disputes a payment; a status of warning_… makes it an inquiry."""
        intent = self._intent_of(given.get("payment_intent"), given.get("charge"))
        status = given.get("status") or "needs_response"
        dispute = Dispute(intent, _amount(given.get("amount"), intent), status)
        self._engine.emit("charge.dispute.created", dispute)
        if not status.startswith("warning_"):
            self._engine.emit("charge.dispute.funds_withdrawn", dispute)
        return dispute

    def move_dispute(self, dispute_id: str, step: str) -> Dispute:
        """A dispute goes on: one of DISPUTE_STEPS."""
        if step not in DISPUTE_STEPS:
            raise refusal(f"step must be one of {', '.join(DISPUTE_STEPS)}", param="step")
        dispute: Dispute = _found("dispute", dispute_id)
        dispute.status, event_type = DISPUTE_STEPS[step]
        self._engine.emit(event_type, dispute)
        return dispute

    def _intent_of(self, intent_id: str | None, charge_id: str | None) -> PaymentIntent:
        if intent_id is None:
            intent_id = getattr(_found("charge", charge_id), "payment_intent", None)
        intent: PaymentIntent = _found("payment_intent", intent_id)
        if intent.status != "succeeded":
            raise refusal(f"The PaymentIntent {intent.id} was not paid.", param="payment_intent")
        return intent

    def _refunds_of(self, intent: PaymentIntent) -> list[Any]:
        return [
            thing
            for thing in resources.store.values()
            if isinstance(thing, resources.Refund) and thing.charge == intent.latest_charge.id
        ]


def list_events(query: Mapping[str, Any]) -> list[Any]:
    """The events that were made, newest first, by `created[gte]` and `types`."""
    since = resources.try_convert_to_int((query.get("created") or {}).get("gte")) or 0
    types = query.get("types")
    return [
        thing
        for thing in reversed(list(resources.store.values()))
        if isinstance(thing, resources.Event)
        and thing.created >= since
        and (not types or thing.type in types)
    ]


def page_of(things: list[Any], query: Mapping[str, Any], url: str) -> dict[str, Any]:
    """A page of a list, behind `starting_after`, as Stripe answers it."""
    limit = resources.try_convert_to_int(query.get("limit"))
    limit = 10 if limit is None else limit
    if not isinstance(limit, int) or not 1 <= limit <= 100:
        raise refusal("Invalid integer: limit", param="limit")
    start = 0
    after = query.get("starting_after")
    if after is not None:
        ids = [thing.id for thing in things]
        if after not in ids:
            raise refusal(f"No such object: {after}", param="starting_after")
        start = ids.index(after) + 1
    return {
        "object": "list",
        "url": url,
        "has_more": start + limit < len(things),
        "data": [thing._export() for thing in things[start : start + limit]],
    }


def _found(kind: str, thing_id: str | None) -> Any:
    thing = resources.store.get(f"{kind}:{thing_id}")
    if thing is None:
        raise refusal(f"No such {kind}: {thing_id}", code="resource_missing", status=404)
    return thing


def _amount(given: Any, intent: PaymentIntent) -> int:
    amount = intent.amount if given is None else resources.try_convert_to_int(given)
    if not isinstance(amount, int) or not 1 <= amount <= intent.amount:
        raise refusal("Invalid integer: amount", param="amount")
    return amount
