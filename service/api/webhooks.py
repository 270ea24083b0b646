"""What Stripe tells: at least once, in any order, minutes or days late."""

from typing import Final, Literal

import structlog
from aiohttp import web

from service.errors import stripe_not_configured
from service.keys import DB, METRICS, STRIPE
from service.queries import stripe_events
from service.wire import Answer, Auth, Routes, read_raw, respond

routes = Routes()

EVENT_MAX_BYTES: Final = 1024 * 1024
"""Stripe names no bound; events with line items are well below it."""

_log = structlog.get_logger(__name__)


class Received(Answer):
    """The event is stored: Stripe need not send it again."""

    received: Literal[True]


@routes.post(
    "/api/v1/webhooks/stripe", auth=Auth.SIGNED, answer=Received, errors=("stripe_not_configured",)
)
async def receive_stripe_event(request: web.Request) -> web.Response:
    """Store and apply a verified event; 5xx only where Stripe should send it again."""
    stripe = request.app[STRIPE]
    if stripe is None:
        raise stripe_not_configured()
    event = stripe.verify_webhook(
        await read_raw(request, EVENT_MAX_BYTES), request.headers.get("Stripe-Signature")
    )
    result = await stripe_events.apply_stripe_event(
        request.app[DB],
        event_id=event.id,
        type_=event.type,
        created=event.created,
        payload=event.payload,
    )
    request.app[METRICS].stripe_event(event.type, result.state)
    level = _log.error if result.state == "failed" else _log.info
    level(
        "Stripe event",
        event_id=event.id,
        type=event.type,
        state=result.state,
        outcome=result.outcome,
        error=result.error,
        repeated=result.repeated,
    )
    return respond(Received(received=True))
