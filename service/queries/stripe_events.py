"""Stripe's events, and whose turn it is to ask Stripe: one wrapper for each SQL function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from service.db import Database

CHANNEL = "mana_credits_stripe_events"
"""What NOTIFY wakes reconciliation on; a hint, and polling is the truth."""


@dataclass(frozen=True, slots=True)
class EventResult:
    """What became of a Stripe event."""

    state: str
    outcome: str | None
    error: str | None
    repeated: bool
    needs_refunds_of: str | None
    """The PaymentIntent whose refunds Stripe is to be asked for."""


async def apply_stripe_event(
    db: Database, *, event_id: str, type_: str, created: int, payload: Mapping[str, Any]
) -> EventResult:
    """Store a verified event once and apply it; `created` is Stripe's time in Unix seconds."""
    row = await db.move(
        "SELECT * FROM credits.apply_stripe_event("
        "p_id => $1, p_type => $2, p_created_at => $3, p_payload => $4)",
        event_id,
        type_,
        datetime.fromtimestamp(created, UTC),
        payload,
    )
    return EventResult(**row)


async def replay_stripe_event(db: Database, event_id: str, *, asking: bool = True) -> EventResult:
    """Apply a stored event once more, which moves nothing twice. ApiError 400, 404.

    Where it needs an answer of Stripe, the caller asks; without `asking` reconciliation does.
    """
    row = await db.move(
        "SELECT * FROM credits.replay_stripe_event(p_id => $1, p_asking => $2)", event_id, asking
    )
    return EventResult(**row)


async def apply_stripe_refunds(
    db: Database, event_id: str, refunds: Sequence[Mapping[str, Any]]
) -> EventResult:
    """Apply the refunds that an event is about, as Stripe named them. ApiError 404."""
    row = await db.move("SELECT * FROM credits.apply_stripe_refunds($1, $2)", event_id, refunds)
    return EventResult(**row)


async def claim_stripe_events(db: Database, *, limit: int, lease_seconds: int) -> list[str]:
    """Ids of stored events that this caller is to try again, oldest first."""
    rows = await db.move_rows(
        "SELECT * FROM credits.claim_stripe_events($1, $2) AS c (id)", limit, lease_seconds
    )
    return [row["id"] for row in rows]


async def claim_event_listing(db: Database, *, lease_seconds: int) -> datetime | None:
    """Since when Stripe's events are to be listed, or None when it is not this caller's turn."""
    row = await db.move("SELECT credits.claim_event_listing($1) AS since", lease_seconds)
    since: datetime | None = row["since"]
    return since


async def settle_event_listing(db: Database, until: datetime) -> None:
    """Every event that Stripe made before `until` is stored: the turn is over."""
    await db.move("SELECT credits.settle_event_listing($1)", until)


async def unknown_stripe_events(db: Database, ids: Sequence[str]) -> set[str]:
    """Those of the events that are not stored."""
    rows = await db.rows("SELECT * FROM credits.unknown_stripe_events($1) AS u (id)", list(ids))
    return {row["id"] for row in rows}
