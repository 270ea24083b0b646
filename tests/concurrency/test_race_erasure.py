"""Erasing a user while something of his goes on: in named steps, and with everybody at once."""

import asyncio
import random
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.concurrency.test_race_steps import in_turn, raised
from tests.concurrency.test_random_operations import (
    CALLERS,
    JOB_OPERATIONS,
    JOBS,
    NEW_USERS,
    OPERATIONS,
    USERS,
    Caller,
    World,
    again,
    seeds,
)
from tests.support.calls import buy, call, grant, make_package, refund_object, start_buying
from tests.support.databases import Clone, Connection
from tests.support.history import Told, require_paid
from tests.support.races import (
    blocked,
    connections,
    make_due,
    require_sound,
    subscribe,
    superusers,
)

ERASE = "SELECT * FROM credits.erase_user($1)"
USE = "SELECT * FROM credits.use_credits($1, $2, 'chat', 'a debit')"
GRANT = "SELECT * FROM credits.grant_credits($1, $2, 'test', $3)"
GRANT_AS_ADMIN = "SELECT * FROM credits.grant_as_admin($1, $2, 'why', $3)"
REDEEM = "SELECT * FROM gifts.redeem_gift($1, $2)"
CANCEL = "SELECT * FROM gifts.cancel_gift($1, $2)"
COMMIT = "SELECT * FROM credits.commit_reservation($1)"
CHARGE = "SELECT * FROM credits.charge_due_subscriptions()"
APPLY = "SELECT * FROM credits.apply_stripe_event($1, $2, now(), $3)"


async def pseudonym(admin: Connection) -> str:
    """Of the one user who was erased."""
    name: str = await admin.fetchval("SELECT user_id FROM credits.erasures")
    return name


async def mentions(admin: Connection, user_id: str) -> list[str]:
    """The tables in which a user still stands, in whatever column."""
    tables = await admin.fetch(
        "SELECT c.oid::regclass::text AS name FROM pg_class AS c"
        " WHERE c.relnamespace IN ('credits'::regnamespace, 'gifts'::regnamespace)"
        " AND c.relkind IN ('r', 'p')"
    )
    return [
        row["name"]
        for row in tables
        if await admin.fetchval(
            f"SELECT count(*) FROM {row['name']} AS t WHERE strpos(t::text, $1) > 0", user_id
        )
    ]


async def test_a_debit_that_waits_finds_a_user_never_seen(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    async with connections(database, 2) as (first, second):
        error = await raised(
            in_turn(
                admin, first, first.fetchrow(ERASE, "ann"), second, second.fetchrow(USE, "ann", 7)
            )
        )
    assert error.sqlstate == "MC002"
    assert await mentions(admin, "ann") == []


async def test_erasing_waits_for_a_debit(database: Clone, admin: Connection) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    async with connections(database, 2) as (first, second):
        erased = await in_turn(
            admin, first, first.fetchrow(USE, "ann", 7), second, second.fetchrow(ERASE, "ann")
        )
    assert erased["forfeited_credits"] == 3
    assert await mentions(admin, "ann") == []


async def test_a_grant_that_waits_begins_a_new_chain(database: Clone, admin: Connection) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    async with connections(database, 2) as (first, second):
        granted = await in_turn(
            admin,
            first,
            first.fetchrow(ERASE, "ann"),
            second,
            second.fetchrow(GRANT, "ann", 5, "start"),
        )
    assert (granted["seq"], granted["replayed"], granted["available"]) == (1, False, 5)


async def test_the_second_of_two_erasures_finds_nothing(database: Clone, admin: Connection) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    await call(admin, "credits.reserve_credits", user_id="ann", amount=3, reason="chat")
    await call(admin, "gifts.create_gift", user_id="ann", credits=2)
    await buy(admin, "ann", "pi_1")
    async with connections(database, 2) as (first, second):
        again_ = await in_turn(
            admin, first, first.fetchrow(ERASE, "ann"), second, second.fetchrow(ERASE, "ann")
        )
    assert tuple(again_.values()) == (0, 0, 0, 0, None)
    row = await admin.fetchrow("SELECT * FROM credits.erasures")
    assert row is not None
    assert row["forfeited_credits"] == 1010


async def test_the_same_call_twice_is_one_erasure(database: Clone, admin: Connection) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    id_ = uuid4()
    one = "SELECT * FROM credits.erase_user($1, $2)"
    async with connections(database, 2) as (first, second):
        again_ = await in_turn(
            admin, first, first.fetchrow(one, "ann", id_), second, second.fetchrow(one, "ann", id_)
        )
    assert again_["forfeited_credits"] == 10


@pytest.mark.parametrize("order", ["erase first", "redeem first"])
async def test_a_code_of_his_is_redeemed_or_comes_back(
    database: Clone, admin: Connection, order: str
) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    gift = await call(admin, "gifts.create_gift", user_id="ann", credits=8)
    async with connections(database, 2) as (first, second):
        if order == "erase first":
            redeemed = await in_turn(
                admin,
                first,
                first.fetchrow(ERASE, "ann"),
                second,
                second.fetchrow(REDEEM, gift["code"], "bob"),
            )
            assert redeemed["outcome"] == "failed_cancelled"
            expected = 10
        else:
            await in_turn(
                admin,
                first,
                first.fetchrow(REDEEM, gift["code"], "bob"),
                second,
                second.fetchrow(ERASE, "ann"),
            )
            expected = 2
    row = await admin.fetchrow("SELECT * FROM credits.erasures")
    assert row is not None
    assert row["forfeited_credits"] == expected
    assert await mentions(admin, "ann") == []


async def test_a_cancellation_that_waits_finds_no_gift_of_his(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    gift = await call(admin, "gifts.create_gift", user_id="ann", credits=8)
    async with connections(database, 2) as (first, second):
        error = await raised(
            in_turn(
                admin,
                first,
                first.fetchrow(ERASE, "ann"),
                second,
                second.fetchrow(CANCEL, "ann", gift["id"]),
            )
        )
    assert error.sqlstate == "MC004"
    assert await mentions(admin, "ann") == []


async def test_a_gift_that_was_made_meanwhile_comes_back_as_well(
    database: Clone, admin: Connection
) -> None:
    """Whoever holds the balance for which erasing waits makes a gift that was not there before."""
    await admin.execute(GRANT, "ann", 10, "start")
    async with connections(database, 2) as (first, second):
        erased = await in_turn(
            admin,
            first,
            first.fetchrow("SELECT * FROM gifts.create_gift('ann', 4)"),
            second,
            second.fetchrow(ERASE, "ann"),
        )
    assert (erased["forfeited_credits"], erased["cancelled_gifts"]) == (10, 1)
    assert await mentions(admin, "ann") == []


@pytest.mark.parametrize(
    ("comes", "table"),
    [
        ("SELECT * FROM gifts.create_gift('ann', 4)", "gifts.gift_codes"),
        (
            """
            INSERT INTO credits.stripe_events (id, type, payload, created_at, received_at)
            VALUES (
                'evt_1', 'payment_intent.processing',
                '{"data": {"object": {"metadata": {"userId": "ann"}}}}', now(), now()
            )
            """,
            "credits.stripe_events",
        ),
        (
            "SELECT * FROM credits.start_purchase('ann', (SELECT id FROM credits.packages))",
            "credits.purchases",
        ),
        (
            "SELECT * FROM credits.reserve_credits('ann', 1, 'late')",
            "credits.reservations WHERE reason = 'late'",
        ),
    ],
    ids=["gift", "event", "purchase", "hold"],
)
async def test_what_came_late_and_is_worked_on_lets_erasing_begin_again(
    database: Clone, admin: Connection, comes: str, table: str
) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    await call(admin, "credits.reserve_credits", user_id="ann", amount=3, reason="chat")
    await admin.execute("DELETE FROM credits.packages")
    await make_package(admin, 100, 90)
    async with superusers(database, 3) as (first, second, third):
        await first.execute("BEGIN; SELECT 1 FROM credits.reservations FOR UPDATE")
        erasing = asyncio.ensure_future(second.fetchrow(ERASE, "ann"))
        # It has looked at gifts and events, and waits for the hold, behind them.
        await blocked(admin, second)
        await admin.execute(comes)
        await third.execute(f"BEGIN; SELECT 1 FROM {table} FOR UPDATE")
        await first.execute("COMMIT")
        error = await raised(erasing)
        assert error.sqlstate == "55P03"
        assert await admin.fetchval("SELECT count(*) FROM credits.erasures") == 0
        await third.execute("COMMIT")
        erased = await second.fetchrow(ERASE, "ann")
    assert erased is not None
    assert erased["forfeited_credits"] == 10


async def test_a_commit_that_waits_finds_no_hold(database: Clone, admin: Connection) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    hold = await call(admin, "credits.reserve_credits", user_id="ann", amount=3, reason="chat")
    async with connections(database, 2) as (first, second):
        error = await raised(
            in_turn(
                admin,
                first,
                first.fetchrow(ERASE, "ann"),
                second,
                second.fetchrow(COMMIT, hold["reservation_id"]),
            )
        )
    assert error.sqlstate == "MC004"
    assert await mentions(admin, "ann") == []


async def test_erasing_waits_for_a_commit(database: Clone, admin: Connection) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    hold = await call(admin, "credits.reserve_credits", user_id="ann", amount=3, reason="chat")
    async with connections(database, 2) as (first, second):
        erased = await in_turn(
            admin,
            first,
            first.fetchrow(COMMIT, hold["reservation_id"]),
            second,
            second.fetchrow(ERASE, "ann"),
        )
    assert (erased["forfeited_credits"], erased["released_holds"]) == (7, 0)


def succeeded(purchase: asyncpg.Record) -> dict[str, Any]:
    """Stripe's word that it was paid, with all that it knows of the buyer."""
    return {
        "data": {
            "object": {
                "id": purchase["stripe_payment_intent_id"],
                "amount_received": purchase["price_euro_cents"],
                "currency": "eur",
                "receipt_email": "ann@example.org",
                "metadata": {"purchaseId": str(purchase["id"]), "userId": "ann"},
            }
        }
    }


async def test_an_event_that_waits_is_applied_to_the_pseudonym(
    database: Clone, admin: Connection
) -> None:
    purchase = await start_buying(admin, "ann", "pi_1")
    async with connections(database, 2) as (first, second):
        applied = await in_turn(
            admin,
            first,
            first.fetchrow(ERASE, "ann"),
            second,
            second.fetchrow(APPLY, "evt_1", "payment_intent.succeeded", succeeded(purchase)),
        )
    assert (applied["state"], applied["outcome"]) == ("applied", "purchase completed")
    balance = await call(admin, "credits.get_balance", user_id=await pseudonym(admin))
    assert balance["available"] == 1000
    assert await mentions(admin, "ann") == []


async def test_erasing_waits_for_an_event_and_then_clears_it(
    database: Clone, admin: Connection
) -> None:
    purchase = await start_buying(admin, "ann", "pi_1")
    async with connections(database, 2) as (first, second):
        erased = await in_turn(
            admin,
            first,
            first.fetchrow(APPLY, "evt_1", "payment_intent.succeeded", succeeded(purchase)),
            second,
            second.fetchrow(ERASE, "ann"),
        )
    assert erased["forfeited_credits"] == 1000
    assert await mentions(admin, "ann") == []


async def test_a_refund_list_that_waits_takes_from_the_pseudonym(
    database: Clone, admin: Connection
) -> None:
    await buy(admin, "ann", "pi_1")
    charge = {"data": {"object": {"id": "ch_1", "payment_intent": "pi_1", "metadata": {}}}}
    await admin.fetchrow(APPLY, "evt_1", "charge.refunded", charge)
    refunds = "SELECT * FROM credits.apply_stripe_refunds('evt_1', $1)"
    async with connections(database, 2) as (first, second):
        applied = await in_turn(
            admin,
            first,
            first.fetchrow(ERASE, "ann"),
            second,
            second.fetchrow(refunds, [refund_object("re_1", "pi_1", 900)]),
        )
    assert applied["state"] == "applied"
    balance = await call(admin, "credits.get_balance", user_id=await pseudonym(admin))
    assert balance["available"] == -1000


@pytest.mark.parametrize("order", ["erase first", "charge first"])
async def test_a_charge_run_passes_over_him_or_comes_before(
    database: Clone, admin: Connection, order: str
) -> None:
    await subscribe(admin, ["ann", "bob"], 40)
    await make_due(admin, ["ann", "bob"])
    async with connections(database, 2) as (first, second):
        if order == "erase first":
            await first.execute("BEGIN")
            await first.fetchrow(ERASE, "ann")
            run = await second.fetchrow(CHARGE)
            await first.execute("COMMIT")
            expected = (1, 40)
        else:
            await first.execute("BEGIN")
            run = await first.fetchrow(CHARGE)
            erasing = asyncio.ensure_future(second.fetchrow(ERASE, "ann"))
            await blocked(admin, second)
            await first.execute("COMMIT")
            await erasing
            expected = (2, 10)
    row = await admin.fetchrow("SELECT * FROM credits.erasures")
    assert run is not None
    assert row is not None
    assert (run["charged"], row["forfeited_credits"]) == expected
    assert await mentions(admin, "ann") == []


async def test_expiry_passes_over_what_is_being_erased(database: Clone, admin: Connection) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    await call(admin, "gifts.create_gift", user_id="ann", credits=4)
    await call(admin, "credits.reserve_credits", user_id="ann", amount=3, reason="chat")
    await admin.execute("UPDATE gifts.gift_codes SET expires_at = now()")
    await admin.execute("UPDATE credits.reservations SET expires_at = now()")
    async with connections(database, 1) as (first,):
        await first.execute("BEGIN")
        await first.fetchrow(ERASE, "ann")
        for function in ("gifts.expire_gifts", "credits.expire_reservations"):
            assert (await call(admin, function))["done"] == 0
        await first.execute("COMMIT")
    row = await admin.fetchrow("SELECT * FROM credits.erasures")
    assert row is not None
    assert row["forfeited_credits"] == 10


@pytest.mark.parametrize("call_", ["activate_sync($1)", "gift_sync($1)"])
async def test_cloud_sync_that_waits_is_that_of_a_new_user(
    database: Clone, admin: Connection, call_: str
) -> None:
    await subscribe(admin, ["ann"], 40)
    if call_.startswith("activate"):
        await admin.execute("SELECT * FROM credits.deactivate_sync('ann', gen_random_uuid())")
    async with connections(database, 2) as (first, second):
        waiting = in_turn(
            admin,
            first,
            first.fetchrow(ERASE, "ann"),
            second,
            second.fetchrow(f"SELECT * FROM credits.{call_}", "ann"),
        )
        if call_.startswith("activate"):
            # What was paid for is gone with him.
            assert (await raised(waiting)).sqlstate == "MC002"
            assert await mentions(admin, "ann") == []
        else:
            assert (await waiting)["gifted"] is True


async def test_the_first_subscription_of_a_user_who_is_erased(
    database: Clone, admin: Connection
) -> None:
    """It is not there to be locked yet, and its foreign key is checked at the end."""
    await admin.execute(GRANT, "ann", 10, "start")
    async with connections(database, 2) as (first, second):
        gifted = await in_turn(
            admin,
            first,
            first.fetchrow(ERASE, "ann"),
            second,
            second.fetchrow("SELECT * FROM credits.gift_sync($1)", "ann"),
        )
    assert gifted["gifted"] is True
    (row,) = await admin.fetch("SELECT user_id FROM credits.sync_subscriptions")
    assert row["user_id"] == "ann"


async def test_two_administrators_who_did_something_to_each_other(
    database: Clone, admin: Connection
) -> None:
    """Both are erased at once, and each has rows of the other's."""
    for user, who in (("ann", "bob"), ("bob", "ann"), ("ann", "bob")):
        await admin.fetchrow(GRANT_AS_ADMIN, user, 5, who)
    async with connections(database, 2) as (first, second):
        erased = await in_turn(
            admin, first, first.fetchrow(ERASE, "ann"), second, second.fetchrow(ERASE, "bob")
        )
    assert erased["forfeited_credits"] == 5
    for user in ("ann", "bob"):
        assert await mentions(admin, user) == []
    rows = await admin.fetch("SELECT user_id, admin_id FROM credits.admin_actions")
    names = {row["user_id"] for row in await admin.fetch("SELECT user_id FROM credits.erasures")}
    assert all({row["user_id"], row["admin_id"]} == names for row in rows)
    await require_sound(admin)


@pytest.mark.parametrize("order", ["erase first", "grant first"])
async def test_what_an_administrator_grants_meanwhile(
    database: Clone, admin: Connection, order: str
) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    async with connections(database, 2) as (first, second):
        erasing = (first if order == "erase first" else second).fetchrow(ERASE, "ann")
        granting = (second if order == "erase first" else first).fetchrow(
            GRANT_AS_ADMIN, "ann", 5, "root"
        )
        both = (erasing, granting) if order == "erase first" else (granting, erasing)
        await in_turn(admin, first, both[0], second, both[1])
    row = await admin.fetchrow("SELECT * FROM credits.erasures")
    (action,) = await admin.fetch("SELECT user_id, reason FROM credits.admin_actions")
    assert row is not None
    if order == "erase first":
        assert (row["forfeited_credits"], *action) == (10, "ann", "why")
    else:
        assert (row["forfeited_credits"], *action) == (15, row["user_id"], "erased")
    await require_sound(admin)


# Everybody at once

ERASER = "credits.erase_user"
FINE = {"55P03", *(f"MC{number:03}" for number in range(1, 14))}
"""What a caller may be told here. No deadlock, no broken key, no row that should be there."""


class Tolerant(Caller):
    """A caller who takes any refusal of the project's own: whom he knew may be gone."""

    def may_refuse(self, function: str, sqlstate: str | None) -> bool:
        return sqlstate in FINE

    async def repeat(self, function: str, arguments: dict[str, Any]) -> asyncpg.Record | None:
        told = self.world.history.told
        while True:
            try:
                row = await self.send(function, arguments)
            except asyncpg.PostgresError as error:
                if error.sqlstate == "55P03":
                    continue
                if not self.may_refuse(function, error.sqlstate):
                    raise AssertionError(f"{function} {arguments}: {error.sqlstate}") from error
                told.append(Told(function, arguments, None, error.sqlstate))
                return None
            told.append(Told(function, arguments, row))
            return row


async def erase_somebody(caller: Caller) -> None:
    """One of the users goes, and may come back with the next call."""
    await caller.repeat(ERASER, {"user_id": caller.user(), "id": uuid4()})


async def act_as_admin(caller: Caller) -> None:
    """One user does something to another, or to himself, as an administrator."""
    arguments = {
        "user_id": caller.user(),
        "admin_id": caller.user(),
        "admin_name": "Somebody",
        "reason": "why",
    }
    if caller.dice.random() < 0.5:
        await caller.repeat("credits.gift_sync", arguments)
    else:
        more = {"amount": caller.amount(), "id": uuid4(), "idempotency_key": f"{uuid4()}"}
        await caller.repeat("credits.grant_as_admin", {**arguments, **more})


async def find_nothing(caller: Caller) -> None:
    """In the middle of it all the money rules hold."""
    await require_sound(caller.connection)


async def replay(admin: Connection, world: World) -> None:
    """What Stripe said and could not be applied is tried again, when every payment is known."""
    for purchase in world.purchases:
        await admin.execute(
            "UPDATE credits.purchases SET stripe_payment_intent_id = $2"
            " WHERE id = $1 AND stripe_payment_intent_id IS NULL",
            purchase.id,
            purchase.payment,
        )
    waiting = await admin.fetch(
        "SELECT id FROM credits.stripe_events WHERE next_attempt_at IS NOT NULL ORDER BY id"
    )
    for event in waiting:
        await call(admin, "credits.replay_stripe_event", id=event["id"])


@pytest.mark.parametrize("seed", seeds())
async def test_erasing_among_everything_else_loses_nothing(
    database: Clone, admin: Connection, seed: int
) -> None:
    world = World([await make_package(admin, 60, 90), await make_package(admin, 100, 100)])
    for user in USERS:
        await grant(admin, user, 80)
    # A call that is repeated by its id after its user has gone is not a call that anybody makes.
    operations = [(weight, made) for weight, made in OPERATIONS if made is not again]
    operations += [(5, erase_somebody), (5, act_as_admin)]
    async with connections(database, CALLERS) as logins, superusers(database, JOBS) as owners:
        tables = [(login, operations) for login in logins]
        tables += [(owner, [*JOB_OPERATIONS, (1, find_nothing)]) for owner in owners]
        async with asyncio.TaskGroup() as group:
            for number, (connection, table) in enumerate(tables):
                caller = Tolerant(connection, world, random.Random(f"{seed}/{number}"))
                group.create_task(caller.run(table, 50))
    done = [row for _, row in world.history.done(ERASER)]
    assert sum(row["erased_at"] is not None for row in done) > 3

    await replay(admin, world)
    await require_sound(admin)
    await require_paid(admin, world.history)
    for user in [*USERS, *NEW_USERS]:
        await call(admin, ERASER, user_id=user)
    await require_sound(admin)
    for user in [*USERS, *NEW_USERS]:
        at = [f'"{user}"', f"({user},", f",{user},", f"{user}@"]
        left = [(text, await mentions(admin, text)) for text in at]
        assert [one for one in left if one[1]] == []
    # Nobody was told of credits that are still there: all that is left is the pseudonyms' own.
    balances = await admin.fetch("SELECT user_id FROM credits.balances")
    assert all(row["user_id"].startswith("erased-") for row in balances)
