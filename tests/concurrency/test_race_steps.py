"""Races in named steps: one connection holds its lock until the other is seen waiting for it."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.support.databases import Clone, Connection, detail
from tests.support.races import (
    blocked,
    connections,
    ledger,
    make_due,
    require_sound,
    subscribe,
    superusers,
)

GRANT = "SELECT * FROM credits.grant_credits($1, $2, 'test', $3)"
USE = "SELECT * FROM credits.use_credits($1, $2, 'chat', 'a debit', p_idempotency_key => $3)"
RESERVE = "SELECT * FROM credits.reserve_credits($1, $2, 'chat:held')"
COMMIT = "SELECT * FROM credits.commit_reservation($1)"
REFUND = "SELECT * FROM credits.refund_reservation($1)"
REFUND_DEBIT = "SELECT * FROM credits.refund_credits($1, $2, 'a refund', p_transaction_id => $3)"
GIVE = "SELECT * FROM gifts.create_gift($1, $2, p_email => $3)"
REDEEM = "SELECT * FROM gifts.redeem_gift($1, $2)"
CANCEL = "SELECT * FROM gifts.cancel_gift($1, $2)"
ACTIVATE = "SELECT * FROM credits.activate_sync($1, p_email => $2, p_id => gen_random_uuid())"
DEACTIVATE = "SELECT * FROM credits.deactivate_sync($1, gen_random_uuid())"
APPLY = (
    "SELECT * FROM credits.apply_stripe_event("
    "'evt_1', 'checkout.session.completed', now(), p_payload => $1)"
)
GIFT_SYNC = "SELECT * FROM credits.gift_sync($1)"
REVOKE_SYNC = "SELECT * FROM credits.revoke_sync_gift($1, gen_random_uuid())"
CHANGE = "SELECT * FROM credits.change_sync_interval($1, 'yearly')"
CHARGE = "SELECT * FROM credits.charge_due_subscriptions()"


async def in_turn(
    admin: Connection,
    first: Connection,
    one: Awaitable[Any],
    second: Connection,
    other: Awaitable[Any],
    *,
    end: str = "COMMIT",
) -> Any:
    """Let `one` happen, `other` wait for it, and the first transaction end; answers `other`."""
    await first.execute("BEGIN")
    await one
    waiting = asyncio.ensure_future(other)
    try:
        await blocked(admin, second, waiting)
        await first.execute(end)
        return await waiting
    finally:
        waiting.cancel()


async def raised(call: Awaitable[Any]) -> asyncpg.PostgresError:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await call
    return caught.value


async def test_a_second_debit_waits_and_then_sees_the_first(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    async with connections(database, 2) as (first, second):
        error = await raised(
            in_turn(
                admin,
                first,
                first.fetchrow(USE, "ann", 7, None),
                second,
                second.fetchrow(USE, "ann", 7, None),
            )
        )
    assert error.sqlstate == "MC002"
    assert detail(error) == {"required": 7, "available": 3}
    assert len(await ledger(admin, "ann", type="usage")) == 1


async def test_a_second_debit_takes_what_a_rolled_back_one_left(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    async with connections(database, 2) as (first, second):
        move = await in_turn(
            admin,
            first,
            first.fetchrow(USE, "ann", 7, None),
            second,
            second.fetchrow(USE, "ann", 7, None),
            end="ROLLBACK",
        )
    assert (move["seq"], move["available"]) == (2, 3)


async def test_a_debit_waits_for_a_hold_and_leaves_it_alone(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    async with connections(database, 2) as (first, second):
        error = await raised(
            in_turn(
                admin,
                first,
                first.fetchrow(RESERVE, "ann", 7),
                second,
                second.fetchrow(USE, "ann", 7, None),
            )
        )
    assert error.sqlstate == "MC002"
    assert detail(error) == {"required": 7, "available": 3}


async def test_a_hold_waits_for_a_debit_and_holds_nothing_of_it(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    async with connections(database, 2) as (first, second):
        error = await raised(
            in_turn(
                admin,
                first,
                first.fetchrow(USE, "ann", 7, None),
                second,
                second.fetchrow(RESERVE, "ann", 7),
            )
        )
    assert error.sqlstate == "MC002"


async def test_a_gift_waits_for_a_debit_and_holds_nothing_of_it(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    async with connections(database, 2) as (first, second):
        error = await raised(
            in_turn(
                admin,
                first,
                first.fetchrow(USE, "ann", 7, None),
                second,
                second.fetchrow(GIVE, "ann", 7, None),
            )
        )
    assert error.sqlstate == "MC002"


async def test_a_grant_waits_for_the_first_one_of_its_reference_and_answers_it(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    async with connections(database, 2) as (first, second):
        again = await in_turn(
            admin,
            first,
            first.fetchrow(GRANT, "ann", 5, "one"),
            second,
            second.fetchrow(GRANT, "ann", 6, "one"),
        )
    assert (again["amount"], again["replayed"], again["available"]) == (5, True, 15)


async def test_a_second_refund_of_a_debit_waits_and_is_given_no_more_than_is_left(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 10, "start")
    used = await admin.fetchval(USE.replace("*", "id"), "ann", 7, None)
    async with connections(database, 2) as (first, second):
        error = await raised(
            in_turn(
                admin,
                first,
                first.fetchrow(REFUND_DEBIT, "ann", 4, used),
                second,
                second.fetchrow(REFUND_DEBIT, "ann", 4, used),
            )
        )
    assert detail(error)["left"] == 3


async def made_while_two_wait(
    database: Clone, admin: Connection, make: str, call: str, *arguments: Any
) -> list[str]:
    """How two calls end that have waited for a row to be made, and go on together, in order.

    Who loses the race to make the row has no lock on it yet, as it was not there yet.
    """
    async with superusers(database, 3) as (maker, *others):
        await maker.execute("BEGIN")
        await maker.execute(make)
        calls = {}
        for other in others:
            await other.execute("BEGIN")
            task = asyncio.ensure_future(other.fetchrow(call, *arguments))
            calls[task] = other
            await blocked(admin, other, task)
        await maker.execute("COMMIT")
        (early,), (late,) = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        await blocked(admin, calls[late], late)
        await calls[early].execute("COMMIT")
        ends = await asyncio.gather(*calls, return_exceptions=True)
        for other in others:
            await other.execute("COMMIT")
    return sorted(getattr(end, "sqlstate", "done") for end in ends)


async def test_debits_that_waited_for_a_user_to_be_made_spend_no_more_than_he_has(
    database: Clone, admin: Connection
) -> None:
    make = "SELECT credits.grant_credits('new', 10, 'test', 'start')"
    ends = await made_while_two_wait(database, admin, make, USE, "new", 7, None)
    assert ends == ["MC002", "done"]


async def test_activations_that_waited_for_a_subscription_to_be_made_charge_once(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 1000, "start")
    make = "SELECT credits._lock_subscription('ann')"
    ends = await made_while_two_wait(database, admin, make, ACTIVATE, "ann", None)
    assert ends == ["MC008", "done"]
    assert len(await ledger(admin, "ann", app_id="sync")) == 1


async def test_a_replay_waits_for_the_first_call_and_answers_its_move(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 100, "start")
    async with connections(database, 2) as (first, second):
        replay = await in_turn(
            admin,
            first,
            first.fetchrow(USE, "ann", 7, "key"),
            second,
            second.fetchrow(USE, "ann", 7, "key"),
        )
    (debit,) = await ledger(admin, "ann", type="usage")
    assert (replay["id"], replay["replayed"], replay["available"]) == (debit["id"], True, 93)


async def test_a_replay_of_a_call_that_failed_is_the_first_call(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 100, "start")
    async with connections(database, 2) as (first, second):
        move = await in_turn(
            admin,
            first,
            first.fetchrow(USE, "ann", 7, "key"),
            second,
            second.fetchrow(USE, "ann", 7, "key"),
            end="ROLLBACK",
        )
    assert (move["replayed"], move["available"]) == (False, 93)
    assert len(await ledger(admin, "ann", type="usage")) == 1


async def test_another_amount_waits_for_the_key_and_is_refused(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 100, "start")
    async with connections(database, 2) as (first, second):
        error = await raised(
            in_turn(
                admin,
                first,
                first.fetchrow(USE, "ann", 7, "key"),
                second,
                second.fetchrow(USE, "ann", 8, "key"),
            )
        )
    assert error.sqlstate == "MC003"
    assert [row["amount"] for row in await ledger(admin, "ann", type="usage")] == [-7]


async def test_two_first_moves_of_a_user_never_seen_chain(
    database: Clone, admin: Connection
) -> None:
    async with connections(database, 2) as (first, second):
        move = await in_turn(
            admin,
            first,
            first.fetchrow(GRANT, "ann", 5, "one"),
            second,
            second.fetchrow(GRANT, "ann", 6, "two"),
        )
    assert (move["seq"], move["balance_before"], move["balance_after"]) == (2, 5, 11)


async def _gift(admin: Connection) -> asyncpg.Record:
    await admin.execute(GRANT, "ann", 100, "start")
    gift = await admin.fetchrow(GIVE, "ann", 40, None)
    assert gift is not None
    return gift


async def test_a_redeemer_who_waited_finds_the_gift_claimed(
    database: Clone, admin: Connection
) -> None:
    gift = await _gift(admin)
    async with connections(database, 2) as (first, second):
        late = await in_turn(
            admin,
            first,
            first.fetchrow(REDEEM, gift["code"], "bob"),
            second,
            second.fetchrow(REDEEM, gift["code"], "cleo"),
        )
        assert late["outcome"] == "failed_already_claimed"
        later = await second.fetchrow(REDEEM, gift["code"], "dan")
        assert later is not None
        assert later["outcome"] == "failed_depleted"
    attempts = await admin.fetch(
        "SELECT user_id, outcome::text FROM gifts.gift_redemptions ORDER BY user_id"
    )
    assert [tuple(attempt) for attempt in attempts] == [
        ("bob", "success"),
        ("cleo", "failed_already_claimed"),
        ("dan", "failed_depleted"),
    ]


@pytest.mark.parametrize(
    ("end", "outcome"), [("COMMIT", "failed_cancelled"), ("ROLLBACK", "success")]
)
async def test_a_redeemer_waits_for_a_cancellation(
    database: Clone, admin: Connection, end: str, outcome: str
) -> None:
    gift = await _gift(admin)
    async with connections(database, 2) as (first, second):
        redemption = await in_turn(
            admin,
            first,
            first.fetchrow(CANCEL, "ann", gift["id"]),
            second,
            second.fetchrow(REDEEM, gift["code"], "bob"),
            end=end,
        )
    assert redemption["outcome"] == outcome


async def test_a_cancellation_waits_for_a_redeemer_and_is_refused(
    database: Clone, admin: Connection
) -> None:
    gift = await _gift(admin)
    async with connections(database, 2) as (first, second):
        error = await raised(
            in_turn(
                admin,
                first,
                first.fetchrow(REDEEM, gift["code"], "bob"),
                second,
                second.fetchrow(CANCEL, "ann", gift["id"]),
            )
        )
    assert error.sqlstate == "MC005"


async def _hold(admin: Connection) -> Any:
    await admin.execute(GRANT, "ann", 100, "start")
    reservation = await admin.fetchrow(RESERVE, "ann", 40)
    assert reservation is not None
    return reservation["reservation_id"]


@pytest.mark.parametrize(
    ("won", "lost"), [(COMMIT, REFUND), (REFUND, COMMIT)], ids=["refund", "commit"]
)
async def test_the_opposite_of_what_happened_to_a_hold_waits_and_is_refused(
    database: Clone, admin: Connection, won: str, lost: str
) -> None:
    hold = await _hold(admin)
    async with connections(database, 2) as (first, second):
        error = await raised(
            in_turn(admin, first, first.fetchrow(won, hold), second, second.fetchrow(lost, hold))
        )
    assert error.sqlstate == "MC013"


async def test_a_commit_waits_for_the_first_commit_and_answers_its_debit(
    database: Clone, admin: Connection
) -> None:
    hold = await _hold(admin)
    async with connections(database, 2) as (first, second):
        again = await in_turn(
            admin, first, first.fetchrow(COMMIT, hold), second, second.fetchrow(COMMIT, hold)
        )
    (debit,) = await ledger(admin, "ann", type="usage")
    assert (again["transaction_id"], again["replayed"]) == (debit["id"], True)


async def test_the_expiry_passes_over_a_hold_that_is_being_committed(
    database: Clone, admin: Connection
) -> None:
    hold = await _hold(admin)
    later = datetime.now(UTC) + timedelta(days=2)
    expire = "SELECT done FROM credits._expire_reservations($1, 10, '-infinity', '')"
    async with connections(database, 1) as (first,):
        await first.execute("BEGIN")
        await first.fetchrow(COMMIT, hold)
        assert await admin.fetchval(expire, later) == 0
        await first.execute("COMMIT")
    assert await admin.fetchval(expire, later) == 0
    assert len(await ledger(admin, "ann", type="usage")) == 1


async def test_the_expiry_passes_over_a_gift_that_is_being_redeemed(
    database: Clone, admin: Connection
) -> None:
    gift = await _gift(admin)
    later = datetime.now(UTC) + timedelta(days=365)
    expire = "SELECT done FROM gifts._expire_gifts($1, 10, '-infinity', '')"
    async with connections(database, 1) as (first,):
        await first.execute("BEGIN")
        await first.fetchrow(REDEEM, gift["code"], "bob")
        assert await admin.fetchval(expire, later) == 0
        await first.execute("COMMIT")
    assert await admin.fetchval(expire, later) == 0
    assert [row["amount"] for row in await ledger(admin, "ann")] == [100, -40]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_an_activation_after_a_pause_waits_for_the_first(
    database: Clone, admin: Connection, end: str
) -> None:
    await subscribe(admin, ["ann"], 100)
    await make_due(admin, ["ann"])
    await admin.execute(DEACTIVATE, "ann")
    async with connections(database, 2) as (first, second):
        other = in_turn(
            admin,
            first,
            first.fetchrow(ACTIVATE, "ann", None),
            second,
            second.fetchrow(ACTIVATE, "ann", None),
            end=end,
        )
        if end == "COMMIT":
            assert (await raised(other)).sqlstate == "MC008"
        else:
            assert (await other)["amount_charged"] == 30
    assert len(await ledger(admin, "ann", idempotency_key="sync:2")) == 1


async def test_an_activation_waits_for_the_first_and_is_refused(
    database: Clone, admin: Connection
) -> None:
    await admin.execute(GRANT, "ann", 100, "start")
    async with connections(database, 2) as (first, second):
        error = await raised(
            in_turn(
                admin,
                first,
                first.fetchrow(ACTIVATE, "ann", None),
                second,
                second.fetchrow(ACTIVATE, "ann", None),
            )
        )
    assert error.sqlstate == "MC008"
    assert len(await ledger(admin, "ann", app_id="sync")) == 1


@pytest.mark.parametrize(
    ("before", "one", "other", "sqlstate"),
    [
        (ACTIVATE, DEACTIVATE, CHANGE, "MC010"),
        (ACTIVATE, GIFT_SYNC, CHANGE, "MC011"),
        (ACTIVATE, GIFT_SYNC, DEACTIVATE, "MC011"),
        (ACTIVATE, DEACTIVATE, DEACTIVATE, "MC010"),
        (GIFT_SYNC, REVOKE_SYNC, REVOKE_SYNC, "MC012"),
    ],
)
async def test_a_change_of_a_subscription_waits_for_another_and_looks_at_what_that_left(
    database: Clone, admin: Connection, before: str, one: str, other: str, sqlstate: str
) -> None:
    await admin.execute(GRANT, "ann", 1000, "start")
    await admin.execute(before.replace("$2", "NULL"), "ann")
    async with connections(database, 2) as (first, second):
        error = await raised(
            in_turn(admin, first, first.fetchrow(one, "ann"), second, second.fetchrow(other, "ann"))
        )
    assert error.sqlstate == sqlstate


async def test_the_charge_passes_over_a_subscription_that_somebody_works_on(
    database: Clone, admin: Connection
) -> None:
    await subscribe(admin, ["ann", "bob", "cleo"], 100)
    await make_due(admin, ["ann", "bob", "cleo"])
    async with connections(database, 2) as (first, second):
        await first.execute("BEGIN")
        await first.fetchrow(DEACTIVATE, "bob")
        others = await second.fetchrow(CHARGE)
        assert others is not None
        assert (others["charged"], others["errors"]) == (2, 0)
        await first.execute("ROLLBACK")
        rest = await second.fetchrow(CHARGE)
        assert rest is not None
        assert (rest["charged"], rest["errors"]) == (1, 0)
    for user in ("ann", "bob", "cleo"):
        assert len(await ledger(admin, user, idempotency_key="sync:2")) == 1


async def test_a_deactivation_waits_for_the_charge_and_keeps_what_was_paid(
    database: Clone, admin: Connection
) -> None:
    await subscribe(admin, ["ann"], 100)
    await make_due(admin, ["ann"])
    async with connections(database, 2) as (first, second):
        status = await in_turn(
            admin, first, first.fetchrow(CHARGE), second, second.fetchrow(DEACTIVATE, "ann")
        )
    assert (status["active"], status["next_charge_at"]) == (False, None)
    assert status["paid_until"] > datetime.now(UTC)


async def test_a_balance_that_is_held_is_charged_later_and_the_others_now(
    database: Clone, admin: Connection
) -> None:
    users = ["ann", "bob", "cleo"]
    await subscribe(admin, users, 100)
    await make_due(admin, users)
    async with connections(database, 2) as (first, second):
        await first.execute("BEGIN")
        await first.fetchrow(USE, "bob", 1, None)
        others = await second.fetchrow(CHARGE)
        assert others is not None
        assert (others["charged"], others["paused"], others["errors"]) == (2, 0, 1)
        await first.execute("COMMIT")
        waiting = await second.fetchrow(CHARGE)
        assert waiting is not None
        assert (waiting["charged"], waiting["errors"]) == (0, 0)
    row = await admin.fetchrow(
        "SELECT retry_at, failures, last_error, next_charge_at FROM credits.sync_subscriptions"
        " WHERE user_id = 'bob'"
    )
    assert row is not None
    assert row["retry_at"] > datetime.now(UTC)
    assert row["failures"] == 1
    assert row["last_error"].startswith("55P03")
    assert await ledger(admin, "bob", idempotency_key="sync:2") == []

    retried = await admin.fetchrow("SELECT * FROM credits._charge_due($1, 10)", row["retry_at"])
    assert retried is not None
    assert (retried["charged"], retried["errors"]) == (1, 0)
    for user in users:
        assert len(await ledger(admin, user, idempotency_key="sync:2")) == 1
    await require_sound(admin)


async def test_a_gift_and_an_activation_of_one_user_do_not_wait_in_a_circle(
    database: Clone, admin: Connection
) -> None:
    """Both write the user's address down, and both need his balance."""
    await admin.execute(GRANT, "ann", 100, "start")
    await admin.execute(ACTIVATE, "ann", "ann@example.org")
    await admin.execute(DEACTIVATE, "ann")
    async with connections(database, 3) as (holder, giving, activating):
        await holder.execute("BEGIN")
        await holder.fetchrow(USE, "ann", 1, None)
        gift = asyncio.ensure_future(giving.fetchrow(GIVE, "ann", 10, "ann@example.org"))
        await blocked(admin, giving, gift)
        sync = asyncio.ensure_future(activating.fetchrow(ACTIVATE, "ann", "ann@example.com"))
        await blocked(admin, activating, sync)
        await holder.execute("COMMIT")
        await asyncio.gather(gift, sync)


@pytest.mark.parametrize(
    ("paid_by_now", "outcome"), [("paid", "completed"), ("unpaid", "still pending")]
)
async def test_a_gift_and_a_checkout_of_one_user_do_not_wait_in_a_circle(
    database: Clone, admin: Connection, paid_by_now: str, outcome: str
) -> None:
    """Both write the user's first address down, and both need his balance."""
    await admin.execute(GRANT, "ann", 100, "start")
    event = await checkout_event(admin, "ann", paid_by_now)
    async with connections(database, 3) as (holder, giving, paying):
        await holder.execute("BEGIN")
        await holder.fetchrow(USE, "ann", 1, None)
        gift = asyncio.ensure_future(giving.fetchrow(GIVE, "ann", 10, "ann@example.org"))
        await blocked(admin, giving, gift)
        paid = asyncio.ensure_future(paying.fetchrow(APPLY, event))
        await blocked(admin, paying, paid)
        await holder.execute("COMMIT")
        _, applied = await asyncio.gather(gift, paid)
    assert applied is not None
    assert applied["outcome"] == f"purchase {outcome}"


async def checkout_event(admin: Connection, user: str, payment_status: str) -> dict[str, Any]:
    """Stripe's event of a completed Checkout Session, for a purchase that has begun."""
    package = uuid4()
    await admin.execute(
        "INSERT INTO credits.packages (id, name, credits, price_euro_cents)"
        " VALUES ($1, 'Small', 500, 500)",
        package,
    )
    purchase = await admin.fetchval(
        "SELECT id FROM credits.start_purchase($1, $2, 'https://a/', 'https://b/')", user, package
    )
    session = {
        "id": "cs_1",
        "payment_intent": "pi_1",
        "payment_status": payment_status,
        "amount_total": 500,
        "currency": "eur",
        "customer_details": {"email": f"{user}@example.net"},
        "metadata": {"purchaseId": str(purchase)},
    }
    return {"data": {"object": session}}


async def test_announced_charges_and_expired_holds_do_not_wait_in_a_circle(
    database: Clone, admin: Connection
) -> None:
    """Both concern many users, and take them in one order."""
    await subscribe(admin, ["bob", "ann"], 5)
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET next_charge_at = now() + interval '1 day'"
    )
    for user in ("ann", "bob"):
        await admin.execute(RESERVE, user, 1)
    async with connections(database, 1) as (holder,), superusers(database, 2) as (one, two):
        await holder.execute("BEGIN")
        await holder.fetchrow(USE, "ann", 1, None)
        expiry = asyncio.ensure_future(
            one.fetchrow(
                "SELECT * FROM credits._expire_reservations("
                "now() + interval '2 days', 10, '-infinity', '')"
            )
        )
        await blocked(admin, one, expiry)
        notices = asyncio.ensure_future(two.fetchrow("SELECT * FROM credits.announce_charges()"))
        await blocked(admin, two, notices)
        await holder.execute("COMMIT")
        expired, announced = await asyncio.gather(expiry, notices)
    assert expired is not None
    assert announced is not None
    assert (expired["done"], expired["errors"], announced["done"]) == (2, 0, 2)
