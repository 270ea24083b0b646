"""Cloud Sync of the caller: a subscription charged in credits."""

from typing import Annotated, Literal

from aiohttp import web

from service.api.fields import IdempotencyKey
from service.keys import CALLER, DB
from service.queries import sync
from service.queries.sync import SyncStatus
from service.wire import (
    Answer,
    Auth,
    Body,
    NoFields,
    Replayable,
    Routes,
    Timestamp,
    idempotency_key,
    one_of,
    read_body,
    respond,
    timestamp,
)

routes = Routes()

Interval = Literal["monthly", "quarterly", "yearly"]


class Status(Answer):
    """Cloud Sync as its user sees it; `price` in credits."""

    active: bool
    interval: Annotated[str, one_of(Interval)]
    next_charge_at: Timestamp | None
    paused_at: Timestamp | None
    paused: bool
    gifted: bool
    price: int
    paid_until: Timestamp | None

    @classmethod
    def of(cls, status: SyncStatus) -> "Status":
        """From the query's answer."""
        return cls(
            active=status.active,
            interval=status.billing_interval,
            next_charge_at=timestamp(status.next_charge_at),
            paused_at=timestamp(status.paused_at),
            paused=status.paused_at is not None,
            gifted=status.gifted,
            price=status.price,
            paid_until=timestamp(status.paid_until),
        )


class Activated(Replayable):
    """What an activation did; `amountCharged` is 0 inside a period already paid."""

    success: Literal[True]
    active: Literal[True]
    interval: Annotated[str, one_of(Interval)]
    next_charge_at: Timestamp
    amount_charged: int


class Deactivated(Answer):
    """It is off."""

    success: Literal[True]


class IntervalChanged(Answer):
    """`amountCharged` is the price from `effectiveAt` on; nothing is charged now."""

    success: Literal[True]
    interval: Annotated[str, one_of(Interval)]
    amount_charged: int
    effective_at: Timestamp


class Activate(Body):
    """How long a charge lasts."""

    interval: Interval = "monthly"
    idempotency_key: IdempotencyKey | None = None


class ChangeInterval(Body):
    """How long a charge lasts from the next one on."""

    interval: Interval


@routes.get("/api/v1/sync/status", auth=Auth.USER, answer=Status)
async def get_sync_status(request: web.Request) -> web.Response:
    """Cloud Sync of the caller; inactive and monthly for a user never seen."""
    return respond(Status.of(await sync.get_sync_status(request.app[DB], request[CALLER].user_id)))


@routes.post(
    "/api/v1/sync/activate",
    auth=Auth.USER,
    body=Activate,
    answer=Activated,
    errors=("insufficient_credits", "sync_already_active", "sync_already_gifted"),
)
async def activate_sync(request: web.Request) -> web.Response:
    """Turn it on, charging at once unless a period is paid already."""
    body = await read_body(request, Activate)
    caller = request[CALLER]
    activation = await sync.activate_sync(
        request.app[DB],
        user_id=caller.user_id,
        interval=body.interval,
        email=caller.email,
        idempotency_key=idempotency_key(request, body),
    )
    return respond(
        Activated(
            success=True,
            active=True,
            interval=activation.billing_interval,
            next_charge_at=timestamp(activation.next_charge_at),
            amount_charged=activation.amount_charged,
        ),
        replayed=activation.replayed,
    )


@routes.post(
    "/api/v1/sync/deactivate",
    auth=Auth.USER,
    body=NoFields,
    answer=Deactivated,
    errors=("sync_not_active", "sync_gifted"),
)
async def deactivate_sync(request: web.Request) -> web.Response:
    """Turn it off at once, refunding nothing; also clears a pause."""
    await read_body(request, NoFields)
    await sync.deactivate_sync(request.app[DB], request[CALLER].user_id)
    return respond(Deactivated(success=True))


@routes.post(
    "/api/v1/sync/change-interval",
    auth=Auth.USER,
    body=ChangeInterval,
    answer=IntervalChanged,
    errors=("sync_not_active", "sync_gifted"),
)
async def change_sync_interval(request: web.Request) -> web.Response:
    """Another interval and price from the next charge on."""
    body = await read_body(request, ChangeInterval)
    change = await sync.change_sync_interval(
        request.app[DB], user_id=request[CALLER].user_id, interval=body.interval
    )
    return respond(
        IntervalChanged(
            success=True,
            interval=change.billing_interval,
            amount_charged=change.price,
            effective_at=timestamp(change.effective_at),
        )
    )
