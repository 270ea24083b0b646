"""Every operation from sixteen connections at random, on few users, by the SQL functions.

Afterwards nothing is lost and nothing is doubled: what callers were told is in the ledger once,
what was refused is not, one key has made one move, and Stripe's words have moved what they say,
whatever their order. No caller sees a deadlock, or any error that is not the project's own.

- `MANA_TEST_STEPS`: how many steps each connection takes (60);
- `MANA_TEST_SEEDS`: which sequences, as numbers and ranges such as `7,20-29` (`0-2`);
- `MANA_TEST_PATH`: whether calls go in batches (as it comes, so that both ways meet).

A long run: `MANA_TEST_STEPS=500 MANA_TEST_SEEDS=0-99`.

The seed stands in the test's name. It decides what each connection asks for; in which order the
database answers them it cannot decide, so that a failure may need a few runs to come again.

To add an operation, write it below the others with its weight; what it may refuse stands in
REFUSALS, and what must be kept of it is a matter of tests/support/history.py.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.support.batches import Call, run_batch
from tests.support.calls import (
    BATCH_OPERATIONS,
    call,
    call_in_batch,
    dispute_object,
    make_package,
    refund_object,
)
from tests.support.databases import Clone, Connection
from tests.support.history import MOVES, History, Told, require_kept, require_paid
from tests.support.paths import PATH
from tests.support.races import connections, make_due, require_sound, superusers

Thing = TypeVar("Thing")

CALLERS: Final = 13
JOBS: Final = 3
USERS: Final = ["ann", "bob", "cleo", "dan"]
NEW_USERS: Final = ["eve", "fay"]
FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
INTERVALS: Final = ["monthly", "quarterly", "yearly"]

REFUSALS: Final = {
    "credits.use_credits": {"MC002", "MC003"},
    "credits.refund_credits": {"MC001", "MC003"},
    "credits.reserve_credits": {"MC002", "MC003"},
    "credits.commit_reservation": {"MC003", "MC013"},
    "credits.refund_reservation": {"MC003", "MC013"},
    "credits.activate_sync": {"MC002", "MC003", "MC008", "MC009"},
    "credits.deactivate_sync": {"MC010", "MC011"},
    "credits.change_sync_interval": {"MC010", "MC011"},
    "credits.revoke_sync_gift": {"MC012"},
    "credits.start_purchase": {"MC003"},
    "gifts.create_gift": {"MC002", "MC003"},
    "gifts.redeem_gift": {"MC003"},
    "gifts.cancel_gift": {"MC003", "MC005", "MC006"},
}
"""With what each function may refuse here; those that are not named never do."""

BEGIN_AGAIN: Final = {"credits.apply_stripe_event", "credits.follow_payment"}
"""May find a gift taken that they need, when they hold the balance; whoever called begins again."""


def seeds() -> list[int]:
    """The seeds that MANA_TEST_SEEDS names."""
    seeds: list[int] = []
    for part in os.environ.get("MANA_TEST_SEEDS", "0-2").split(","):
        first, _, last = part.partition("-")
        seeds.extend(range(int(first), int(last or first) + 1))
    return seeds


@dataclass(frozen=True, slots=True)
class Purchase:
    """A purchase that somebody has begun; its payment's id may not be written down yet."""

    user: str
    id: UUID
    cents: int

    @property
    def payment(self) -> str:
        """The PaymentIntent."""
        return f"pi_{self.id}"


@dataclass
class World:
    """What the callers know of each other's doings."""

    packages: list[UUID]
    history: History = field(default_factory=History)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """The calls, as soon as they are on their way: some are repeated before they are answered."""
    debits: list[tuple[str, UUID, int]] = field(default_factory=list)
    holds: list[tuple[UUID, int]] = field(default_factory=list)
    gifts: list[tuple[str, UUID, str]] = field(default_factory=list)
    purchases: list[Purchase] = field(default_factory=list)

    def learn(self, function: str, arguments: dict[str, Any], row: asyncpg.Record) -> None:
        """What was done can be undone by anybody."""
        if function == "credits.use_credits":
            self.debits.append((arguments["user_id"], row["id"], arguments["amount"]))
        elif function == "credits.reserve_credits":
            self.holds.append((row["reservation_id"], row["amount"]))


@dataclass
class Caller:
    """One connection, with dice of its own."""

    connection: Connection
    world: World
    dice: random.Random
    collected: list[Call] | None = None
    """The calls of a batch, while one is collected."""

    async def run(self, operations: "Operations", steps: int) -> None:
        """Take a number of random steps."""
        weights = [weight for weight, _ in operations]
        for _ in range(steps):
            ((_, operation),) = self.dice.choices(operations, weights)
            await operation(self)

    async def call(self, function: str, **arguments: Any) -> asyncpg.Record | None:
        """Call a function, which others may repeat, and remember what was told; None: refused."""
        self.world.asked.append((function, arguments))
        if self.collected is not None:
            self.collected.append((function, arguments))
            return None
        row = await self.repeat(function, arguments)
        if row is not None:
            self.world.learn(function, arguments, row)
        return row

    async def together(self, calls: list[Call]) -> None:
        """Make several calls in a batch, or one after the other where there are none."""
        outcomes = (
            await run_batch(self.connection, *calls) if PATH != "alone" else [None] * len(calls)
        )
        told = self.world.history.told
        for (function, arguments), outcome in zip(calls, outcomes, strict=True):
            row: asyncpg.Record | None = None
            if outcome is None or outcome.alone:
                row = await self.repeat(function, arguments)
            elif outcome.refused is not None:
                sqlstate = outcome.refused.sqlstate
                assert self.may_refuse(function, sqlstate), f"{function} {arguments}: {sqlstate}"
                told.append(Told(function, arguments, None, sqlstate))
            else:
                row = outcome.row
                told.append(Told(function, arguments, row))
            if row is not None:
                self.world.learn(function, arguments, row)

    def may_refuse(self, function: str, sqlstate: str | None) -> bool:
        """Whether a function may refuse a call so."""
        return sqlstate in REFUSALS.get(function, ())

    async def send(self, function: str, arguments: dict[str, Any]) -> asyncpg.Record:
        """Call a function, by itself or as a batch of one."""
        if PATH == "both" and function in BATCH_OPERATIONS and self.dice.random() < 0.5:
            return await call_in_batch(self.connection, function, **arguments)
        return await call(self.connection, function, **arguments)

    async def repeat(self, function: str, arguments: dict[str, Any]) -> asyncpg.Record | None:
        """Call a function, for the first time or again."""
        told = self.world.history.told
        while True:
            try:
                row = await self.send(function, arguments)
            except asyncpg.PostgresError as error:
                if error.sqlstate == "55P03" and function in BEGIN_AGAIN:
                    continue
                if not self.may_refuse(function, error.sqlstate):
                    raise AssertionError(f"{function} {arguments}: {error.sqlstate}") from error
                told.append(Told(function, arguments, None, error.sqlstate))
                return None
            told.append(Told(function, arguments, row))
            return row

    def user(self) -> str:
        """Mostly the one with whom everybody is busy just now."""
        if self.dice.random() < 0.5:
            return USERS[len(self.world.asked) // 40 % len(USERS)]
        return self.dice.choice(USERS * 2 + NEW_USERS)

    def amount(self) -> int:
        """Some credits; many debits are too much for many balances."""
        return self.dice.choice([1, 2, 5, 10, 40])

    def key(self) -> str | None:
        """Now and then an idempotency key, which may have been used for anything."""
        return f"key-{self.dice.randrange(60)}" if self.dice.random() < 0.4 else None

    def recent(self, things: list[Thing]) -> Thing | None:
        """One of the latest, of which many have not ended yet."""
        return self.dice.choice(things[-12:]) if things else None


Operation: TypeAlias = Callable[[Caller], Awaitable[None]]
Operations: TypeAlias = list[tuple[int, Operation]]

OPERATIONS: Final[Operations] = []
"""What the service's login does, with how often."""
JOB_OPERATIONS: Final[Operations] = []
"""What the jobs do, and time."""


def operation(weight: int, table: Operations = OPERATIONS) -> Callable[[Operation], Operation]:
    """Add an operation to a table."""

    def add(function: Operation) -> Operation:
        table.append((weight, function))
        return function

    return add


@operation(12)
async def again(caller: Caller) -> None:
    """Repeat a call as a client does, with its key, or as the service does, with its id."""
    asked = caller.recent(caller.world.asked)
    if asked is None:
        return
    function, arguments = asked
    # A client's call is a new one, with an id of its own. An activation is made twice with one id
    # only where nothing can come in between.
    as_client = arguments.get("idempotency_key") is not None and caller.dice.random() < 0.6
    if function in MOVES and (as_client or function == "credits.activate_sync"):
        arguments = {**arguments, "id": uuid4()}
    await caller.repeat(function, arguments)


@operation(8)
async def debit(caller: Caller) -> None:
    """A user's own debit, or a service's."""
    await caller.call(
        "credits.use_credits",
        user_id=caller.user(),
        amount=caller.amount(),
        app_id=caller.dice.choice(["chat", "picture"]),
        description="a debit",
        idempotency_key=caller.key(),
        id=uuid4(),
        origin=caller.dice.choice(["user", "service"]),
    )


@operation(3)
async def refund(caller: Caller) -> None:
    """A refund that names no debit."""
    await caller.call(
        "credits.refund_credits",
        user_id=caller.user(),
        amount=caller.amount(),
        description="a refund",
        idempotency_key=caller.key(),
        id=uuid4(),
    )


@operation(4)
async def refund_debit(caller: Caller) -> None:
    """A refund of a debit, of which there may be less left."""
    debit = caller.recent(caller.world.debits)
    if debit is None:
        return
    user, id_, amount = debit
    await caller.call(
        "credits.refund_credits",
        user_id=user,
        amount=caller.dice.randint(1, amount),
        description="a refund",
        idempotency_key=caller.key(),
        transaction_id=id_,
        id=uuid4(),
    )


@operation(4)
async def grant(caller: Caller) -> None:
    """A reward, for which many ask at once."""
    await caller.call(
        "credits.grant_credits",
        user_id=caller.user(),
        amount=caller.amount(),
        reason="quest",
        reference_id=f"quest-{caller.dice.randrange(40)}",
        id=uuid4(),
    )


@operation(6)
async def reserve(caller: Caller) -> None:
    """A hold."""
    await caller.call(
        "credits.reserve_credits",
        user_id=caller.user(),
        amount=caller.amount(),
        reason="chat:held",
        idempotency_key=caller.key(),
        id=uuid4(),
    )


@operation(5)
async def commit(caller: Caller) -> None:
    """The whole hold, or a part of it."""
    hold = caller.recent(caller.world.holds)
    if hold is None:
        return
    id_, amount = hold
    await caller.call(
        "credits.commit_reservation",
        reservation_id=id_,
        amount=caller.dice.choice([None, caller.dice.randint(1, amount)]),
        idempotency_key=caller.key(),
        id=uuid4(),
    )


@operation(3)
async def refund_reservation(caller: Caller) -> None:
    """A hold goes back."""
    hold = caller.recent(caller.world.holds)
    if hold is not None:
        await caller.call(
            "credits.refund_reservation", reservation_id=hold[0], idempotency_key=caller.key()
        )


@operation(9)
async def several(caller: Caller) -> None:
    """Some of these at once, in one batch."""
    caller.collected = []
    kinds = [debit, debit, refund, refund_debit, grant, reserve, commit, refund_reservation]
    for kind in caller.dice.choices(kinds, k=caller.dice.randint(2, 8)):
        await kind(caller)
    calls, caller.collected = caller.collected, None
    if calls:
        await caller.together(calls)


@operation(7)
async def create_gift(caller: Caller) -> None:
    """A gift for anybody, or for one of the users, under an address that changes."""
    user = caller.user()
    target = f"{caller.user()}@example.org" if caller.dice.random() < 0.5 else None
    row = await caller.call(
        "gifts.create_gift",
        user_id=user,
        credits=caller.amount(),
        type="simple" if target is None else "personalized",
        target_email=target,
        idempotency_key=caller.key(),
        email=f"{user}@example.{caller.dice.choice(['org', 'net'])}",
        id=uuid4(),
    )
    if row is not None:
        caller.world.gifts.append((user, row["id"], row["code"]))


@operation(6)
async def redeem_gift(caller: Caller) -> None:
    """By anybody, also for whom it is not meant."""
    gift = caller.recent(caller.world.gifts)
    if gift is None:
        return
    user = caller.user()
    await caller.call(
        "gifts.redeem_gift",
        code=gift[2],
        user_id=user,
        email=f"{user}@example.org",
        email_verified=True,
        id=uuid4(),
        idempotency_key=caller.key(),
    )


@operation(2)
async def cancel_gift(caller: Caller) -> None:
    """By its creator."""
    gift = caller.recent(caller.world.gifts)
    if gift is not None:
        await caller.call(
            "gifts.cancel_gift", user_id=gift[0], gift_id=gift[1], idempotency_key=caller.key()
        )


@operation(4)
async def redeem_pending_gifts(caller: Caller) -> None:
    """Whoever registers, also with somebody else's address."""
    await caller.call(
        "gifts.redeem_pending_gifts", user_id=caller.user(), email=f"{caller.user()}@example.org"
    )


@operation(6)
async def activate_sync(caller: Caller) -> None:
    """Cloud Sync on."""
    user = caller.user()
    await caller.call(
        "credits.activate_sync",
        user_id=user,
        interval=caller.dice.choice(INTERVALS),
        email=f"{user}@example.{caller.dice.choice(['org', 'net'])}",
        id=uuid4(),
        idempotency_key=caller.key(),
    )


@operation(3)
async def deactivate_sync(caller: Caller) -> None:
    """Cloud Sync off."""
    await caller.call("credits.deactivate_sync", user_id=caller.user(), id=uuid4())


@operation(1)
async def change_sync_interval(caller: Caller) -> None:
    """Another interval from the next charge on."""
    await caller.call(
        "credits.change_sync_interval",
        user_id=caller.user(),
        interval=caller.dice.choice(INTERVALS),
    )


@operation(1)
async def gift_sync(caller: Caller) -> None:
    """Cloud Sync without charges."""
    await caller.call("credits.gift_sync", user_id=caller.user())


@operation(2)
async def revoke_sync_gift(caller: Caller) -> None:
    """And its end."""
    await caller.call("credits.revoke_sync_gift", user_id=caller.user(), id=uuid4())


@operation(2)
async def start_purchase(caller: Caller) -> None:
    """A purchase begins; what Stripe says of it may come before its payment's id is known."""
    user = caller.user()
    row = await caller.call(
        "credits.start_purchase",
        user_id=user,
        package_id=caller.dice.choice(caller.world.packages),
        idempotency_key=caller.key(),
        email=f"{user}@example.{caller.dice.choice(['org', 'net'])}",
        id=uuid4(),
    )
    if row is not None:
        purchase = Purchase(user, row["id"], row["price_euro_cents"])
        if purchase not in caller.world.purchases:
            caller.world.purchases.append(purchase)


@operation(3)
async def record_payment_intent(caller: Caller) -> None:
    """Stripe has answered with the payment's id."""
    purchase = caller.recent(caller.world.purchases)
    if purchase is not None:
        await caller.call(
            "credits.record_payment_intent",
            user_id=purchase.user,
            purchase_id=purchase.id,
            stripe_payment_intent_id=purchase.payment,
            stripe_customer_id=f"cus_{purchase.user}",
        )


@operation(1)
async def follow_payment(caller: Caller) -> None:
    """Stripe was asked about a purchase."""
    purchase = caller.recent(caller.world.purchases)
    if purchase is not None:
        await caller.call(
            "credits.follow_payment",
            user_id=purchase.user,
            purchase_id=purchase.id,
            stripe_payment_intent_id=purchase.payment,
            stripe_status=caller.dice.choice(["processing", "canceled", "succeeded"]),
            received_euro_cents=purchase.cents,
            currency="eur",
        )


async def hear(caller: Caller, type_: str, about: dict[str, Any]) -> None:
    """Stripe sends an event, late or in time; `again` sends it once more."""
    event = f"evt_{uuid4().hex}"
    row = await caller.call(
        "credits.apply_stripe_event",
        id=event,
        type=type_,
        created_at=datetime.now(UTC) - timedelta(seconds=caller.dice.randrange(600)),
        payload={"id": event, "type": type_, "data": {"object": about}},
    )
    assert row is not None


@operation(6)
async def hear_of_payment(caller: Caller) -> None:
    """Mostly that it was paid; now and then with a sum that is not the price."""
    purchase = caller.recent(caller.world.purchases)
    if purchase is None:
        return
    ends = ["succeeded"] * 5 + ["payment_failed", "processing", "canceled"]
    about = {
        "object": "payment_intent",
        "id": purchase.payment,
        "amount_received": purchase.cents - (caller.dice.random() < 0.1),
        "currency": "eur",
        "metadata": {"purchaseId": str(purchase.id)},
    }
    await hear(caller, f"payment_intent.{caller.dice.choice(ends)}", about)


@operation(4)
async def hear_of_refund(caller: Caller) -> None:
    """One of three refunds of a purchase, which together are more than was paid."""
    purchase = caller.recent(caller.world.purchases)
    if purchase is None:
        return
    number = caller.dice.randrange(3)
    type_, status = caller.dice.choice(
        [
            ("refund.created", "pending"),
            ("refund.created", "succeeded"),
            ("refund.updated", "succeeded"),
            ("refund.updated", "canceled"),
            ("refund.failed", "failed"),
        ]
    )
    cents = purchase.cents * (number + 1) // 4
    about = refund_object(f"re_{purchase.id}_{number}", purchase.payment, cents, status)
    await hear(caller, type_, about)


@operation(3)
async def hear_of_dispute(caller: Caller) -> None:
    """One of two disputes over a purchase, the second over a part of it."""
    purchase = caller.recent(caller.world.purchases)
    if purchase is None:
        return
    number = caller.dice.randrange(2)
    type_, status = caller.dice.choice(
        [
            ("created", "warning_needs_response"),
            ("created", "needs_response"),
            ("funds_withdrawn", "needs_response"),
            ("funds_reinstated", "won"),
            ("closed", "won"),
            ("closed", "lost"),
            ("closed", "warning_closed"),
        ]
    )
    cents = purchase.cents // (2 * number + 1)
    about = dispute_object(f"dp_{purchase.id}_{number}", purchase.payment, cents, status)
    await hear(caller, f"charge.dispute.{type_}", about)


@operation(2)
async def look(caller: Caller) -> None:
    """What one has is never less than nothing, unless credits were taken back."""
    await caller.call("credits.get_balance", user_id=caller.user())


@operation(1)
async def init_balance(caller: Caller) -> None:
    """A user is made known, again and again."""
    await caller.call("credits.init_balance", user_id=caller.user())


@operation(4, JOB_OPERATIONS)
async def charge(caller: Caller) -> None:
    """A charge run; a balance that is held for longer than a second is left for later."""
    row = await caller.repeat("credits.charge_due_subscriptions", {"batch_size": 3})
    if row is not None and row["errors"] > 0:
        errors = await caller.connection.fetch(
            "SELECT last_error FROM credits.sync_subscriptions WHERE last_error NOT LIKE '55P03%'"
        )
        assert errors == []


async def expire(caller: Caller, function: str) -> None:
    """An expiry run: mostly now, and sometimes in a year, when everything has run out."""
    later = timedelta(days=400 if caller.dice.random() < 0.2 else 0)
    arguments = {"now": datetime.now(UTC) + later, "batch_size": 3, "after": FIRST, "after_key": ""}
    row = await caller.repeat(function, arguments)
    assert row is not None
    assert row["errors"] == 0


@operation(3, JOB_OPERATIONS)
async def expire_gifts(caller: Caller) -> None:
    """Gifts go back."""
    await expire(caller, "gifts._expire_gifts")


@operation(3, JOB_OPERATIONS)
async def expire_reservations(caller: Caller) -> None:
    """Holds go back."""
    await expire(caller, "credits._expire_reservations")


@operation(2, JOB_OPERATIONS)
async def announce_charges(caller: Caller) -> None:
    """Users are told of charges that are coming."""
    await caller.repeat("credits.announce_charges", {})


@operation(3, JOB_OPERATIONS)
async def let_charges_be_due(caller: Caller) -> None:
    """A month passes for one user, and some more."""
    await make_due(caller.connection, [caller.user()], caller.dice.randrange(1, 700))


@operation(2, JOB_OPERATIONS)
async def let_charges_be_near(caller: Caller) -> None:
    """A month is nearly over for one user."""
    await caller.connection.execute(
        "UPDATE credits.sync_subscriptions SET next_charge_at = now() + interval '1 day'"
        " WHERE user_id = $1 AND active AND next_charge_at > now() + interval '1 day'",
        caller.user(),
    )


@operation(3, JOB_OPERATIONS)
async def let_gifts_run_out(caller: Caller) -> None:
    """The time of a gift and of a hold passes."""
    gift, hold = caller.recent(caller.world.gifts), caller.recent(caller.world.holds)
    for table, thing in (
        ("gifts.gift_codes", gift and gift[1]),
        ("credits.reservations", hold and hold[0]),
    ):
        await caller.connection.execute(
            f"UPDATE {table} SET expires_at = now() - interval '1 second' WHERE id = $1", thing
        )


@operation(1, JOB_OPERATIONS)
async def check(caller: Caller) -> None:
    """In the middle of it all: moves under way are no damage."""
    await require_sound(caller.connection)


async def let_stripe_be_heard(admin: Connection, world: World) -> None:
    """Every payment's id becomes known, and what waited for it is tried again."""
    for purchase in world.purchases:
        await call(
            admin,
            "credits.record_payment_intent",
            user_id=purchase.user,
            purchase_id=purchase.id,
            stripe_payment_intent_id=purchase.payment,
            stripe_customer_id=f"cus_{purchase.user}",
        )
    waiting = await admin.fetch(
        "SELECT id FROM credits.stripe_events WHERE next_attempt_at IS NOT NULL ORDER BY id"
    )
    for event in waiting:
        await call(admin, "credits.replay_stripe_event", id=event["id"])
    failed = await admin.fetch("SELECT * FROM credits.stripe_events WHERE state <> 'applied'")
    for event in failed:
        # A payment of another sum, of which somebody has to take notice.
        assert event["state"] == "failed", event
        assert event["error"].startswith("MC001"), event


@pytest.mark.parametrize("seed", seeds())
async def test_sixteen_connections_lose_nothing_and_double_nothing(
    database: Clone, admin: Connection, seed: int
) -> None:
    steps = int(os.environ.get("MANA_TEST_STEPS", "60"))
    world = World([await make_package(admin, 60, 90), await make_package(admin, 100, 100)])
    first = Caller(admin, world, random.Random(f"{seed}"))
    for user in USERS:
        await first.call(
            "credits.grant_credits",
            user_id=user,
            amount=80,
            reason="start",
            reference_id="start",
            id=uuid4(),
        )
    async with connections(database, CALLERS) as logins, superusers(database, JOBS) as owners:
        tables = [(login, OPERATIONS) for login in logins]
        tables += [(owner, JOB_OPERATIONS) for owner in owners]
        async with asyncio.TaskGroup() as group:
            for number, (connection, operations) in enumerate(tables):
                caller = Caller(connection, world, random.Random(f"{seed}/{number}"))
                group.create_task(caller.run(operations, steps))
    await let_stripe_be_heard(admin, world)
    await require_sound(admin)
    await require_kept(admin, world.history)
    await require_paid(admin, world.history)
