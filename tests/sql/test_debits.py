"""Debits: credits.use_credits."""

from uuid import UUID

import asyncpg
import pytest

from tests.support.calls import amounts, available, call, debit, grant, ledger, refusal, reverse
from tests.support.databases import Connection, detail

USE = "credits.use_credits"


async def test_debit_takes_what_is_there(
    service_login: Connection,
) -> None:
    await service_login.fetchrow("SELECT * FROM credits.grant_credits('ann', 10, 'test', 'start')")

    move = await service_login.fetchrow("SELECT * FROM credits.use_credits('ann', 10, 'app', 'x')")

    assert move is not None
    assert (move["amount"], move["available"], move["replayed"]) == (-10, 0, False)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await service_login.fetchrow("SELECT * FROM credits.use_credits('ann', 1, 'app', 'x')")
    assert caught.value.sqlstate == "MC002"
    assert detail(caught.value) == {"required": 1, "available": 0}


async def test_a_user_never_seen_has_nothing_and_stays_unseen(
    admin: Connection, service_login: Connection
) -> None:
    refused = await refusal(
        service_login, USE, user_id="ann", amount=5, app_id="app", description="x"
    )
    assert (refused.sqlstate, refused.facts) == ("MC002", {"required": 5, "available": 0})
    assert await admin.fetchval("SELECT count(*) FROM credits.balances") == 0


async def test_the_move_is_written_down_as_it_was_asked_for(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 10)
    move_id = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    move = await debit(
        service_login,
        "ann",
        4,
        app_id="chat",
        description="A message",
        metadata={"model": "gpt4"},
        idempotency_key="k",
        id=move_id,
        origin="user",
    )
    row = dict((await ledger(admin, "ann"))[-1])
    assert row.pop("created_at") == move["created_at"]
    assert row == {
        "user_id": "ann",
        "seq": 2,
        "id": move_id,
        "type": "usage",
        "origin": "user",
        "amount": -4,
        "balance_before": 10,
        "balance_after": 6,
        "app_id": "chat",
        "description": "A message",
        "metadata": {"model": "gpt4"},
        "reference_id": None,
        "idempotency_key": "k",
    }


async def test_without_an_id_a_uuid_of_version_7_is_drawn(service_login: Connection) -> None:
    await grant(service_login, "ann", 10)
    ids = [(await debit(service_login, "ann", 1))["id"] for _ in range(5)]
    assert {drawn.version for drawn in ids} == {7}
    assert {drawn.variant for drawn in ids} == {"specified in RFC 4122"}
    moved_at = (await debit(service_login, "ann", 1))["created_at"]
    # The first 48 bits are the milliseconds since 1970, so that an index on ids only appends.
    assert abs((ids[-1].int >> 80) / 1000 - moved_at.timestamp()) < 60


async def test_without_a_key_every_call_debits(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 10)
    first = await debit(service_login, "ann", 3)
    second = await debit(service_login, "ann", 3)
    assert first["id"] != second["id"]
    assert await amounts(admin, "ann") == [("grant", 10), ("usage", -3), ("usage", -3)]


async def test_a_key_again_answers_the_first_debit_whatever_the_words(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 10)
    first = await debit(service_login, "ann", 3, idempotency_key="k", metadata={"n": 1})
    await debit(service_login, "ann", 2)
    again = await debit(
        service_login, "ann", 3, idempotency_key="k", description="Other words", metadata={"n": 2}
    )
    # The first result, and beside it what the user has now.
    assert dict(again) == {**dict(first), "replayed": True, "available": 5, "total_spent": 5}
    assert await amounts(admin, "ann") == [("grant", 10), ("usage", -3), ("usage", -2)]


async def test_a_key_is_answered_again_when_the_credits_are_gone(
    service_login: Connection,
) -> None:
    await grant(service_login, "ann", 3)
    first = await debit(service_login, "ann", 3, idempotency_key="k")
    assert (await debit(service_login, "ann", 3, idempotency_key="k"))["id"] == first["id"]


async def test_a_key_belongs_to_one_user(service_login: Connection) -> None:
    for user in ("ann", "bob"):
        await grant(service_login, user, 10)
        move = await debit(service_login, user, 3, idempotency_key="k")
        assert (move["replayed"], move["available"]) == (False, 7)


async def test_a_key_belongs_to_one_origin(service_login: Connection) -> None:
    await grant(service_login, "ann", 20)
    first = {
        origin: await debit(service_login, "ann", amount, idempotency_key="k", origin=origin)
        for origin, amount in (("user", 3), ("service", 5))
    }
    assert [move["replayed"] for move in first.values()] == [False, False]
    for origin, amount in (("service", 5), ("user", 3)):
        again = await debit(service_login, "ann", amount, idempotency_key="k", origin=origin)
        assert (again["id"], again["replayed"]) == (first[origin]["id"], True)


async def test_a_call_that_failed_leaves_its_key_unused(service_login: Connection) -> None:
    await grant(service_login, "ann", 2)
    arguments = {
        "user_id": "ann",
        "amount": 3,
        "app_id": "app",
        "description": "x",
        "idempotency_key": "k",
    }
    assert (await refusal(service_login, USE, **arguments)).sqlstate == "MC002"
    await grant(service_login, "ann", 2, "more")
    assert (await call(service_login, USE, **arguments))["replayed"] is False


async def test_held_credits_cannot_be_spent(service_login: Connection) -> None:
    await grant(service_login, "ann", 10)
    await call(service_login, "credits.reserve_credits", user_id="ann", amount=7, reason="research")
    refused = await refusal(
        service_login, USE, user_id="ann", amount=4, app_id="app", description="x"
    )
    assert refused.facts == {"required": 4, "available": 3}
    assert (await debit(service_login, "ann", 3))["available"] == 0


async def test_after_a_reversal_nothing_is_available_and_later_credits_repay_it(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 10)
    await reverse(admin, "ann", 30)
    assert await available(service_login, "ann") == -20
    refused = await refusal(
        service_login, USE, user_id="ann", amount=1, app_id="app", description="x"
    )
    assert refused.facts == {"required": 1, "available": 0}
    await grant(service_login, "ann", 25, "more")
    assert await available(service_login, "ann") == 5


async def test_the_largest_amounts_add_up(service_login: Connection) -> None:
    await grant(service_login, "ann", 1_000_000_000)
    await grant(service_login, "ann", 1_000_000_000, "more")
    move = await debit(service_login, "ann", 1_000_000_000)
    assert (move["available"], move["total_earned"]) == (1_000_000_000, 2_000_000_000)
