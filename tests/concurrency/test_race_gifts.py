"""Races for a gift: many redeemers, its creator, the expiry, and registrations."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.databases import Connection
from tests.support.races import at_once, ledger, outcome, outcomes, require_sound
from tests.support.running import Answer, Running

CALLERS = 24
GIFTS = 24
AMOUNT = 10
NOT_ACTIVE = "400 gift_not_active"


async def give(service: Running, user: str, target: str | None = None) -> Any:
    body: dict[str, Any] = {"totalCredits": AMOUNT}
    if target is not None:
        body["targetEmail"] = target
    answer = await service.call("POST", "/gifts", user=user, json=body)
    assert answer.status == 201, answer.body
    return answer.body


def redeem(service: Running, code: str, user: str) -> Awaitable[Answer]:
    return service.call("POST", f"/gifts/{code}/redeem", user=user, json={})


def cancel(service: Running, gift_id: str, user: str) -> Awaitable[Answer]:
    return service.call("DELETE", f"/gifts/{gift_id}", user=user)


async def attempts(admin: Connection, gift_id: str) -> Counter[str]:
    rows = await admin.fetch(
        "SELECT outcome::text FROM gifts.gift_redemptions WHERE gift_id = $1", gift_id
    )
    return Counter(row["outcome"] for row in rows)


async def test_one_of_many_redeemers_gets_a_gift_and_every_attempt_is_recorded(
    service: Running, admin: Connection
) -> None:
    await service.grant("ann", 1000)
    for round_ in range(4):
        gift = await give(service, "ann")
        users = [f"user-{round_}-{number}" for number in range(CALLERS)]

        answers = await at_once(redeem(service, gift["code"], user) for user in users)

        assert outcomes(answers) == {"200": 1, NOT_ACTIVE: CALLERS - 1}
        refused = Counter(a.body["details"]["outcome"] for a in answers if a.status != 200)
        assert refused.keys() <= {"failed_already_claimed", "failed_depleted"}
        assert await attempts(admin, gift["id"]) == refused + Counter(success=1)
        (winner,) = [u for u, a in zip(users, answers, strict=True) if a.status == 200]
        assert await who_has(service, users) == {winner: AMOUNT}
        await require_sound(admin)


async def who_has(service: Running, users: list[str]) -> dict[str, int]:
    """What each of the users has who has anything."""
    balances = await asyncio.gather(*(service.balance(user) for user in users))
    return {user: balance for user, balance in zip(users, balances, strict=True) if balance}


async def test_one_redeemer_who_calls_many_times_is_given_it_once(
    service: Running, admin: Connection
) -> None:
    await service.grant("ann", 100)
    gift = await give(service, "ann")

    answers = await at_once(redeem(service, gift["code"], "bob") for _ in range(CALLERS))

    # He may call ten times a minute, and no more at once either.
    assert outcomes(answers) == {
        "200": 1,
        "200 replayed": 9,
        "429 rate_limited": CALLERS - 10,
    }
    assert await attempts(admin, gift["id"]) == {"success": 1}
    assert await service.balance("bob") == AMOUNT
    assert len(await ledger(admin, "bob")) == 1


async def test_a_gift_is_either_cancelled_or_redeemed(service: Running, admin: Connection) -> None:
    await service.grant("ann", GIFTS * AMOUNT)
    gifts = [await give(service, "ann") for _ in range(GIFTS)]
    calls = [(n, which) for n in range(GIFTS) for which in ("cancel", "cancel", "redeem")]
    random.Random(1).shuffle(calls)

    answers = await at_once(
        cancel(service, gifts[n]["id"], "ann")
        if which == "cancel"
        else redeem(service, gifts[n]["code"], f"user-{n}")
        for n, which in calls
    )

    redeemed = 0
    for n, gift in enumerate(gifts):
        ends = Counter(
            f"{which} {outcome(answer)}"
            for (number, which), answer in zip(calls, answers, strict=True)
            if number == n
        )
        won = {"redeem 200": 1, f"cancel {NOT_ACTIVE}": 2}
        lost = {f"redeem {NOT_ACTIVE}": 1, "cancel 200": 1, "cancel 200 replayed": 1}
        assert ends in (won, lost)
        redeemed += ends == won
        assert await attempts(admin, gift["id"]) == (
            {"success": 1} if ends == won else {"failed_cancelled": 1}
        )
    assert await service.balance("ann") == (GIFTS - redeemed) * AMOUNT
    await require_sound(admin)


async def test_a_gift_is_either_expired_or_redeemed(service: Running, admin: Connection) -> None:
    """The job's clock is a year ahead; over HTTP it is now, and the gifts are still to be had."""
    await service.grant("ann", 2 * GIFTS * AMOUNT)
    gifts = [await give(service, "ann") for _ in range(2 * GIFTS)]

    answers, expired = await asyncio.gather(
        at_once(redeem(service, gift["code"], f"user-{n}") for n, gift in enumerate(gifts)),
        expire_all(admin),
    )

    ends = outcomes(answers)
    assert ends.keys() <= {"200", "400 gift_expired"}
    assert ends["400 gift_expired"] == expired
    notices = await admin.fetchval("SELECT count(*) FROM credits.notices WHERE user_id = 'ann'")
    assert notices == expired
    assert await service.balance("ann") == expired * AMOUNT
    for gift, answer in zip(gifts, answers, strict=True):
        expected = "success" if answer.status == 200 else "failed_expired"
        assert await attempts(admin, gift["id"]) == {expected: 1}
    await require_sound(admin)


async def expire_all(admin: Connection) -> int:
    """Run the expiry in small batches until no gift is active any more; answers how many."""
    done = 0
    later = datetime.now(UTC) + timedelta(days=365)
    while await admin.fetchval("SELECT count(*) FROM gifts.gift_codes WHERE status = 'active'"):
        batch = await admin.fetchrow(
            "SELECT * FROM gifts._expire_gifts($1, 3, '-infinity', '')", later
        )
        assert batch is not None
        assert batch["errors"] == 0
        done += batch["done"]
    return done


def register(service: Running, user: str, step: str) -> Awaitable[Answer]:
    if step == "init":
        return service.call("POST", "/internal/credits/init", internal=True, json={"userId": user})
    body = {"userId": user, "email": f"{user.upper()}@example.org", "emailVerified": True}
    return service.call("POST", "/internal/gifts/redeem-pending", internal=True, json=body)


async def require_registered(service: Running, admin: Connection, user: str, redeemed: int) -> None:
    assert redeemed == 2
    assert await service.balance(user) == 2 * AMOUNT
    assert [row["type"] for row in await ledger(admin, user)] == ["gift", "gift"]
    await require_sound(admin)


@pytest.mark.parametrize("order", [("init", "redeem"), ("redeem", "init")])
async def test_a_registration_in_either_order_and_twice_redeems_what_waits_once(
    service: Running, admin: Connection, order: tuple[str, str]
) -> None:
    await service.grant("ann", 100)
    for _ in range(2):
        await give(service, "ann", "new@example.org")

    answers = [await register(service, "new", step) for step in order * 2]

    assert outcomes(answers) == {"200": 4}
    redeemed = sum(answer.body.get("redeemed", 0) for answer in answers)
    await require_registered(service, admin, "new", redeemed)


async def test_the_calls_of_a_registration_at_once_redeem_what_waits_once(
    service: Running, admin: Connection
) -> None:
    await service.grant("ann", 1000)
    for round_ in range(4):
        user = f"new-{round_}"
        for _ in range(2):
            await give(service, "ann", f"{user}@example.org")
        steps = ["init", "redeem"] * (CALLERS // 2)
        random.Random(round_).shuffle(steps)

        answers = await at_once(register(service, user, step) for step in steps)

        assert outcomes(answers) == {"200": CALLERS}
        redeemed = sum(answer.body.get("redeemed", 0) for answer in answers)
        assert sum(answer.body.get("totalCredits", 0) for answer in answers) == 2 * AMOUNT
        await require_registered(service, admin, user, redeemed)


async def test_two_accounts_of_one_address_share_what_waits(
    service: Running, admin: Connection
) -> None:
    """Both lock the same gifts, in one order, and each gift goes to one of them."""
    await service.grant("ann", 1000)
    for _ in range(6):
        await give(service, "ann", "new@example.org")
    users = [f"user-{number}" for number in range(CALLERS)]

    answers = await at_once(
        service.call(
            "POST",
            "/internal/gifts/redeem-pending",
            internal=True,
            json={"userId": user, "email": "new@example.org"},
        )
        for user in users
    )

    assert sum(answer.body["redeemed"] for answer in answers) == 6
    balances = await who_has(service, users)
    assert sum(balances.values()) == 6 * AMOUNT
    assert balances == {
        user: answer.body["totalCredits"]
        for user, answer in zip(users, answers, strict=True)
        if answer.body["redeemed"]
    }
    await require_sound(admin)
