"""Cloud Sync: one wrapper for each function of `sql/functions`. Prices are whole credits."""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from service.batches import Kind
from service.db import Database, Record
from service.ids import uuid7

CHARGE_BATCH_SECONDS: Final = 20.0
"""For one batch; it is small, so that only a database in trouble takes this long."""


class SyncStatus(msgspec.Struct, frozen=True):
    """Cloud Sync of a user; inactive and monthly for a user never seen."""

    user_id: str
    active: bool
    billing_interval: str
    price: int
    next_charge_at: datetime | None
    paid_until: datetime | None
    paused_at: datetime | None
    gifted: bool


@dataclass(frozen=True, slots=True)
class Activation:
    """What an activation did; `amount_charged` is 0 inside a period already paid."""

    billing_interval: str
    next_charge_at: datetime
    paid_until: datetime
    amount_charged: int
    available: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class IntervalChange:
    """The new interval and price, and the charge from which on they hold."""

    billing_interval: str
    price: int
    effective_at: datetime


@dataclass(frozen=True, slots=True)
class ChargeRun:
    """What a run charged, paused and could not charge; `more` is still due."""

    charged: int = 0
    paused: int = 0
    errors: int = 0
    more: bool = True

    @property
    def total(self) -> int:
        """How many subscriptions it looked at."""
        return self.charged + self.paused + self.errors


async def _statuses(db: Database, user_ids: Sequence[str]) -> list[Record]:
    return await db.rows("SELECT * FROM credits.get_sync_statuses($1)", user_ids)


def _status(db: Database, user_id: str, _settle_until: float | None) -> Awaitable[Record]:
    return db.row("SELECT * FROM credits.get_sync_status($1)", user_id)


_STATUSES: Final[Kind[str, Record]] = Kind(
    "sync statuses", _statuses, _status, str, ordered=False, side_by_side=False
)


async def get_sync_status(db: Database, user_id: str) -> SyncStatus:
    """Cloud Sync of a user."""
    return SyncStatus(*await db.batched(_STATUSES, user_id))


async def activate_sync(
    db: Database, *, user_id: str, interval: str, email: str | None, idempotency_key: str | None
) -> Activation:
    """Turn Cloud Sync on, charging at once unless a period is paid. ApiError 400, 402, 409."""
    row = await db.move(
        "SELECT * FROM credits.activate_sync("
        "p_user_id => $1, p_interval => $2, p_email => $3, p_id => $4, p_idempotency_key => $5)",
        user_id,
        interval,
        email,
        uuid7(),
        idempotency_key,
    )
    return Activation(**row)


async def deactivate_sync(db: Database, user_id: str) -> SyncStatus:
    """Turn Cloud Sync off at once, or clear its pause. ApiError 400."""
    row = await db.move(
        "SELECT * FROM credits.deactivate_sync(p_user_id => $1, p_id => $2)", user_id, uuid7()
    )
    return SyncStatus(**row)


async def change_sync_interval(db: Database, *, user_id: str, interval: str) -> IntervalChange:
    """Another interval from the next charge on. ApiError 400."""
    row = await db.move(
        "SELECT * FROM credits.change_sync_interval(p_user_id => $1, p_interval => $2)",
        user_id,
        interval,
    )
    return IntervalChange(**row)


async def charge_recurring(db: Database, seconds: float) -> ChargeRun:
    """Charge what is due, batch by batch, for at most about `seconds`; recorded as a job run.

    Each batch is a transaction of its own, and they give way to others, as in the job of pg_cron;
    both may run at once.
    """
    deadline = time.monotonic() + seconds
    run_id = await db.move("SELECT credits.begin_job_run('recurring-charge') AS id")
    run = ChargeRun()
    last_at: datetime | None = None
    last_key = ""
    pace = await db.row("SELECT * FROM credits.pace_charges()")
    while True:
        began = time.monotonic()
        batch = await db.move(
            "SELECT * FROM credits.charge_due_subscriptions("
            "p_batch_size => $1, p_after => coalesce($2, timestamptz '-infinity'),"
            " p_after_key => $3)",
            pace["batch_size"],
            last_at,
            last_key,
            seconds=CHARGE_BATCH_SECONDS,
        )
        last_at, last_key = batch["last_at"], batch["last_key"]
        run = ChargeRun(
            charged=run.charged + batch["charged"],
            paused=run.paused + batch["paused"],
            errors=run.errors + batch["errors"],
            more=batch["more"],
        )
        ended = not run.more or time.monotonic() >= deadline
        await db.move(
            "SELECT credits.update_job_run(p_id => $1, p_did => $2, p_ended => $3)",
            run_id["id"],
            msgspec.to_builtins(run),
            ended,
        )
        if ended:
            return run
        pace = await db.row(
            "SELECT * FROM credits.pace_charges(p_took_ms => $1, p_seen => $2)",
            round((time.monotonic() - began) * 1000),
            pace["seen"],
        )
        await asyncio.sleep(pace["rest_ms"] / 1000)
