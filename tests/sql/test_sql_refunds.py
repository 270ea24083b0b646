"""Refunds: credits.refund_credits."""

from uuid import UUID, uuid4

from tests.support.calls import amounts, call, debit, grant, ledger, refusal
from tests.support.databases import Connection

REFUND = "credits.refund_credits"


async def test_a_refund_without_key_or_debit_is_done_each_time(
    admin: Connection, service_login: Connection
) -> None:
    for total in (4, 8):
        move = await call(service_login, REFUND, user_id="ann", amount=4, description="x")
        assert (move["type"], move["amount"], move["available"]) == ("refund", 4, total)
    assert (await ledger(admin, "ann"))[-1]["app_id"] == "system"


async def test_a_key_again_answers_the_first_refund(
    admin: Connection, service_login: Connection
) -> None:
    arguments = {"user_id": "ann", "amount": 4, "description": "x", "idempotency_key": "k"}
    first = await call(service_login, REFUND, **arguments)
    again = await call(service_login, REFUND, **arguments)
    assert dict(again) == {**dict(first), "replayed": True}
    assert await amounts(admin, "ann") == [("refund", 4)]


async def test_refunds_of_a_debit_never_exceed_it(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 100)
    taken = await debit(service_login, "ann", 10)
    arguments = {"user_id": "ann", "description": "x", "transaction_id": taken["id"]}
    first = await call(service_login, REFUND, amount=3, **arguments)
    assert first["reference_id"] == taken["id"]
    await call(service_login, REFUND, amount=4, **arguments)

    too_much = await refusal(service_login, REFUND, amount=4, **arguments)
    assert (too_much.sqlstate, too_much.field) == ("MC001", "amount")
    assert too_much.facts["left"] == 3
    await call(service_login, REFUND, amount=3, **arguments)
    nothing_left = await refusal(service_login, REFUND, amount=1, **arguments)
    assert nothing_left.facts["left"] == 0
    assert await amounts(admin, "ann") == [
        ("grant", 100),
        ("usage", -10),
        ("refund", 3),
        ("refund", 4),
        ("refund", 3),
    ]


async def test_a_refund_larger_than_its_debit_names_the_whole_debit(
    service_login: Connection,
) -> None:
    await grant(service_login, "ann", 100)
    taken = await debit(service_login, "ann", 10)
    refused = await refusal(
        service_login,
        REFUND,
        user_id="ann",
        amount=11,
        description="x",
        transaction_id=taken["id"],
    )
    assert refused.facts["left"] == 10


async def test_what_was_committed_of_a_reservation_can_be_refunded(
    service_login: Connection,
) -> None:
    await grant(service_login, "ann", 100)
    held = await call(
        service_login, "credits.reserve_credits", user_id="ann", amount=10, reason="research"
    )
    committed = await call(
        service_login,
        "credits.commit_reservation",
        reservation_id=held["reservation_id"],
        amount=6,
    )
    arguments = {
        "user_id": "ann",
        "description": "x",
        "transaction_id": committed["transaction_id"],
    }
    assert (await refusal(service_login, REFUND, amount=7, **arguments)).facts["left"] == 6
    assert (await call(service_login, REFUND, amount=6, **arguments))["available"] == 100


async def test_only_a_debit_of_the_same_user_is_refunded(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 100)
    await grant(service_login, "bob", 100)
    taken = await debit(service_login, "ann", 10)
    granted = (await ledger(admin, "ann"))[0]["id"]
    refunded = await call(service_login, REFUND, user_id="ann", amount=1, description="x")
    cases: list[tuple[str, UUID]] = [
        ("bob", taken["id"]),
        ("ann", granted),
        ("ann", refunded["id"]),
        ("ann", uuid4()),
    ]
    for user, named in cases:
        refused = await refusal(
            service_login,
            REFUND,
            user_id=user,
            amount=1,
            description="x",
            transaction_id=named,
        )
        assert (refused.sqlstate, refused.facts) == ("MC004", {"resource": "transaction"})


async def test_a_refused_refund_leaves_its_key_unused(service_login: Connection) -> None:
    await grant(service_login, "ann", 100)
    taken = await debit(service_login, "ann", 10)
    arguments = {
        "user_id": "ann",
        "description": "x",
        "transaction_id": taken["id"],
        "idempotency_key": "k",
    }
    await refusal(service_login, REFUND, amount=11, **arguments)
    assert (await call(service_login, REFUND, amount=10, **arguments))["replayed"] is False


async def test_a_keyed_refund_of_a_spent_debit_is_still_answered_again(
    service_login: Connection,
) -> None:
    await grant(service_login, "ann", 100)
    taken = await debit(service_login, "ann", 10)
    arguments = {
        "user_id": "ann",
        "amount": 10,
        "description": "x",
        "transaction_id": taken["id"],
        "idempotency_key": "k",
    }
    first = await call(service_login, REFUND, **arguments)
    again = await call(service_login, REFUND, **arguments)
    assert (again["id"], again["replayed"]) == (first["id"], True)


async def test_a_refund_is_not_subtracted_from_what_was_used(service_login: Connection) -> None:
    await grant(service_login, "ann", 100)
    taken = await debit(service_login, "ann", 10)
    move = await call(
        service_login,
        REFUND,
        user_id="ann",
        amount=10,
        description="x",
        transaction_id=taken["id"],
    )
    assert (move["total_earned"], move["total_spent"]) == (110, 10)
    usage = await call(service_login, "credits.list_usage", user_id="ann")
    assert (usage["credits_used"], usage["operations"]) == (10, 1)
