"""Reservations: reserve_credits, commit_reservation, refund_reservation, and their expiry."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from tests.support.calls import (
    amounts,
    available,
    call,
    debit,
    grant,
    ledger,
    refusal,
    reverse,
    rows,
)
from tests.support.databases import Clone, Connection, connect
from tests.support.races import blocked

RESERVE = "credits.reserve_credits"
COMMIT = "credits.commit_reservation"
REFUND = "credits.refund_reservation"


async def hold(connection: Connection, amount: int = 10, **more: Any) -> asyncpg.Record:
    """Ann reserves credits."""
    arguments = {"reason": "research: deep", **more}
    return await call(connection, RESERVE, user_id="ann", amount=amount, **arguments)


async def sweep(admin: Connection, after: timedelta) -> asyncpg.Record:
    """Give back what has run out by then."""
    result = await admin.fetchrow(
        """
        SELECT * FROM credits._expire_reservations(
            clock_timestamp() + $1::interval, 100, '-infinity', ''
        )
        """,
        after,
    )
    assert result is not None
    return result


async def test_a_hold_sets_credits_aside_and_writes_no_ledger_row(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    held = await hold(service_login, 10)
    assert (held["available"], held["status"], held["replayed"]) == (20, "open", False)
    assert held["expires_at"] - held["created_at"] == timedelta(days=1)
    balance = await call(service_login, "credits.get_balance", user_id="ann")
    assert (balance["available"], balance["reserved"], balance["total_spent"]) == (20, 10, 0)
    assert await amounts(admin, "ann") == [("grant", 30)]


async def test_no_hold_takes_more_than_can_be_spent(service_login: Connection) -> None:
    await grant(service_login, "ann", 30)
    await hold(service_login, 25)
    refused = await refusal(service_login, RESERVE, user_id="ann", amount=6, reason="x")
    assert (refused.sqlstate, refused.facts) == ("MC002", {"required": 6, "available": 5})
    assert (await hold(service_login, 5))["available"] == 0


async def test_a_commit_debits_what_was_held(admin: Connection, service_login: Connection) -> None:
    await grant(service_login, "ann", 30)
    held = await hold(service_login, 10)
    committed = await call(
        service_login, COMMIT, reservation_id=held["reservation_id"], user_id="ann"
    )
    assert (committed["amount"], committed["available"]) == (10, 20)
    row = (await ledger(admin, "ann"))[-1]
    assert row["id"] == committed["transaction_id"]
    assert (row["type"], row["amount"], row["app_id"], row["description"], row["reference_id"]) == (
        "usage",
        -10,
        "research",
        "research: deep",
        held["reservation_id"],
    )


async def test_what_is_not_committed_goes_back(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    held = await hold(service_login, 10)
    committed = await call(
        service_login,
        COMMIT,
        reservation_id=held["reservation_id"],
        amount=4,
        description="Half of it",
    )
    assert (committed["amount"], committed["available"]) == (4, 26)
    assert (await ledger(admin, "ann"))[-1]["description"] == "Half of it"
    balance = await call(service_login, "credits.get_balance", user_id="ann")
    assert balance["reserved"] == 0


async def test_no_commit_takes_more_than_was_held(service_login: Connection) -> None:
    await grant(service_login, "ann", 30)
    held = await hold(service_login, 10)
    refused = await refusal(service_login, COMMIT, reservation_id=held["reservation_id"], amount=11)
    assert (refused.sqlstate, refused.field) == ("MC001", "amount")
    assert await available(service_login, "ann") == 20


async def test_a_reversal_in_between_does_not_undo_a_commit(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 10)
    held = await hold(service_login, 10)
    await reverse(admin, "ann", 10)
    committed = await call(service_login, COMMIT, reservation_id=held["reservation_id"])
    assert committed["available"] == -10


async def test_the_app_is_the_reason_before_the_first_colon(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 10)
    for reason, app in [
        ("research", "research"),
        (" research : deep: 2", "research"),
        (": deep", "system"),
        ("  ", "system"),
        ("r" * 200, "r" * 200),
    ]:
        held = await hold(service_login, 1, reason=reason)
        await call(service_login, COMMIT, reservation_id=held["reservation_id"])
        assert (await ledger(admin, "ann"))[-1]["app_id"] == app, reason
    used = await rows(service_login, "credits.list_usage", user_id="ann")
    assert {day["app_id"]: day["credits_used"] for day in used} == {
        "research": 2,
        "system": 2,
        "r" * 200: 1,
    }


async def test_a_hold_past_its_time_is_committed_until_it_is_swept(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    held = await hold(service_login, 10)
    await admin.execute(
        "UPDATE credits.reservations SET expires_at = clock_timestamp() - interval '1 day'"
    )
    committed = await call(service_login, COMMIT, reservation_id=held["reservation_id"])
    assert committed["amount"] == 10
    assert (await sweep(admin, timedelta(days=2)))["done"] == 0
    assert await available(service_login, "ann") == 20


async def test_a_swept_hold_is_back_and_cannot_be_committed(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    held = await hold(service_login, 10, expires_in_seconds=60)
    assert (await sweep(admin, timedelta(0)))["done"] == 0
    assert (await sweep(admin, timedelta(minutes=2)))["done"] == 1
    assert await available(service_login, "ann") == 30
    refused = await refusal(service_login, COMMIT, reservation_id=held["reservation_id"])
    assert (refused.sqlstate, refused.facts) == ("MC013", {"status": "expired"})
    assert await amounts(admin, "ann") == [("grant", 30)]


async def test_sweeping_again_gives_nothing_back_twice(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    for _ in range(3):
        await hold(service_login, 5, expires_in_seconds=60)
    assert [(await sweep(admin, timedelta(minutes=2)))["done"] for _ in range(2)] == [3, 0]
    assert await available(service_login, "ann") == 30


async def test_a_refunded_hold_is_back(admin: Connection, service_login: Connection) -> None:
    await grant(service_login, "ann", 30)
    held = await hold(service_login, 10)
    returned = await call(
        service_login, REFUND, reservation_id=held["reservation_id"], user_id="ann"
    )
    assert (returned["status"], returned["available"], returned["replayed"]) == (
        "refunded",
        30,
        False,
    )
    assert await amounts(admin, "ann") == [("grant", 30)]


async def test_the_same_end_again_answers_the_same(service_login: Connection) -> None:
    await grant(service_login, "ann", 30)
    refunded = await hold(service_login, 10)
    await call(service_login, REFUND, reservation_id=refunded["reservation_id"])
    again = await call(service_login, REFUND, reservation_id=refunded["reservation_id"])
    assert (again["status"], again["available"], again["replayed"]) == ("refunded", 30, True)

    committed = await hold(service_login, 10)
    first = await call(service_login, COMMIT, reservation_id=committed["reservation_id"], amount=4)
    # The first result, whatever is asked for the second time.
    for amount in (None, 4, 10):
        repeat = await call(
            service_login, COMMIT, reservation_id=committed["reservation_id"], amount=amount
        )
        assert dict(repeat) == {**dict(first), "replayed": True}


async def test_refunding_an_expired_hold_changes_nothing_more(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    held = await hold(service_login, 10, expires_in_seconds=60)
    await sweep(admin, timedelta(minutes=2))
    returned = await call(service_login, REFUND, reservation_id=held["reservation_id"])
    assert (returned["status"], returned["available"], returned["replayed"]) == (
        "expired",
        30,
        True,
    )


async def test_the_opposite_of_what_happened_is_refused(service_login: Connection) -> None:
    await grant(service_login, "ann", 30)
    committed, refunded = await hold(service_login, 10), await hold(service_login, 10)
    await call(service_login, COMMIT, reservation_id=committed["reservation_id"])
    await call(service_login, REFUND, reservation_id=refunded["reservation_id"])
    for function, held, status in [
        (REFUND, committed, "committed"),
        (COMMIT, refunded, "refunded"),
    ]:
        refused = await refusal(service_login, function, reservation_id=held["reservation_id"])
        assert (refused.sqlstate, refused.facts) == ("MC013", {"status": status})


async def test_a_hold_of_another_user_is_not_found(service_login: Connection) -> None:
    await grant(service_login, "ann", 30)
    held = await hold(service_login, 10)
    await call(service_login, "credits.init_balance", user_id="bob")
    cases: list[tuple[str | None, UUID]] = [
        ("bob", held["reservation_id"]),
        ("", held["reservation_id"]),
        (None, uuid4()),
        ("ann", uuid4()),
    ]
    for function in (COMMIT, REFUND):
        for user, reservation_id in cases:
            refused = await refusal(
                service_login, function, reservation_id=reservation_id, user_id=user
            )
            assert (refused.sqlstate, refused.facts) == ("MC004", {"resource": "reservation"})
    assert await available(service_login, "ann") == 20


async def test_a_key_again_answers_the_first_hold(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    first = await hold(service_login, 10, idempotency_key="k")
    await debit(service_login, "ann", 5)
    again = await hold(
        service_login,
        10,
        idempotency_key="k",
        reason="research: other words",
        expires_in_seconds=60,
    )
    assert dict(again) == {**dict(first), "replayed": True, "available": 15}
    assert await admin.fetchval("SELECT count(*) FROM credits.reservations") == 1


async def test_a_key_again_answers_a_hold_that_is_resolved(service_login: Connection) -> None:
    await grant(service_login, "ann", 30)
    first = await hold(service_login, 10, idempotency_key="k")
    await call(service_login, REFUND, reservation_id=first["reservation_id"])
    again = await hold(service_login, 10, idempotency_key="k")
    assert (again["reservation_id"], again["status"]) == (first["reservation_id"], "refunded")
    assert await available(service_login, "ann") == 30


async def test_of_commit_and_refund_at_once_one_wins(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    held = await hold(service_login, 10)
    other = await connect(database.service_url)
    try:
        async with service_login.transaction():
            await call(service_login, COMMIT, reservation_id=held["reservation_id"], amount=3)
            late = asyncio.create_task(
                refusal(other, REFUND, reservation_id=held["reservation_id"])
            )
            await blocked(admin, other, late)
        assert (await late).sqlstate == "MC013"
    finally:
        await other.close()
    assert await available(service_login, "ann") == 27
