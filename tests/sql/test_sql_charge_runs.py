"""Runs of the recurring charge: batches, failures and their retries, the preview, a run that dies.

Time is given to the private functions; what runs by the clock has subscriptions of long ago.
"""

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.support.calls import (
    amounts,
    call,
    charge,
    debit,
    grant,
    last_run,
    refusal,
    rows,
    subscribe,
    subscription,
    utc,
)
from tests.support.databases import Clone, Connection, connect
from tests.support.races import blocked

DUE = utc("2024-03-01 12:00")
RUN = "CALL credits.run_recurring_charge(2)"


async def subscribe_all(admin: Connection, *users: str, credits: int = 300) -> None:
    """Users whose charges are due on 1 March, one minute after the other."""
    for place, user in enumerate(users):
        await grant(admin, user, credits)
        await subscribe(admin, user, at=utc("2024-02-01 12:00") + timedelta(minutes=place))


async def damage(admin: Connection, *users: str) -> None:
    """Let balances have lost count of the ledger, so that no row can follow."""
    await admin.execute(
        "UPDATE credits.balances SET last_seq = last_seq - 1 WHERE user_id = ANY ($1)", users
    )


async def mend(admin: Connection, *users: str) -> None:
    """Take the damage back."""
    await admin.execute(
        "UPDATE credits.balances SET last_seq = last_seq + 1 WHERE user_id = ANY ($1)", users
    )


async def charged(admin: Connection) -> list[str]:
    """Who was charged for a second period, by name."""
    found = await admin.fetch(
        "SELECT user_id FROM credits.transactions WHERE idempotency_key = 'sync:2' ORDER BY user_id"
    )
    return [row["user_id"] for row in found]


async def test_a_run_charges_what_is_due_and_pauses_what_is_not_covered(
    admin: Connection,
) -> None:
    await subscribe_all(admin, "ann", "bob", "cat")
    await debit(admin, "bob", 241)
    result = await charge(admin, DUE + timedelta(hours=1))
    assert dict(result) == {"charged": 2, "paused": 1, "errors": 0, "more": False}
    assert await charged(admin) == ["ann", "cat"]
    assert (await subscription(admin, "bob"))["paused_at"] == DUE + timedelta(hours=1)
    assert (await amounts(admin, "bob"))[-1] == ("usage", -241)


async def test_credits_that_just_suffice_pay_and_held_ones_do_not(admin: Connection) -> None:
    await subscribe_all(admin, "ann", "bob", credits=60)
    await call(admin, "credits.reserve_credits", user_id="bob", amount=1, reason="x")
    result = await charge(admin, DUE + timedelta(hours=1))
    assert (result["charged"], result["paused"]) == (1, 1)
    assert await charged(admin) == ["ann"]


async def test_nothing_is_charged_before_it_is_due(admin: Connection) -> None:
    await subscribe_all(admin, "ann")
    assert (await charge(admin, DUE - timedelta(microseconds=1)))["charged"] == 0
    assert (await charge(admin, DUE))["charged"] == 1


async def test_a_batch_takes_the_longest_due_first_and_says_whether_there_is_more(
    admin: Connection,
) -> None:
    await subscribe_all(admin, "zoe", "ann", "yan")
    now = DUE + timedelta(hours=1)
    assert dict(await charge(admin, now, 2)) == {
        "charged": 2,
        "paused": 0,
        "errors": 0,
        "more": True,
    }
    assert await charged(admin) == ["ann", "zoe"]
    assert (await charge(admin, now, 2))["more"] is False
    assert await charged(admin) == ["ann", "yan", "zoe"]


async def test_a_batch_has_at_least_one(service_login: Connection) -> None:
    for size in (0, -1):
        refused = await refusal(service_login, "credits.charge_due_subscriptions", batch_size=size)
        assert (refused.sqlstate, refused.field) == ("MC001", "batchSize")


async def test_a_user_who_took_the_key_of_his_next_charge_is_charged_all_the_same(
    admin: Connection, service_login: Connection
) -> None:
    await subscribe_all(admin, "ann")
    for key in ("sync:2", "sync:3"):
        for origin in ("user", "service"):
            await debit(service_login, "ann", 1, idempotency_key=key, origin=origin)
        await call(
            service_login,
            "credits.grant_credits",
            user_id="ann",
            amount=1,
            reason="x",
            reference_id=key,
        )
    for at in (DUE, utc("2024-04-01 12:00")):
        assert dict(await charge(admin, at)) == {
            "charged": 1,
            "paused": 0,
            "errors": 0,
            "more": False,
        }
    assert [amount for _type, amount in await amounts(admin, "ann")].count(-30) == 3


async def test_two_that_cannot_be_charged_do_not_stop_the_others(admin: Connection) -> None:
    # At the head of what is due, filling a whole batch.
    await subscribe_all(admin, "a1", "a2", "bob", "cat", "dan", "eve", "fay")
    await damage(admin, "a1", "a2")
    await admin.execute(RUN)
    run = await last_run(admin, "recurring-charge")
    assert (run["did"], run["error"]) == ({"charged": 5, "paused": 0, "errors": 2}, None)
    assert run["ended_at"] is not None
    assert await charged(admin) == ["bob", "cat", "dan", "eve", "fay"]

    for user in ("a1", "a2"):
        row = await subscription(admin, user)
        assert (row["active"], row["failures"]) == (True, 1)
        assert row["last_error"].startswith("23505 ")
    assert [problem for (problem,) in await admin.fetch("SELECT credits.list_problems()")] == [
        "2 subscriptions could not be charged and wait for a retry"
    ]
    # Until their retry they are not due, and no run looks at them.
    await admin.execute(RUN)
    assert (await last_run(admin, "recurring-charge"))["did"] == {
        "charged": 0,
        "paused": 0,
        "errors": 0,
    }

    await mend(admin, "a1", "a2")
    retry_at = (await subscription(admin, "a2"))["retry_at"]
    assert (await charge(admin, retry_at))["charged"] == 2
    row = await subscription(admin, "a1")
    assert (row["failures"], row["retry_at"], row["last_error"]) == (0, None, None)
    assert len(await charged(admin)) == 7
    assert await rows(admin, "credits.list_problems") == []


async def test_one_in_the_middle_of_a_batch_fails_alone(admin: Connection) -> None:
    await subscribe_all(admin, "ann", "bob", "cat")
    await debit(admin, "cat", 241)
    await damage(admin, "bob")
    result = await charge(admin, DUE + timedelta(hours=1))
    assert dict(result) == {"charged": 1, "paused": 1, "errors": 1, "more": False}
    assert await charged(admin) == ["ann"]
    await mend(admin, "bob")


async def test_retries_back_off_to_a_day(admin: Connection) -> None:
    await subscribe_all(admin, "ann")
    await damage(admin, "ann")
    at, waits = DUE, []
    for failures in range(1, 14):
        assert (await charge(admin, at))["errors"] == 1
        assert (await charge(admin, at))["errors"] == 0
        row = await subscription(admin, "ann")
        assert row["failures"] == failures
        waits.append((row["retry_at"] - at) // timedelta(minutes=1))
        # Due stays what it was, and so does the period that the charge will pay for.
        assert row["next_charge_at"] == DUE
        at = row["retry_at"]
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440, 1440, 1440, 1440]
    await mend(admin, "ann")
    assert (await charge(admin, at))["charged"] == 1


async def everything(admin: Connection) -> list[Any]:
    """Every row that a charge could change, with its version."""
    return [
        await admin.fetch(f"SELECT t.xmin, t.* FROM credits.{table} AS t ORDER BY t.*::text")
        for table in ("balances", "transactions", "sync_subscriptions", "notices", "usage_stats")
    ]


async def test_the_preview_tells_what_a_run_then_does_and_changes_nothing(
    admin: Connection, service_login: Connection
) -> None:
    users = ["just", "poor", "retry", "ann", "gift", "off"]
    await subscribe_all(admin, *users)
    await grant(admin, "late", 300)
    await subscribe(admin, "late", "quarterly", at=utc("2023-05-31 12:00"))
    await grant(admin, "later", 300)
    await subscribe(admin, "later", at=utc("2024-02-20 12:00"))
    await debit(admin, "just", 240)
    await debit(admin, "poor", 241)
    await call(admin, "credits.deactivate_sync", user_id="off")
    await call(admin, "credits.gift_sync", user_id="gift")
    at = utc("2024-03-10 00:00")
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET retry_at = $1, failures = 1, last_error = 'x'"
        " WHERE user_id = 'retry'",
        at + timedelta(microseconds=1),
    )

    before = await everything(admin)
    planned = await rows(service_login, "credits.preview_charge", at=at)
    assert await everything(admin) == before
    assert [
        (plan["user_id"], plan["action"], plan["price"], plan["available"]) for plan in planned
    ] == [
        ("late", "charge", 90, 210),
        ("just", "charge", 30, 30),
        ("poor", "pause", 30, 29),
        ("retry", "skip", 30, 270),
        ("ann", "charge", 30, 270),
    ]
    due = {user: (await subscription(admin, user))["next_charge_at"] for user in [*users, "late"]}
    assert [plan["due_at"] for plan in planned] == [due[plan["user_id"]] for plan in planned]

    assert dict(await charge(admin, at)) == {"charged": 3, "paused": 1, "errors": 0, "more": False}
    for plan in planned:
        row = await subscription(admin, plan["user_id"])
        done = await admin.fetchrow(
            "SELECT amount, metadata FROM credits.transactions"
            " WHERE user_id = $1 AND idempotency_key = 'sync:2'",
            plan["user_id"],
        )
        if plan["action"] == "charge":
            assert done is not None
            assert done["amount"] == -plan["price"]
            assert done["metadata"]["periodsSkipped"] == plan["periods_skipped"]
            assert row["next_charge_at"] == plan["next_charge_at"]
        else:
            assert done is None
            assert (plan["periods_skipped"], plan["next_charge_at"]) == (None, None)
            assert row["active"] is (plan["action"] == "skip")
    assert planned[0]["periods_skipped"] == 2
    # What is left is what waits for its retry.
    left = await rows(service_login, "credits.preview_charge", at=at)
    assert [(plan["user_id"], plan["action"]) for plan in left] == [("retry", "skip")]


async def test_the_preview_without_a_time_is_of_now(
    admin: Connection, service_login: Connection
) -> None:
    await subscribe_all(admin, "ann")
    await grant(admin, "bob", 300)
    await call(admin, "credits.activate_sync", user_id="bob")
    planned = await rows(service_login, "credits.preview_charge")
    assert [plan["user_id"] for plan in planned] == ["ann"]


async def test_a_balance_that_somebody_holds_is_left_for_a_later_run(
    admin: Connection, database: Clone
) -> None:
    await subscribe_all(admin, "ann", "bob", "cat")
    holder = await connect(database.admin_url)
    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM credits.balances WHERE user_id = 'ann' FOR UPDATE")
            await admin.execute(RUN)
    finally:
        await holder.close()
    assert (await last_run(admin, "recurring-charge"))["did"] == {
        "charged": 2,
        "paused": 0,
        "errors": 1,
    }
    row = await subscription(admin, "ann")
    assert (row["failures"], row["last_error"][:5]) == (1, "55P03")
    assert (await charge(admin, row["retry_at"]))["charged"] == 1


async def test_a_subscription_that_somebody_works_on_is_passed_over(
    admin: Connection, database: Clone
) -> None:
    await subscribe_all(admin, "ann", "bob")
    holder = await connect(database.service_url)
    try:
        async with holder.transaction():
            await call(holder, "credits.change_sync_interval", user_id="ann", interval="yearly")
            result = await charge(admin, DUE + timedelta(hours=1))
            assert dict(result) == {"charged": 1, "paused": 0, "errors": 0, "more": False}
    finally:
        await holder.close()
    assert await charged(admin) == ["bob"]
    assert (await charge(admin, DUE + timedelta(hours=1)))["paused"] == 1


async def held_up(
    admin: Connection, database: Clone
) -> tuple[Connection, asyncpg.transaction.Transaction, Connection, asyncio.Task[str]]:
    """A run by the owner that has charged its first batch and waits in its second.

    The wait would end after a second; in this test's database it lasts.
    """
    await subscribe_all(admin, "ann", "bob", "cat", "dan", "eve")
    await admin.execute("ALTER FUNCTION credits.charge_due_subscriptions SET lock_timeout = 0")
    holder = await connect(database.admin_url)
    lock = holder.transaction()
    await lock.start()
    await holder.execute("SELECT FROM credits.balances WHERE user_id = 'cat' FOR UPDATE")
    runner = await connect(database.admin_url, role="mana_credits_owner")
    run = asyncio.create_task(runner.execute(RUN))
    await blocked(admin, runner, run)
    return holder, lock, runner, run


async def test_every_batch_is_committed_by_itself(admin: Connection, database: Clone) -> None:
    holder, lock, runner, run = await held_up(admin, database)
    try:
        # Seen from another connection, while the run goes on.
        assert await charged(admin) == ["ann", "bob"]
        under_way = await last_run(admin, "recurring-charge")
        assert under_way["did"] == {"charged": 2, "paused": 0, "errors": 0}
        assert under_way["ended_at"] is None
        await lock.rollback()
        await run
    finally:
        await holder.close()
        await runner.close()
    assert await charged(admin) == ["ann", "bob", "cat", "dan", "eve"]
    ended = await last_run(admin, "recurring-charge")
    assert ended["id"] == under_way["id"]
    assert ended["did"] == {"charged": 5, "paused": 0, "errors": 0}
    assert ended["ended_at"] is not None


async def test_a_run_adds_up_its_batches(admin: Connection) -> None:
    await subscribe_all(admin, "ann", "bob", "cat", "dan", "eve")
    for user in ("ann", "cat", "eve"):
        await debit(admin, user, 241)
    await admin.execute(RUN)
    ended = await last_run(admin, "recurring-charge")
    assert ended["did"] == {"charged": 2, "paused": 3, "errors": 0}


async def test_a_run_that_dies_loses_its_open_batch_which_the_next_run_does(
    admin: Connection, database: Clone
) -> None:
    holder, lock, runner, run = await held_up(admin, database)
    try:
        await admin.execute("SELECT pg_terminate_backend($1)", runner.get_server_pid())
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await run
        await lock.rollback()
    finally:
        await holder.close()
        runner.terminate()
    assert await charged(admin) == ["ann", "bob"]
    assert (await last_run(admin, "recurring-charge"))["ended_at"] is None
    await admin.execute(RUN)
    assert await charged(admin) == ["ann", "bob", "cat", "dan", "eve"]
    assert (await last_run(admin, "recurring-charge"))["did"] == {
        "charged": 3,
        "paused": 0,
        "errors": 0,
    }
    for user in ("ann", "bob", "cat", "dan", "eve"):
        assert [amount for _type, amount in await amounts(admin, user)].count(-30) == 2


async def test_a_batch_goes_on_behind_the_one_before(admin: Connection) -> None:
    await subscribe_all(admin, "ann", "bob", "cat")
    now = DUE + timedelta(hours=1)
    first = await admin.fetchrow("SELECT * FROM credits._charge_due($1, 2)", now)
    assert first is not None
    assert (first["charged"], first["more"], first["last_key"]) == (2, True, "bob")
    # What comes before that is left to the next run, as is what somebody held as its turn came.
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET next_charge_at = $1 WHERE user_id = 'ann'",
        DUE - timedelta(days=1),
    )
    second = await admin.fetchrow(
        "SELECT * FROM credits._charge_due($1, 2, $2, $3)", now, first["last_at"], first["last_key"]
    )
    assert second is not None
    assert (second["charged"], second["more"], second["last_key"]) == (1, False, "cat")
    assert await charged(admin) == ["ann", "bob", "cat"]
    assert (await charge(admin, now))["charged"] == 1


async def test_the_job_and_the_function_have_one_batch_size(admin: Connection) -> None:
    # The service passes what pace_charges says, which it calls without one.
    sizes = await admin.fetch(
        "SELECT pg_get_function_arg_default(oid, 1) AS size FROM pg_proc"
        " WHERE pronamespace = 'credits'::regnamespace"
        " AND proname IN ('charge_due_subscriptions', 'pace_charges', 'run_recurring_charge')"
    )
    assert len(sizes) == 3
    assert len({row["size"] for row in sizes}) == 1


# Giving way to others

PACE = "SELECT * FROM credits.pace_charges(p_batch_size => $1, p_took_ms => $2, p_seen => $3)"
SEEN = "SELECT seen FROM credits.pace_charges()"
OWN = 3
"""Ids of transactions that one batch takes."""


async def test_a_run_goes_on_at_once_where_nobody_else_is_at_work(
    service_login: Connection,
) -> None:
    # What is seen stays the same for a whole transaction.
    async with service_login.transaction(isolation="repeatable_read"):
        seen = await service_login.fetchval(SEEN)
        alone = await service_login.fetchrow(PACE, 500, 100, seen - OWN)
        assert dict(alone or {}) == {"batch_size": 500, "rest_ms": 0, "seen": seen}


@pytest.mark.parametrize(
    ("size", "took", "batch", "rest"),
    [(500, 20, 50, 60), (10, 0, 10, 0), (500, 5000, 50, 1000), (50, -1, 50, 0)],
)
async def test_a_run_gives_way_to_others(
    service_login: Connection, size: int, took: int, batch: int, rest: int
) -> None:
    async with service_login.transaction(isolation="repeatable_read"):
        seen = await service_login.fetchval(SEEN)
        pace = await service_login.fetchrow(PACE, size, took, seen - OWN - 1)
        assert dict(pace or {}) == {"batch_size": batch, "rest_ms": rest, "seen": seen}
        # It begins with a small batch, and at once.
        first = await service_login.fetchrow("SELECT * FROM credits.pace_charges($1)", size)
        assert dict(first or {}) == {"batch_size": batch, "rest_ms": 0, "seen": seen}


async def test_a_pace_has_at_least_one(service_login: Connection) -> None:
    refused = await refusal(service_login, "credits.pace_charges", batch_size=0)
    assert (refused.sqlstate, refused.field) == ("MC001", "batchSize")


async def test_a_batch_alone_is_not_taken_for_others(admin: Connection) -> None:
    async def taken(place: int) -> int:
        await subscribe_all(admin, f"user-{place}-a", f"user-{place}-b")
        before: int = await admin.fetchval(SEEN)
        batch = await admin.fetchrow("SELECT * FROM credits.charge_due_subscriptions(2)")
        after: int = await admin.fetchval(SEEN)
        assert batch is not None
        assert batch["charged"] == 2
        return after - before

    # Others of this server, such as autovacuum, may add to that, but not every time.
    found = [await taken(place) for place in range(10)]
    # The block that the job puts around it, or the transaction in which the service records it.
    assert min(found) + 1 == OWN


async def test_a_job_takes_small_batches_while_others_are_at_work(
    admin: Connection, database: Clone
) -> None:
    await subscribe_all(admin, *(f"user-{number:03}" for number in range(120)))
    await admin.execute("ALTER FUNCTION credits.charge_due_subscriptions SET lock_timeout = 0")
    holder = await connect(database.admin_url)
    runner = await connect(database.admin_url, role="mana_credits_owner")
    try:
        async with holder.transaction():
            await holder.execute(
                "SELECT FROM credits.balances WHERE user_id = 'user-000' FOR UPDATE"
            )
            run = asyncio.create_task(runner.execute("CALL credits.run_recurring_charge()"))
            await blocked(admin, runner, run)
            for _ in range(OWN + 1):
                await admin.execute("SELECT pg_current_xact_id()")
        await run
    finally:
        await holder.close()
        await runner.close()
    ended = await last_run(admin, "recurring-charge")
    # 50, 50, 20: alone it would have done 70 at once.
    assert (ended["did"]["charged"], ended["batches"]) == (120, 3)


async def test_a_run_tells_how_far_it_is(admin: Connection, database: Clone) -> None:
    holder, lock, runner, run = await held_up(admin, database)
    try:
        (seen,) = await admin.fetch("SELECT * FROM credits.job_progress")
        assert (seen["job"], seen["done"], seen["total"]) == ("recurring-charge", 2, 5)
        assert (seen["batches"], seen["did"]["charged"]) == (1, 2)
        assert seen["per_second"] > 0
        assert seen["started_at"] < seen["last_batch_at"] < seen["expected_end"]
        figures = {
            (row["name"], row["label"]): row["value"]
            for row in await admin.fetch("SELECT * FROM credits.read_metrics()")
        }
        assert figures["job_done", "recurring-charge"] == 2
        assert figures["job_total", "recurring-charge"] == 5
    finally:
        await lock.rollback()
        await run
        await holder.close()
        await runner.close()
    assert await admin.fetch("SELECT * FROM credits.job_progress") == []
    told = await admin.fetchrow("SELECT total, batches FROM credits.job_runs")
    assert told is not None
    assert tuple(told) == (5, 3)
