"""Calls of the SQL functions by name, and what they leave behind."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.support.databases import Connection, detail
from tests.support.paths import PATH

BATCHED = PATH == "batched"
"""Whether every call that can stand in a batch is made in one; see tests/README.md."""

BATCH_OPERATIONS = {
    f"credits.{operation}": fields
    for operation, fields in {
        "use_credits": ("amount", "app_id", "description", "metadata", "origin"),
        "refund_credits": ("amount", "app_id", "description", "metadata", "transaction_id"),
        "grant_credits": ("amount", "description", "reason", "reference_id"),
        "reserve_credits": ("amount", "reason", "expires_in_seconds"),
        "commit_reservation": ("amount", "description", "reservation_id"),
        "refund_reservation": ("reservation_id",),
    }.items()
}
_DEFAULTS = {"origin": "service", "app_id": "system", "expires_in_seconds": 86400}
BATCH_FIELDS = (
    "operation",
    "user_id",
    "id",
    "amount",
    "app_id",
    "description",
    "idempotency_key",
    "metadata",
    "origin",
    "transaction_id",
    "reservation_id",
    "reason",
    "reference_id",
    "expires_in_seconds",
)
"""The attributes of `credits.batch_call`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error of class MC: its SQLSTATE and its facts."""

    sqlstate: str
    facts: dict[str, Any]

    @property
    def field(self) -> str | None:
        """The argument that was wrong, by its name on the wire."""
        field: str | None = self.facts.get("field")
        return field


def statement(function: str, arguments: dict[str, Any]) -> str:
    """A call in named notation: the arguments are named without their `p_`."""
    named = ", ".join(f"p_{name} => ${place}" for place, name in enumerate(arguments, 1))
    return f"SELECT * FROM {function}({named})"


async def rows(connection: Connection, function: str, **arguments: Any) -> list[asyncpg.Record]:
    """Call a function that returns rows."""
    if BATCHED and function in BATCH_OPERATIONS:
        return [await call_in_batch(connection, function, **arguments)]
    return await connection.fetch(statement(function, arguments), *arguments.values())


def batch_call(function: str, **arguments: Any) -> tuple[Any, ...]:
    """A call of one of `BATCH_OPERATIONS` as a batch takes it."""
    given = {name: _DEFAULTS.get(name) for name in BATCH_OPERATIONS[function]} | arguments
    assert given.keys() <= set(BATCH_FIELDS)
    given["operation"] = function.removeprefix("credits.")
    return tuple(given.get(name) for name in BATCH_FIELDS)


async def call_in_batch(connection: Connection, function: str, **arguments: Any) -> asyncpg.Record:
    """The same as the only call of a batch: it answers and refuses as the function alone does."""
    [outcome] = await connection.fetch(
        "SELECT * FROM credits.run_batch($1)", [batch_call(function, **arguments)]
    )
    if outcome["alone"]:
        [row] = await connection.fetch(statement(function, arguments), *arguments.values())
        return row
    if outcome["error"] is not None:
        raise asyncpg.PostgresError.new({"C": outcome["error"], "D": outcome["detail"], "M": ""})
    answer: asyncpg.Record = outcome["move"] or outcome["hold"] or outcome["committed"]
    return answer


async def call(connection: Connection, function: str, **arguments: Any) -> asyncpg.Record:
    """Call a function that returns one row."""
    found = await rows(connection, function, **arguments)
    assert len(found) == 1
    return found[0]


async def refusal(connection: Connection, function: str, **arguments: Any) -> Refusal:
    """Call a function that must refuse the call."""
    with pytest.raises(asyncpg.PostgresError) as caught:
        await rows(connection, function, **arguments)
    assert caught.value.sqlstate is not None
    return Refusal(caught.value.sqlstate, detail(caught.value))


async def grant(
    connection: Connection, user_id: str, amount: int, reference: str = "start"
) -> None:
    """Give a user credits to begin with."""
    granted = await call(
        connection,
        "credits.grant_credits",
        user_id=user_id,
        amount=amount,
        reason="test",
        reference_id=reference,
    )
    assert not granted["replayed"]


async def debit(connection: Connection, user_id: str, amount: int, **more: Any) -> asyncpg.Record:
    """Debit a user, as a service unless `more` says otherwise."""
    arguments = {"app_id": "app", "description": "Something", **more}
    return await call(
        connection, "credits.use_credits", user_id=user_id, amount=amount, **arguments
    )


async def available(connection: Connection, user_id: str) -> int:
    """What a user can spend."""
    credits: int = (await call(connection, "credits.get_balance", user_id=user_id))["available"]
    return credits


async def ledger(admin: Connection, user_id: str) -> list[asyncpg.Record]:
    """The ledger of a user, oldest first."""
    return await admin.fetch(
        "SELECT * FROM credits.transactions WHERE user_id = $1 ORDER BY seq", user_id
    )


async def amounts(admin: Connection, user_id: str) -> list[tuple[str, int]]:
    """The ledger of a user as types and amounts, oldest first."""
    return [(row["type"], row["amount"]) for row in await ledger(admin, user_id)]


async def reverse(admin: Connection, user_id: str, amount: int) -> None:
    """Take credits back that were bought and spent: a reversal may take more than there is."""
    payment = f"pi_{uuid4().hex}"
    await buy(admin, user_id, payment, amount, amount)
    await debit(admin, user_id, amount)
    applied = await stripe_event(
        admin, "refund.created", refund_object(f"re_{uuid4().hex}", payment, amount)
    )
    assert applied["state"] == "applied", dict(applied)


async def buy(
    admin: Connection, user_id: str, payment: str, credits: int = 1000, cents: int = 900
) -> asyncpg.Record:
    """A purchase that was paid for by this PaymentIntent."""
    purchase = await start_buying(admin, user_id, payment, credits, cents)
    return await call(
        admin,
        "credits.follow_payment",
        user_id=user_id,
        purchase_id=purchase["id"],
        stripe_payment_intent_id=payment,
        stripe_status="succeeded",
        received_euro_cents=cents,
        currency="eur",
    )


async def start_buying(
    admin: Connection, user_id: str, payment: str, credits: int = 1000, cents: int = 900
) -> asyncpg.Record:
    """A purchase for which Stripe has made this PaymentIntent."""
    purchase = await call(
        admin,
        "credits.start_purchase",
        user_id=user_id,
        package_id=await make_package(admin, credits, cents),
    )
    return await call(
        admin,
        "credits.record_payment_intent",
        user_id=user_id,
        purchase_id=purchase["id"],
        stripe_payment_intent_id=payment,
        stripe_customer_id=f"cus_{user_id}",
    )


async def stripe_event(
    connection: Connection,
    type_: str,
    about: dict[str, Any],
    event_id: str | None = None,
    at: datetime | None = None,
) -> asyncpg.Record:
    """Stripe sends an event about an object; without an id it is a new one, without a time now."""
    event_id = event_id or f"evt_{uuid4().hex}"
    return await call(
        connection,
        "credits.apply_stripe_event",
        id=event_id,
        type=type_,
        created_at=at or datetime.now(UTC),
        payload={"id": event_id, "type": type_, "data": {"object": about}},
    )


def refund_object(
    refund: str, payment: str, cents: int, status: str | None = "succeeded", **more: Any
) -> dict[str, Any]:
    """Stripe's refund of a payment, in euro cents."""
    return {
        "object": "refund",
        "id": refund,
        "payment_intent": payment,
        "charge": f"ch_{payment}",
        "amount": cents,
        "currency": "eur",
        "status": status,
        "created": 1_700_000_000,
        **more,
    }


def dispute_object(
    dispute: str, payment: str, cents: int, status: str = "needs_response", **more: Any
) -> dict[str, Any]:
    """Stripe's dispute of a payment, in euro cents."""
    return {
        "object": "dispute",
        "id": dispute,
        "payment_intent": payment,
        "charge": f"ch_{payment}",
        "amount": cents,
        "currency": "eur",
        "status": status,
        "created": 1_700_000_000,
        **more,
    }


def utc(text: str) -> datetime:
    """A time in UTC, such as `2023-01-31 23:30`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


async def subscribe(
    admin: Connection, user_id: str, interval: str = "monthly", *, at: datetime
) -> asyncpg.Record:
    """Activate Cloud Sync at a given time; the user has the credits."""
    activated = await admin.fetchrow(
        """
        SELECT * FROM credits._activate_sync(credits._lock_subscription($1), $2, NULL, $3)
        """,
        user_id,
        interval,
        at,
    )
    assert activated is not None
    return activated


async def charge(admin: Connection, at: datetime, batch_size: int = 100) -> asyncpg.Record:
    """Charge a batch of what is due at a given time."""
    result = await admin.fetchrow(
        "SELECT charged, paused, errors, more FROM credits._charge_due($1, $2)", at, batch_size
    )
    assert result is not None
    return result


async def subscription(admin: Connection, user_id: str) -> asyncpg.Record:
    """A user's row in credits.sync_subscriptions."""
    row = await admin.fetchrow(
        "SELECT * FROM credits.sync_subscriptions WHERE user_id = $1", user_id
    )
    assert row is not None
    return row


async def make_package(
    admin: Connection, credits: int = 1000, price_euro_cents: int = 900, *, active: bool = True
) -> UUID:
    """Offer a package."""
    package: UUID = await admin.fetchval(
        """
        INSERT INTO credits.packages (id, name, credits, price_euro_cents, active)
        VALUES (gen_random_uuid(), 'Package', $1, $2, $3) RETURNING id
        """,
        credits,
        price_euro_cents,
        active,
    )
    return package


async def last_run(admin: Connection, job: str) -> asyncpg.Record:
    """The newest row of a job in credits.job_runs."""
    row = await admin.fetchrow(
        "SELECT * FROM credits.job_runs WHERE job = $1 ORDER BY started_at DESC LIMIT 1", job
    )
    assert row is not None
    return row
