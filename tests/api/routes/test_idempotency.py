"""Idempotency over HTTP: the same key with the same request moves once, with another is a 409."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.answers import header, require_error
from tests.support.databases import Connection
from tests.support.running import Answer, Running

Send = Callable[..., Awaitable[Answer]]
PROCESSED = "Transaction already processed"
USER = "whoever the test is about"

DEBIT = {"amount": 10, "appId": "app", "description": "x"}
CALLS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: path, the request, and a change that makes it another request
    "use": ("/credits/use", DEBIT, {"amount": 11}),
    "use in another app": ("/credits/use", DEBIT, {"appId": "other"}),
    "gift": ("/gifts", {"totalCredits": 10}, {"totalCredits": 11}),
    "gift to another": (
        "/gifts",
        {"totalCredits": 10, "type": "personalized", "targetEmail": "zoe@example.org"},
        {"targetEmail": "other@example.org"},
    ),
    "gift of another type": (
        "/gifts",
        {"totalCredits": 10},
        {"type": "personalized", "targetEmail": "zoe@example.org"},
    ),
    "internal use": ("/internal/credits/use", {**DEBIT, "userId": USER}, {"amount": 11}),
    "refund": (
        "/internal/credits/refund",
        {"userId": USER, "amount": 10, "description": "x"},
        {"amount": 11},
    ),
    "refund in another app": (
        "/internal/credits/refund",
        {"userId": USER, "amount": 10, "description": "x"},
        {"appId": "other"},
    ),
    "reserve": (
        "/internal/credits/reserve",
        {"userId": USER, "amount": 10, "reason": "research:deep"},
        {"amount": 11},
    ),
    "reserve in another app": (
        "/internal/credits/reserve",
        {"userId": USER, "amount": 10, "reason": "research:deep"},
        {"reason": "pictures:deep"},
    ),
}
KINDS = ["use", "gift", "internal use", "refund", "reserve"]
OTHER_WORDS: dict[str, dict[str, Any]] = {
    "use": {"description": "other words", "metadata": {"a": 1}},
    "gift": {"message": "other words", "expirationDays": 5},
    "internal use": {"description": "other words", "metadata": {"a": 1}},
    "refund": {"description": "other words", "metadata": {"a": 1}},
    "reserve": {"reason": "research:other words", "expiresInSeconds": 60},
}


async def send(
    service: Running,
    user: str,
    path: str,
    body: dict[str, Any],
    headers: dict[str, str] | None = None,
) -> Answer:
    internal = path.startswith("/internal")
    body = {name: user if value == USER else value for name, value in body.items()}
    return await service.call(
        "POST",
        path,
        user=None if internal else user,
        internal=internal,
        json=body,
        headers=headers,
    )


def without(answer: Answer, *names: str) -> dict[str, Any]:
    return {name: value for name, value in answer.body.items() if name not in names}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_repetition_answers_the_first_result_and_moves_nothing(
    service: Running, kind: str, ann: str
) -> None:
    path, body, _ = CALLS[kind]
    await service.grant(ann, 100)
    first = await send(service, ann, path, {**body, "idempotencyKey": "key"})
    moved = await service.balance(ann)
    assert first.status in (200, 201)
    assert header(first, "Idempotent-Replayed") is None
    assert moved != 100

    second = await send(service, ann, path, {**body, "idempotencyKey": "key"})

    assert second.status == first.status
    assert header(second, "Idempotent-Replayed") == "true"
    assert await service.balance(ann) == moved
    if kind == "gift":
        # A gift has a message of its own, which is not written over.
        assert second.body == first.body
    else:
        assert "message" not in first.body
        assert second.body == {**first.body, "message": PROCESSED}


@pytest.mark.parametrize("kind", KINDS)
async def test_other_words_are_the_same_request(service: Running, kind: str, ann: str) -> None:
    path, body, _ = CALLS[kind]
    await service.grant(ann, 100)
    first = await send(service, ann, path, {**body, "idempotencyKey": "key"})

    second = await send(service, ann, path, {**body, **OTHER_WORDS[kind], "idempotencyKey": "key"})

    assert second.status == first.status
    assert header(second, "Idempotent-Replayed") == "true"
    assert without(second, "message") == without(first, "message")


@pytest.mark.parametrize("name", CALLS)
async def test_the_same_key_for_another_request_is_refused(
    service: Running, name: str, ann: str
) -> None:
    path, body, change = CALLS[name]
    await service.grant(ann, 100)
    assert (await send(service, ann, path, {**body, "idempotencyKey": "key"})).status in (200, 201)
    moved = await service.balance(ann)

    answer = await send(service, ann, path, {**body, **change, "idempotencyKey": "key"})

    require_error(answer, 409, "idempotency_key_reused")
    assert await service.balance(ann) == moved


async def test_operations_of_one_origin_share_one_key_space(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    for first in KINDS:
        for second in KINDS:
            first_path, second_path = CALLS[first][0], CALLS[second][0]
            if first_path == second_path:
                continue
            key = f"{first} {second}"
            await send(
                service, ann, first_path, {**CALLS[first][1], "amount": 1, "idempotencyKey": key}
            )
            answer = await send(
                service, ann, second_path, {**CALLS[second][1], "amount": 1, "idempotencyKey": key}
            )
            if first_path.startswith("/internal") == second_path.startswith("/internal"):
                require_error(answer, 409, "idempotency_key_reused")
            else:
                assert answer.status in (200, 201), (key, answer.body)


async def test_keys_belong_to_one_user(service: Running, ann: str, bob: str) -> None:
    for user in (ann, bob):
        await service.grant(user, 100)
        answer = await service.call(
            "POST", "/credits/use", user=user, json={**DEBIT, "idempotencyKey": "key"}
        )
        assert answer.status == 200
        assert header(answer, "Idempotent-Replayed") is None

    assert await service.balance(bob) == 90


async def test_a_key_in_the_header(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    first = await send(service, ann, "/credits/use", DEBIT, {"Idempotency-Key": "key"})
    in_header = await send(service, ann, "/credits/use", DEBIT, {"Idempotency-Key": "key"})
    in_body = await send(service, ann, "/credits/use", {**DEBIT, "idempotencyKey": "key"})

    assert first.body["transaction"]["idempotencyKey"] == "key"
    for repeated in (in_header, in_body):
        assert header(repeated, "Idempotent-Replayed") == "true"
        assert repeated.body["transaction"] == first.body["transaction"]
    assert await service.balance(ann) == 90


async def test_the_key_in_the_body_wins(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    both = {**DEBIT, "idempotencyKey": "in the body"}
    await send(service, ann, "/credits/use", both, {"Idempotency-Key": "in the header"})

    other = await send(service, ann, "/credits/use", DEBIT, {"Idempotency-Key": "in the header"})
    same = await send(service, ann, "/credits/use", both, {"Idempotency-Key": "whatever"})

    assert header(other, "Idempotent-Replayed") is None
    assert header(same, "Idempotent-Replayed") == "true"
    assert await service.balance(ann) == 80


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "use"])
async def test_every_call_that_moves_takes_the_header(
    service: Running, kind: str, ann: str
) -> None:
    path, body, _ = CALLS[kind]
    await service.grant(ann, 100)
    first = await send(service, ann, path, body, {"Idempotency-Key": "key"})
    second = await send(service, ann, path, body, {"Idempotency-Key": "key"})

    assert header(second, "Idempotent-Replayed") == "true"
    assert without(second, "message") == without(first, "message")


async def test_new_balance_is_the_balance_now(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    keyed = {**DEBIT, "idempotencyKey": "key"}
    await send(service, ann, "/credits/use", keyed)
    await send(service, ann, "/credits/use", {**DEBIT, "amount": 50})

    repeated = await send(service, ann, "/credits/use", keyed)

    assert repeated.body["newBalance"] == {"balance": 40, "totalEarned": 100, "totalSpent": 60}
    assert repeated.body["transaction"]["balanceAfter"] == 90


@pytest.mark.parametrize("kind", ["use", "gift", "internal use", "reserve"])
async def test_a_call_that_failed_leaves_its_key_unused(
    service: Running, kind: str, ann: str
) -> None:
    path, body, _ = CALLS[kind]
    keyed = {**body, "idempotencyKey": "key"}
    refused = await send(service, ann, path, keyed)
    require_error(refused, 402, "insufficient_credits")
    invalid = await send(service, ann, path, {**keyed, "amount": 0, "totalCredits": 0})
    require_error(invalid, 400, "invalid_request")
    await service.grant(ann, 100)

    answer = await send(service, ann, path, keyed)

    assert answer.status in (200, 201)
    assert header(answer, "Idempotent-Replayed") is None
    assert await service.balance(ann) == 90


async def test_without_a_key_every_call_moves(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    for _ in range(3):
        answer = await send(service, ann, "/credits/use", DEBIT)
        assert header(answer, "Idempotent-Replayed") is None

    assert await service.balance(ann) == 70


@pytest.mark.parametrize("kind", KINDS)
async def test_one_key_at_the_same_moment_moves_once(service: Running, kind: str, ann: str) -> None:
    path, body, _ = CALLS[kind]
    await service.grant(ann, 1000)

    answers = await asyncio.gather(
        *(send(service, ann, path, {**body, "idempotencyKey": "key"}) for _ in range(20))
    )

    assert len({answer.status for answer in answers}) == 1
    assert sum(header(answer, "Idempotent-Replayed") is None for answer in answers) == 1
    assert abs(await service.balance(ann) - 1000) == 10
    named = {
        answer.body.get("transaction", {}).get("id")
        or answer.body.get("reservationId")
        or answer.body.get("id")
        for answer in answers
    }
    assert len(named) == 1


async def test_one_key_with_two_amounts_moves_one_of_them(service: Running, ann: str) -> None:
    await service.grant(ann, 1000)

    answers = await asyncio.gather(
        *(
            send(
                service,
                ann,
                "/credits/use",
                {**DEBIT, "amount": 10 + number % 2, "idempotencyKey": "key"},
            )
            for number in range(20)
        )
    )

    assert sorted(answer.status for answer in answers) == [200] * 10 + [409] * 10
    amounts = {answer.body["transaction"]["amount"] for answer in answers if answer.status == 200}
    assert len(amounts) == 1
    assert await service.balance(ann) == 1000 + amounts.pop()


async def test_a_user_cannot_occupy_a_key_of_the_database(
    service: Running, admin: Connection, ann: str
) -> None:
    await service.grant(ann, 200)
    await service.call("POST", "/sync/activate", user=ann)
    due = await admin.fetchval(
        "UPDATE credits.sync_subscriptions SET next_charge_at = now() - interval '1 hour',"
        " paid_until = now() - interval '1 hour'"
        " WHERE user_id = $1 RETURNING credits._utc_text(next_charge_at)",
        ann,
    )
    for key in (f"sync:{due}", "grant:bonus"):
        occupied = await send(
            service, ann, "/credits/use", {**DEBIT, "amount": 1, "idempotencyKey": key}
        )
        assert occupied.status == 200

    run = await service.call("POST", "/internal/sync/charge-recurring", internal=True)
    await service.grant(ann, 5, "bonus")

    assert run.body["charged"] == 1
    assert await service.balance(ann) == 200 - 30 - 2 - 30 + 5
