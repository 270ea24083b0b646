"""Races for a hold: its commit, its refund and its expiry."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

from tests.support.databases import Connection
from tests.support.races import at_once, ledger, outcome, outcomes, require_sound
from tests.support.running import Answer, Running

CALLERS = 24
HOLDS = 24
AMOUNT = 10
RESOLVED = "400 reservation_resolved"


async def hold(service: Running, user: str, amount: int = AMOUNT) -> str:
    answer = await service.call(
        "POST",
        "/internal/credits/reserve",
        internal=True,
        json={"userId": user, "amount": amount, "reason": "chat:held"},
    )
    assert answer.status == 200, answer.body
    reservation: str = answer.body["reservationId"]
    return reservation


def commit(service: Running, reservation: str, amount: int | None = None) -> Awaitable[Answer]:
    body = {"reservationId": reservation} | ({} if amount is None else {"amount": amount})
    return service.call("POST", "/internal/credits/commit", internal=True, json=body)


def refund(service: Running, reservation: str) -> Awaitable[Answer]:
    return service.call(
        "POST",
        "/internal/credits/refund-reservation",
        internal=True,
        json={"reservationId": reservation},
    )


async def test_of_many_commits_and_refunds_of_one_hold_one_side_wins(
    service: Running, admin: Connection
) -> None:
    for seed in range(6):
        user = f"ann-{seed}"
        await service.grant(user, 100)
        reservation = await hold(service, user)
        commits = [commit(service, reservation) for _ in range(CALLERS // 2)]
        refunds = [refund(service, reservation) for _ in range(CALLERS // 2)]
        shuffled = [*enumerate(commits + refunds)]
        random.Random(seed).shuffle(shuffled)

        answers = await at_once(call for _, call in shuffled)

        sides: dict[bool, list[Answer]] = {True: [], False: []}
        for (number, _), answer in zip(shuffled, answers, strict=True):
            sides[number < len(commits)].append(answer)
        committed = any(answer.status == 200 for answer in sides[True])
        assert outcomes(sides[committed]) == {"200": 1, "200 replayed": CALLERS // 2 - 1}
        assert outcomes(sides[not committed]) == {RESOLVED: CALLERS // 2}
        debits = await ledger(admin, user, type="usage")
        if committed:
            assert {answer.body["transactionId"] for answer in sides[True]} == {
                str(debits[0]["id"])
            }
        assert len(debits) == committed
        assert await service.balance(user) == 100 - AMOUNT * committed
        await require_sound(admin)


async def test_a_commit_and_a_refund_of_each_of_many_holds(
    service: Running, admin: Connection
) -> None:
    for seed in range(3):
        user = f"ann-{seed}"
        await service.grant(user, HOLDS * AMOUNT)
        holds = [await hold(service, user) for _ in range(HOLDS)]
        calls = [(number, which) for number in range(HOLDS) for which in (commit, refund)]
        random.Random(seed).shuffle(calls)

        answers = await at_once(which(service, holds[number]) for number, which in calls)

        ends = {call: outcome(answer) for call, answer in zip(calls, answers, strict=True)}
        won = Counter((ends[number, commit], ends[number, refund]) for number in range(HOLDS))
        assert won.keys() <= {("200", RESOLVED), (RESOLVED, "200")}
        committed = won["200", RESOLVED]
        assert len(await ledger(admin, user, type="usage")) == committed
        assert await service.balance(user) == (HOLDS - committed) * AMOUNT
        await require_sound(admin)


async def test_commits_of_different_amounts_are_one_commit(
    service: Running, admin: Connection
) -> None:
    await service.grant("ann", 100)
    reservation = await hold(service, "ann", 50)

    answers = await at_once(commit(service, reservation, n + 1) for n in range(CALLERS))

    assert outcomes(answers) == {"200": 1, "200 replayed": CALLERS - 1}
    (debit,) = await ledger(admin, "ann", type="usage")
    assert {answer.body["amount"] for answer in answers} == {-debit["amount"]}
    assert await service.balance("ann") == 100 + debit["amount"]


async def test_a_hold_that_expires_is_committed_or_refunded_or_given_back_by_the_job(
    service: Running, admin: Connection
) -> None:
    """The job's clock is a week ahead; over HTTP it is now, and the holds are still to be had."""
    await service.grant("ann", 3 * HOLDS * AMOUNT)
    holds = [await hold(service, "ann") for _ in range(3 * HOLDS)]
    calls = [commit(service, reservation) for reservation in holds[: 2 * HOLDS]]
    calls += [refund(service, reservation) for reservation in holds[2 * HOLDS :]]

    answers, expired = await asyncio.gather(at_once(calls), expire_all(admin))

    # A refund of a hold that is back already finds what it wanted.
    assert outcomes(answers[2 * HOLDS :]).keys() <= {"200", "200 replayed"}
    assert outcomes(answers[: 2 * HOLDS]).keys() <= {"200", RESOLVED}
    rows = await admin.fetch("SELECT status::text FROM credits.reservations")
    states = Counter(row["status"] for row in rows)
    committed = outcomes(answers[: 2 * HOLDS])["200"]
    assert states["committed"] == committed
    assert states["expired"] == expired
    assert states["refunded"] == outcomes(answers[2 * HOLDS :])["200"]
    assert states.total() == 3 * HOLDS
    assert len(await ledger(admin, "ann", type="usage")) == committed
    assert await service.balance("ann") == (3 * HOLDS - committed) * AMOUNT
    await require_sound(admin)


async def expire_all(admin: Connection) -> int:
    """Run the expiry in small batches until nothing is open any more; answers how many."""
    done = 0
    later = datetime.now(UTC) + timedelta(days=7)
    while await admin.fetchval("SELECT count(*) FROM credits.reservations WHERE status = 'open'"):
        batch = await admin.fetchrow(
            "SELECT * FROM credits._expire_reservations($1, 3, '-infinity', '')", later
        )
        assert batch is not None
        assert batch["errors"] == 0
        done += batch["done"]
    return done
