"""Batches lock holds by id and then balances by user, so that no two wait for each other."""

import asyncio
import random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.concurrency.test_lock_order import BALANCE, require_order
from tests.support.batches import Call, Outcome, run_all, run_alone, run_batch, wait_longer
from tests.support.calls import call, grant
from tests.support.databases import Clone, Connection
from tests.support.races import blocked, connections, ledger, require_sound, superusers

HOLD = "SELECT FROM credits.reservations WHERE id = $1 FOR UPDATE NOWAIT"
USERS = ["cleo", "bob", "ann"]
"""Not in their order."""


def debit(user: str, amount: int = 1) -> Call:
    arguments = {"user_id": user, "amount": amount, "app_id": "app", "description": "x"}
    return "credits.use_credits", {**arguments, "id": uuid4()}


def commit(reservation: UUID) -> Call:
    return "credits.commit_reservation", {"reservation_id": reservation, "id": uuid4()}


def give_back(reservation: UUID) -> Call:
    return "credits.refund_reservation", {"reservation_id": reservation}


async def holds(admin: Connection, users: list[str], each: int = 1) -> list[UUID]:
    """Reservations of these users, made in the opposite of the order of their ids."""
    ids = sorted(uuid4() for _ in range(len(users) * each))
    for id_, user in zip(reversed(ids), users * each, strict=True):
        await call(admin, "credits.reserve_credits", user_id=user, amount=1, reason="x", id=id_)
    return ids


async def test_a_batch_locks_the_balances_by_user(database: Clone, admin: Connection) -> None:
    for user in USERS:
        await grant(admin, user, 10)
    await wait_longer(admin)

    async def batch(connection: Connection) -> list[Outcome]:
        return await run_batch(connection, *(debit(user) for user in USERS))

    outcomes = await require_order(database, admin, BALANCE, ("ann", "cleo"), batch)
    assert [outcome.done["available"] for outcome in outcomes] == [9, 9, 9]


async def test_a_batch_locks_the_holds_by_id(database: Clone, admin: Connection) -> None:
    for user in USERS:
        await grant(admin, user, 10)
    ids = await holds(admin, USERS)
    await wait_longer(admin)

    async def batch(connection: Connection) -> list[Outcome]:
        return await run_batch(connection, commit(ids[2]), give_back(ids[1]), commit(ids[0]))

    outcomes = await require_order(database, admin, HOLD, (ids[0], ids[2]), batch)
    assert [outcome.done["replayed"] for outcome in outcomes] == [False] * 3


async def test_a_batch_locks_the_holds_before_any_balance(
    database: Clone, admin: Connection
) -> None:
    for user in USERS:
        await grant(admin, user, 10)
    # Of the last user, so that the balance of the first could be had.
    (id_,) = await holds(admin, ["cleo"])
    await wait_longer(admin)
    async with superusers(database, 2) as (holder, batching):
        await holder.execute("BEGIN")
        await holder.execute(HOLD, id_)
        batch = asyncio.ensure_future(run_batch(batching, debit("ann"), commit(id_)))
        await blocked(admin, batching, batch)
        for user in USERS:
            await admin.execute(BALANCE, user)
        await holder.execute("COMMIT")
        outcomes = await batch
    assert [outcome.alone for outcome in outcomes] == [False, False]


async def test_a_batch_that_has_waited_too_long_lets_go_of_what_it_had(
    database: Clone, admin: Connection
) -> None:
    """It then takes what is free, and waits for nobody: else two could wait for each other."""
    for user in USERS:
        await grant(admin, user, 10)
    await admin.execute(
        "ALTER FUNCTION credits.run_batch(credits.batch_call[]) SET lock_timeout = '2s'"
    )
    async with superusers(database, 3) as (holder, other, batching):
        await holder.execute("BEGIN")
        await holder.execute(BALANCE, "bob")
        await other.execute("BEGIN")
        await other.execute(BALANCE, "cleo")
        batch = asyncio.ensure_future(run_batch(batching, *(debit(user) for user in USERS)))
        await blocked(admin, batching, batch)
        # The batch has ann, and waits for bob; who waits for ann has cleo.
        waiting = asyncio.ensure_future(
            other.execute("SELECT FROM credits.balances WHERE user_id = 'ann' FOR UPDATE")
        )
        outcomes = await batch
        await waiting
        await other.execute("COMMIT")
        await holder.execute("COMMIT")
    # Ann went to whoever came first, when the batch let go of her.
    cleo, bob, _ = outcomes
    assert (cleo.alone, bob.alone) == (True, True)


async def run_at_once(
    connections_: list[Connection], batches: list[list[Call]]
) -> list[list[Outcome]]:
    """Make each batch on a connection of its own, all at the same time."""
    return list(
        await asyncio.gather(
            *(
                run_all(connection, calls)
                for connection, calls in zip(connections_, batches, strict=True)
            )
        )
    )


@pytest.mark.parametrize("patient", [False, True])
async def test_batches_of_the_same_users_in_opposite_orders_wait_in_no_circle(
    database: Clone, admin: Connection, patient: bool
) -> None:
    """The fixture sees that PostgreSQL has found none, and no batch fails.

    Where they are not patient, what waits too long is left and made by itself.
    """
    rounds, users = 15, [f"user-{number}" for number in range(12)]
    for user in users:
        await grant(admin, user, 1000)
    if patient:
        await wait_longer(admin)
    dice = random.Random(1)
    ids = await holds(admin, users, each=rounds)
    dice.shuffle(ids)
    async with connections(database, 4) as logins:
        for _ in range(rounds):
            settled = [ids.pop() for _ in range(len(users))]
            shuffled = dice.sample(users, len(users))
            orders = [shuffled, shuffled[::-1], sorted(users), sorted(users, reverse=True)]
            batches = []
            for place, order in enumerate(orders):
                calls = [debit(user) for user in order]
                # Two commit the same holds, and two give them back.
                end = commit if place % 2 else give_back
                calls += [end(id_) for id_ in (settled if place < 2 else settled[::-1])]
                batches.append(calls if place < 3 else calls[::-1])
            for outcomes in await run_at_once(logins, batches):
                for outcome in outcomes:
                    assert outcome.refused is None or outcome.refused.sqlstate == "MC013"
    ends = await admin.fetch("SELECT status::text FROM credits.reservations")
    assert {end["status"] for end in ends} <= {"committed", "refunded"}
    for user in users:
        debits = await ledger(admin, user, type="usage", reference_id=None)
        assert len(debits) == 4 * rounds
        times = await admin.fetch(
            "SELECT created_at FROM credits.transactions WHERE user_id = $1 ORDER BY seq", user
        )
        assert [row["created_at"] for row in times] == sorted(row["created_at"] for row in times)


async def test_batches_and_single_calls_and_erasures_lose_nothing(
    database: Clone, admin: Connection
) -> None:
    """Everybody at once on few users, of whom one is erased again and again."""
    users = ["ann", "bob", "cleo", "dan"]
    for user in users:
        await grant(admin, user, 100_000)
    done: dict[str, list[UUID]] = {user: [] for user in users}

    async def batches(connection: Connection, dice: random.Random) -> None:
        for _ in range(25):
            calls = [debit(dice.choice(users), dice.randint(1, 3)) for _ in range(8)]
            for (_, arguments), outcome in zip(
                calls, await run_all(connection, calls), strict=True
            ):
                if outcome.row is not None:
                    done[arguments["user_id"]].append(outcome.row["id"])

    async def singles(connection: Connection, dice: random.Random) -> None:
        for _ in range(60):
            function, arguments = debit(dice.choice(users))
            outcome = await run_alone(connection, function, **arguments)
            if outcome.row is not None:
                done[arguments["user_id"]].append(outcome.row["id"])

    async def hold(connection: Connection, dice: random.Random) -> None:
        for _ in range(20):
            id_ = uuid4()
            arguments: dict[str, Any] = {"user_id": dice.choice(users), "amount": 1, "reason": "x"}
            made = await run_all(
                connection, [("credits.reserve_credits", {**arguments, "id": id_})]
            )
            if made[0].row is None:
                continue
            for outcome in await run_all(connection, [give_back(id_), debit("bob"), commit(id_)]):
                # Given back by the erasure, or by this.
                if outcome.refused is not None:
                    assert outcome.refused.sqlstate in ("MC013", "MC004")
                elif "created_at" in outcome.done and "seq" in outcome.done:
                    done["bob"].append(outcome.done["id"])

    async def erase(connection: Connection, dice: random.Random) -> None:
        for number in range(15):
            await call(connection, "credits.erase_user", user_id="ann", id=uuid4())
            await grant(connection, "ann", 1000, f"again {number}")

    async with connections(database, 6) as logins, superusers(database, 1) as (owner,):
        works = [batches, batches, singles, singles, hold, hold]
        async with asyncio.TaskGroup() as group:
            for number, (connection, work) in enumerate(zip(logins, works, strict=True)):
                group.create_task(work(connection, random.Random(number)))
            group.create_task(erase(owner, random.Random(7)))
    await require_sound(admin)
    there: set[Any] = {
        row["id"]
        for row in await admin.fetch("SELECT id FROM credits.transactions WHERE type = 'usage'")
    }
    told = [id_ for ids in done.values() for id_ in ids]
    assert len(told) == len(set(told))
    assert set(told) <= there
    for user in ("bob", "cleo", "dan"):
        assert {row["id"] for row in await ledger(admin, user, type="usage")} == set(done[user])


async def test_a_batch_and_a_single_commit_of_the_same_hold(
    database: Clone, admin: Connection
) -> None:
    """The one has the hold and wants the balance, the other must not have it the other way."""
    await grant(admin, "ann", 10)
    (id_,) = await holds(admin, ["ann"])
    await wait_longer(admin)
    async with superusers(database, 3) as (holder, single, batching):
        await holder.execute("BEGIN")
        await holder.execute(BALANCE, "ann")
        # This one has the hold now, and waits for the balance.
        committed = asyncio.ensure_future(
            run_alone(single, "credits.commit_reservation", **commit(id_)[1])
        )
        await blocked(admin, single, committed)
        batch = asyncio.ensure_future(run_batch(batching, debit("ann"), commit(id_)))
        await blocked(admin, batching, batch)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await admin.execute(BALANCE, "ann")
        await holder.execute("COMMIT")
        assert (await committed).done["replayed"] is False
        debited, again = await batch
    assert debited.done["available"] == 8
    assert again.done["replayed"] is True
