"""Races for a user's credits: small balances, open holds, idempotency keys."""

import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from tests.support.databases import Connection
from tests.support.races import at_once, ledger, outcomes, require_sound
from tests.support.running import Answer, Running

CALLERS = 24
ROUNDS = 3


def debit(amount: int, key: str | None = None, text: str = "a debit") -> dict[str, Any]:
    body: dict[str, Any] = {"amount": amount, "appId": "chat", "description": text}
    return body if key is None else {**body, "idempotencyKey": key}


def use(
    service: Running, user: str, amount: int, *, internal: bool = False, key: str | None = None
) -> Awaitable[Answer]:
    if internal:
        body = {"userId": user, **debit(amount, key)}
        return service.call("POST", "/internal/credits/use", internal=True, json=body)
    return service.call("POST", "/credits/use", user=user, json=debit(amount, key))


def hold(service: Running, user: str, amount: int) -> Awaitable[Answer]:
    body = {"userId": user, "amount": amount, "reason": "chat:held"}
    return service.call("POST", "/internal/credits/reserve", internal=True, json=body)


async def test_exactly_as_many_debits_succeed_as_the_balance_covers(
    service: Running, admin: Connection
) -> None:
    for round_ in range(ROUNDS):
        user, covered = f"ann-{round_}", 7 + round_
        await service.grant(user, covered * 10 + 9)

        answers = await at_once(
            use(service, user, 10, internal=number % 2 == 0) for number in range(CALLERS)
        )

        assert outcomes(answers) == {"200": covered, "402 insufficient_credits": CALLERS - covered}
        assert len(await ledger(admin, user, type="usage")) == covered
        assert await service.balance(user) == 9
        assert all(
            answer.body["details"] == {"required": 10, "available": 9}
            for answer in answers
            if answer.status == 402
        )
        await require_sound(admin)


async def test_debits_of_many_sizes_never_take_more_than_is_there(
    service: Running, admin: Connection
) -> None:
    for seed in range(ROUNDS):
        user = f"ann-{seed}"
        await service.grant(user, 100)
        sizes = random.Random(seed).choices(range(1, 21), k=CALLERS)

        answers = await at_once(use(service, user, size) for size in sizes)

        taken = [size for size, answer in zip(sizes, answers, strict=True) if answer.status == 200]
        refused = [answer for answer in answers if answer.status != 200]
        assert outcomes(refused) == {"402 insufficient_credits": CALLERS - len(taken)}
        rows = await ledger(admin, user, type="usage")
        assert sorted(-row["amount"] for row in rows) == sorted(taken)
        left = 100 - sum(taken)
        assert await service.balance(user) == left >= 0
        # Nobody was refused who could be paid, since what is there only shrinks.
        facts = [answer.body["details"] for answer in refused]
        assert all(left <= fact["available"] < fact["required"] for fact in facts)
        await require_sound(admin)


async def test_held_credits_are_never_spent(service: Running, admin: Connection) -> None:
    await service.grant("ann", 100)
    holds = await at_once(hold(service, "ann", 20) for _ in range(3))
    assert outcomes(holds) == {"200": 3}

    answers = await at_once(use(service, "ann", 10) for _ in range(CALLERS))

    assert outcomes(answers) == {"200": 4, "402 insufficient_credits": CALLERS - 4}
    committed = await at_once(
        service.call(
            "POST",
            "/internal/credits/commit",
            internal=True,
            json={"reservationId": answer.body["reservationId"]},
        )
        for answer in holds
    )
    assert outcomes(committed) == {"200": 3}
    assert await service.balance("ann") == 0
    await require_sound(admin)


async def test_debits_and_holds_that_race_share_what_is_there(
    service: Running, admin: Connection
) -> None:
    for seed in range(ROUNDS):
        user = f"ann-{seed}"
        await service.grant(user, 105)
        calls = [use(service, user, 10) for _ in range(CALLERS // 2)]
        calls += [hold(service, user, 10) for _ in range(CALLERS // 2)]
        random.Random(seed).shuffle(calls)

        answers = await at_once(calls)

        assert outcomes(answers) == {"200": 10, "402 insufficient_credits": CALLERS - 10}
        held = sum(a.status == 200 and "reservationId" in a.body for a in answers)
        seen = (await service.call("GET", "/credits/balance", user=user)).body
        assert (seen["balance"], seen["reserved"]) == (5, 10 * held)
        assert len(await ledger(admin, user, type="usage")) == 10 - held
        await require_sound(admin)


def result(answer: Answer) -> object:
    """What a repeated call must answer again."""
    body = answer.body
    for name in ("transaction", "reservationId", "transactionId"):
        if name in body:
            return body[name]
    return {name: value for name, value in body.items() if name != "message"}


Call = Callable[[Running, str, int], Awaitable[Answer]]


def _internal(path: str, **body: Any) -> Call:
    return lambda service, key, amount: service.call(
        "POST",
        f"/internal/credits/{path}",
        internal=True,
        json={"userId": "ann", "amount": amount, "idempotencyKey": key, **body},
    )


def _in_header(service: Running, key: str, amount: int) -> Awaitable[Answer]:
    return service.call(
        "POST",
        "/credits/use",
        user="ann",
        json=debit(amount),
        headers={"Idempotency-Key": key},
    )


def _gift(service: Running, key: str, amount: int) -> Awaitable[Answer]:
    return service.call(
        "POST", "/gifts", user="ann", json={"totalCredits": amount, "idempotencyKey": key}
    )


def _grant(service: Running, key: str, amount: int) -> Awaitable[Answer]:
    body = {"userId": "ann", "amount": amount, "reason": "reward", "referenceId": key}
    return service.call("POST", "/internal/credits/grant", internal=True, json=body)


KEYED: dict[str, Call] = {
    "use": lambda service, key, amount: use(service, "ann", amount, key=key),
    "use with the key in the header": _in_header,
    "use by a service": _internal("use", appId="chat", description="a debit"),
    "refund": _internal("refund", description="a refund"),
    "reserve": _internal("reserve", reason="chat:held"),
    "gift": _gift,
    "grant": _grant,
}

MADE = """
SELECT (SELECT count(*) FROM credits.transactions WHERE idempotency_key LIKE '%' || $1)
     + (SELECT count(*) FROM credits.reservations WHERE idempotency_key = $1)
"""


@pytest.mark.parametrize("kind", KEYED)
async def test_one_key_is_one_move(service: Running, admin: Connection, kind: str) -> None:
    await service.grant("ann", 1000)
    for key in (str(uuid4()) for _ in range(ROUNDS)):
        answers = await at_once(KEYED[kind](service, key, 5) for _ in range(CALLERS))

        first = "201" if kind == "gift" else "200"
        assert outcomes(answers) == {first: 1, f"{first} replayed": CALLERS - 1}
        assert all(result(answer) == result(answers[0]) for answer in answers)
        assert await admin.fetchval(MADE, key) == 1
        await require_sound(admin)


@pytest.mark.parametrize("kind", sorted(KEYED.keys() - {"grant"}))
async def test_of_two_amounts_under_one_key_only_one_moves(
    service: Running, admin: Connection, kind: str
) -> None:
    await service.grant("ann", 1000)
    for seed in range(ROUNDS):
        key = str(uuid4())
        amounts = [5, 7] * (CALLERS // 2)
        random.Random(seed).shuffle(amounts)

        answers = await at_once(KEYED[kind](service, key, amount) for amount in amounts)

        winners = {amount for amount, a in zip(amounts, answers, strict=True) if a.status < 300}
        assert len(winners) == 1
        first = "201" if kind == "gift" else "200"
        assert outcomes(answers) == {
            first: 1,
            f"{first} replayed": CALLERS // 2 - 1,
            "409 idempotency_key_reused": CALLERS // 2,
        }
        assert len({str(result(answer)) for answer in answers if answer.status < 300}) == 1
        assert await admin.fetchval(MADE, key) == 1
        await require_sound(admin)


async def test_a_grant_of_two_amounts_is_made_once(service: Running, admin: Connection) -> None:
    answers = await at_once(_grant(service, "quest-1", 5 + number % 2) for number in range(CALLERS))

    assert outcomes(answers) == {"200": 1, "200 replayed": CALLERS - 1}
    assert len({answer.body["transactionId"] for answer in answers}) == 1
    (row,) = await ledger(admin, "ann")
    assert row["amount"] == await service.balance("ann")
    assert row["amount"] in (5, 6)


@pytest.mark.parametrize(
    ("one", "other"),
    [("use", "gift"), ("use by a service", "reserve"), ("refund", "reserve")],
)
async def test_of_two_kinds_of_call_under_one_key_only_one_is_made(
    service: Running, admin: Connection, one: str, other: str
) -> None:
    await service.grant("ann", 1000)
    for seed in range(ROUNDS):
        key = str(uuid4())
        kinds = [one, other] * (CALLERS // 2)
        random.Random(seed).shuffle(kinds)

        answers = await at_once(KEYED[kind](service, key, 5) for kind in kinds)

        made = [a for a in answers if a.status < 300]
        assert len({kind for kind, a in zip(kinds, answers, strict=True) if a.status < 300}) == 1
        assert len(made) == CALLERS // 2
        assert len({str(result(answer)) for answer in made}) == 1
        assert outcomes(a for a in answers if a.status >= 300) == {
            "409 idempotency_key_reused": CALLERS // 2
        }
        assert await admin.fetchval(MADE, key) == 1
        await require_sound(admin)


async def test_refunds_of_one_debit_never_exceed_it(service: Running, admin: Connection) -> None:
    await service.grant("ann", 100)
    taken = await use(service, "ann", 70)
    body = {
        "userId": "ann",
        "amount": 10,
        "description": "failed",
        "transactionId": taken.body["transaction"]["id"],
    }

    answers = await at_once(
        service.call("POST", "/internal/credits/refund", internal=True, json=body)
        for _ in range(CALLERS)
    )

    assert outcomes(answers) == {"200": 7, "400 invalid_request": CALLERS - 7}
    assert len(await ledger(admin, "ann", type="refund")) == 7
    assert await service.balance("ann") == 100
    await require_sound(admin)


async def test_first_moves_of_a_user_never_seen_make_one_balance(
    service: Running, admin: Connection
) -> None:
    for round_ in range(ROUNDS):
        user = f"new-{round_}"

        answers = await at_once(
            service.call(
                "POST",
                "/internal/credits/grant",
                internal=True,
                json={"userId": user, "amount": 1, "reason": "reward", "referenceId": f"{number}"},
            )
            for number in range(CALLERS)
        )

        assert outcomes(answers) == {"200": CALLERS}
        assert [row["seq"] for row in await ledger(admin, user)] == list(range(1, CALLERS + 1))
        assert await service.balance(user) == CALLERS
        await require_sound(admin)
