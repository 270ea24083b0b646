"""Arguments that no function takes: missing ones, amounts and texts out of bounds.

Every refusal of a table is tried in one database, which afterwards must be as it was.
"""

from typing import Any
from uuid import uuid4

import pytest

from tests.support.calls import (
    Refusal,
    available,
    call,
    debit,
    grant,
    make_package,
    refusal,
    rows,
)
from tests.support.databases import Connection

TOO_MUCH = 1_000_000_001
LARGEST_BIGINT = 2**63 - 1


async def refusals(
    connection: Connection, function: str, good: dict[str, Any], cases: dict[str, list[Any]]
) -> list[tuple[str, Any, Refusal]]:
    """What a call answers when one of its arguments is replaced by each of its bad values."""
    return [
        (name, value, await refusal(connection, function, **{**good, name: value}))
        for name, values in cases.items()
        for value in values
    ]


async def required_arguments(admin: Connection) -> set[tuple[str, str]]:
    """Every argument of the service's functions that a caller cannot leave out."""
    found = await admin.fetch(
        """
        SELECT p.oid::regproc::text AS function, a.name
        FROM pg_proc AS p
        CROSS JOIN unnest(p.proargnames) WITH ORDINALITY AS a (name, place)
        WHERE p.pronamespace IN ('credits'::regnamespace, 'gifts'::regnamespace)
            AND has_function_privilege('mana_credits_service', p.oid, 'EXECUTE')
            AND a.place <= p.pronargs - p.pronargdefaults
        """
    )
    return {(row["function"], row["name"].removeprefix("p_")) for row in found}


async def test_a_missing_argument_never_passes_a_check(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 1000)
    taken = await debit(service_login, "ann", 5)
    held = await call(service_login, "credits.reserve_credits", user_id="ann", amount=5, reason="x")
    gift = await call(
        service_login,
        "gifts.create_gift",
        user_id="ann",
        credits=5,
        type="personalized",
        target_email="bob@example.org",
    )
    package = await make_package(admin)
    purchase = await call(
        service_login, "credits.start_purchase", user_id="ann", package_id=package
    )
    good: dict[str, dict[str, Any]] = {
        "credits.use_credits": {
            "user_id": "ann",
            "amount": 1,
            "app_id": "app",
            "description": "x",
            "origin": "user",
        },
        "credits.refund_credits": {
            "user_id": "ann",
            "amount": 1,
            "description": "x",
            "app_id": "app",
            "transaction_id": taken["id"],
        },
        "credits.grant_credits": {
            "user_id": "ann",
            "amount": 1,
            "reason": "x",
            "reference_id": "new",
        },
        "credits.reserve_credits": {
            "user_id": "ann",
            "amount": 1,
            "reason": "x",
            "expires_in_seconds": 60,
        },
        "credits.commit_reservation": {"reservation_id": held["reservation_id"]},
        "credits.refund_reservation": {"reservation_id": held["reservation_id"]},
        "credits.activate_sync": {"user_id": "ann", "interval": "monthly"},
        "credits.change_sync_interval": {"user_id": "ann", "interval": "monthly"},
        "credits.deactivate_sync": {"user_id": "ann"},
        "credits.gift_sync": {"user_id": "ann"},
        "credits.revoke_sync_gift": {"user_id": "ann"},
        "credits.charge_due_subscriptions": {"batch_size": 10},
        "credits.start_purchase": {"user_id": "ann", "package_id": package},
        "credits.follow_payment": {
            "user_id": "ann",
            "purchase_id": purchase["id"],
            "stripe_payment_intent_id": "pi_1",
            "stripe_status": "succeeded",
            "received_euro_cents": 900,
            "currency": "eur",
        },
        "gifts.create_gift": {"user_id": "ann", "credits": 1, "type": "simple"},
        "gifts.redeem_gift": {
            "code": gift["code"],
            "user_id": "bob",
            "email": "bob@example.org",
        },
        "gifts.redeem_pending_gifts": {"user_id": "bob", "email": "bob@example.org"},
        "gifts.cancel_gift": {"user_id": "ann", "gift_id": gift["id"]},
    }
    # A refund of no debit and a redeemer without an address are allowed; without Stripe's word
    # for where a payment stands nothing is known, and nothing is done.
    optional = {
        ("credits.refund_credits", "transaction_id"),
        ("gifts.redeem_gift", "email"),
        ("credits.follow_payment", "stripe_status"),
    }
    cases = {
        (function, name) for function, arguments in good.items() for name in arguments
    } - optional
    # No function that moves money has an argument that this table forgets.
    assert {
        (function, name) for function, name in await required_arguments(admin) if function in good
    } <= cases | optional

    before = await admin.fetch("SELECT * FROM credits.balances ORDER BY user_id")
    answers = {}
    for function, name in sorted(cases):
        refused = await refusal(service_login, function, **{**good[function], name: None})
        answers[function.partition(".")[2], name] = (refused.sqlstate, refused.field)
    assert answers == {
        ("use_credits", "user_id"): ("MC001", "userId"),
        ("use_credits", "amount"): ("MC001", "amount"),
        ("use_credits", "app_id"): ("MC001", "appId"),
        ("use_credits", "description"): ("MC001", "description"),
        ("use_credits", "origin"): ("MC001", "origin"),
        ("refund_credits", "user_id"): ("MC001", "userId"),
        ("refund_credits", "amount"): ("MC001", "amount"),
        ("refund_credits", "app_id"): ("MC001", "appId"),
        ("refund_credits", "description"): ("MC001", "description"),
        ("grant_credits", "user_id"): ("MC001", "userId"),
        ("grant_credits", "amount"): ("MC001", "amount"),
        ("grant_credits", "reason"): ("MC001", "reason"),
        ("grant_credits", "reference_id"): ("MC001", "referenceId"),
        ("reserve_credits", "user_id"): ("MC001", "userId"),
        ("reserve_credits", "amount"): ("MC001", "amount"),
        ("reserve_credits", "reason"): ("MC001", "reason"),
        ("reserve_credits", "expires_in_seconds"): ("MC001", "expiresInSeconds"),
        ("commit_reservation", "reservation_id"): ("MC004", None),
        ("refund_reservation", "reservation_id"): ("MC004", None),
        ("activate_sync", "user_id"): ("MC001", "userId"),
        ("activate_sync", "interval"): ("MC001", "interval"),
        ("change_sync_interval", "user_id"): ("MC001", "userId"),
        ("change_sync_interval", "interval"): ("MC001", "interval"),
        ("deactivate_sync", "user_id"): ("MC001", "userId"),
        ("gift_sync", "user_id"): ("MC001", "userId"),
        ("revoke_sync_gift", "user_id"): ("MC001", "userId"),
        ("charge_due_subscriptions", "batch_size"): ("MC001", "batchSize"),
        ("start_purchase", "user_id"): ("MC001", "userId"),
        ("start_purchase", "package_id"): ("MC004", None),
        ("follow_payment", "user_id"): ("MC004", None),
        ("follow_payment", "purchase_id"): ("MC004", None),
        ("follow_payment", "stripe_payment_intent_id"): ("MC001", "paymentIntent"),
        ("follow_payment", "received_euro_cents"): ("MC001", "amount"),
        ("follow_payment", "currency"): ("MC001", "currency"),
        ("create_gift", "user_id"): ("MC001", "userId"),
        ("create_gift", "credits"): ("MC001", "totalCredits"),
        ("create_gift", "type"): ("MC001", "type"),
        ("redeem_gift", "code"): ("MC004", None),
        ("redeem_gift", "user_id"): ("MC001", "userId"),
        ("redeem_pending_gifts", "user_id"): ("MC001", "userId"),
        ("redeem_pending_gifts", "email"): ("MC001", "email"),
        ("cancel_gift", "user_id"): ("MC004", None),
        ("cancel_gift", "gift_id"): ("MC004", None),
    }
    assert await admin.fetch("SELECT * FROM credits.balances ORDER BY user_id") == before


async def test_amounts_out_of_bounds_are_refused_by_name(service_login: Connection) -> None:
    await grant(service_login, "ann", 1000)
    held = await call(service_login, "credits.reserve_credits", user_id="ann", amount=5, reason="x")
    bad = [0, -1, TOO_MUCH, -LARGEST_BIGINT, LARGEST_BIGINT]
    words = {"user_id": "ann", "app_id": "app", "description": "x"}
    tables = [
        ("credits.use_credits", words, {"amount": bad}, "amount"),
        ("credits.refund_credits", words, {"amount": bad}, "amount"),
        (
            "credits.grant_credits",
            {"user_id": "ann", "reason": "x", "reference_id": "y"},
            {"amount": bad},
            "amount",
        ),
        (
            "credits.reserve_credits",
            {"user_id": "ann", "reason": "x"},
            {"amount": bad},
            "amount",
        ),
        (
            "credits.commit_reservation",
            {"reservation_id": held["reservation_id"]},
            {"amount": [0, -1, 6, LARGEST_BIGINT]},
            "amount",
        ),
        (
            "gifts.create_gift",
            {"user_id": "ann"},
            {"credits": [0, -1, 10_001, LARGEST_BIGINT]},
            "totalCredits",
        ),
    ]
    for function, good, cases, field in tables:
        for _name, value, refused in await refusals(service_login, function, good, cases):
            assert (refused.sqlstate, refused.field) == ("MC001", field), (function, value)
    assert await available(service_login, "ann") == 995


@pytest.mark.parametrize("amount", [1, 1_000_000_000])
async def test_the_least_and_the_largest_amount_move(
    service_login: Connection, amount: int
) -> None:
    await grant(service_login, "ann", amount)
    held = await call(
        service_login, "credits.reserve_credits", user_id="ann", amount=amount, reason="x"
    )
    await call(
        service_login,
        "credits.commit_reservation",
        reservation_id=held["reservation_id"],
        amount=amount,
    )
    await call(
        service_login, "credits.refund_credits", user_id="ann", amount=amount, description=""
    )
    assert (await debit(service_login, "ann", amount))["available"] == 0


@pytest.mark.parametrize("credits", [1, 10_000])
async def test_the_least_and_the_largest_gift_is_made(
    service_login: Connection, credits: int
) -> None:
    await grant(service_login, "ann", credits)
    await call(service_login, "gifts.create_gift", user_id="ann", credits=credits)
    assert await available(service_login, "ann") == 0


async def test_texts_out_of_bounds_are_refused_by_name(service_login: Connection) -> None:
    await grant(service_login, "ann", 1000)
    keys = ["", "k" * 256]
    words: dict[str, list[Any]] = {
        "app_id": ["", "a" * 65],
        "description": ["d" * 501],
        "metadata": [[], "x", 1, {"a": "x" * (65_536 - 8)}],
        "idempotency_key": keys,
    }
    user = {"user_id": "ann"}
    target = {"type": "personalized", "target_email": "bob@example.org"}
    tables: list[tuple[str, dict[str, Any], dict[str, list[Any]]]] = [
        (
            "credits.use_credits",
            {**user, "amount": 1, "app_id": "app", "description": "x"},
            {**words, "origin": ["system"]},
        ),
        ("credits.refund_credits", {**user, "amount": 1, "description": "x"}, words),
        (
            "credits.grant_credits",
            {**user, "amount": 1, "reason": "x", "reference_id": "y"},
            {
                "reason": ["", "r" * 65],
                "reference_id": ["", "r" * 129],
                "description": ["d" * 257],
            },
        ),
        (
            "credits.reserve_credits",
            {**user, "amount": 1, "reason": "x"},
            {
                "reason": ["", "r" * 201],
                "expires_in_seconds": [0, -1, 604_801],
                "idempotency_key": keys,
            },
        ),
        (
            "credits.commit_reservation",
            {"reservation_id": uuid4()},
            {"description": ["d" * 501]},
        ),
        (
            "gifts.create_gift",
            {**user, "credits": 1},
            {
                "target_email": ["bob@example.org"],
                "message": ["m" * 501],
                "expiration_days": [0, -1, 3651],
                "idempotency_key": keys,
            },
        ),
        (
            "gifts.create_gift",
            {**user, "credits": 1, **target},
            {"target_email": [None, "", " ", "bob", "@", "bob@", "b@" + "x" * 253]},
        ),
        (
            "gifts.redeem_gift",
            {**user, "code": "ABCDEFGHJKLM"},
            {"source_app_id": ["", "a" * 65]},
        ),
        ("gifts.redeem_pending_gifts", user, {"email": ["", "ann", "@", "ann@"]}),
        (
            "credits.start_purchase",
            {**user, "package_id": uuid4()},
            {
                "success_url": ["https://a.example"],
                "cancel_url": ["https://a.example"],
                "idempotency_key": keys,
            },
        ),
    ]
    wire = {
        "app_id": "appId",
        "expires_in_seconds": "expiresInSeconds",
        "idempotency_key": "idempotencyKey",
        "reference_id": "referenceId",
        "target_email": "targetEmail",
        "expiration_days": "expirationDays",
        "source_app_id": "sourceAppId",
        # Named is the one that is missing.
        "success_url": "cancelUrl",
        "cancel_url": "successUrl",
    }
    for function, good, cases in tables:
        for name, value, refused in await refusals(service_login, function, good, cases):
            assert (refused.sqlstate, refused.field) == ("MC001", wire.get(name, name)), (
                function,
                name,
                value,
            )
    assert await available(service_login, "ann") == 1000


async def test_texts_at_their_bounds_are_taken(service_login: Connection) -> None:
    await grant(service_login, "ann", 1000)
    words: dict[str, Any] = {
        "app_id": "a" * 64,
        "description": "d" * 500,
        "metadata": {"a": "x" * (65_536 - 9)},
        "idempotency_key": "k" * 255,
    }
    await call(service_login, "credits.use_credits", user_id="ann", amount=1, **words)
    words["idempotency_key"] = "l" * 255
    await call(service_login, "credits.refund_credits", user_id="ann", amount=1, **words)
    await call(
        service_login,
        "credits.grant_credits",
        user_id="ann",
        amount=1,
        reason="r" * 64,
        reference_id="r" * 128,
        description="d" * 256,
    )
    held = await call(
        service_login,
        "credits.reserve_credits",
        user_id="ann",
        amount=1,
        reason="r" * 200,
        expires_in_seconds=604_800,
        idempotency_key="m" * 255,
    )
    await call(
        service_login,
        "credits.commit_reservation",
        reservation_id=held["reservation_id"],
        description="d" * 500,
    )
    gift = await call(
        service_login,
        "gifts.create_gift",
        user_id="ann",
        credits=1,
        type="personalized",
        target_email="b@" + "x" * 252,
        message="m" * 500,
        expiration_days=3650,
    )
    await call(
        service_login,
        "gifts.redeem_gift",
        code=gift["code"],
        user_id="bob",
        email="b@" + "x" * 252,
        source_app_id="a" * 64,
    )


REFUSED_USERS = ["", "a" * 129, "a b", " a", "a\n", "a\t", "a/b", "a?", "#", "50%", "{", "}", "."]
REFUSED_USERS += ["..", "\x7f", "a\x85b", "a\u2003b"]
TAKEN_USERS = ["a", "a" * 128, "...", "a.b", "auth0|5f7c", "ann@example.org", "ünï-çødé_1", "用户"]


async def test_what_cannot_be_a_user_id_is_refused(
    admin: Connection, service_login: Connection
) -> None:
    calls: dict[str, dict[str, Any]] = {
        "credits.init_balance": {},
        "credits.grant_credits": {"amount": 1, "reason": "x", "reference_id": "y"},
        "gifts.redeem_pending_gifts": {"email": "ann@example.org"},
        "credits.gift_sync": {},
    }
    for user in REFUSED_USERS:
        for function, good in calls.items():
            refused = await refusal(service_login, function, user_id=user, **good)
            assert (refused.sqlstate, refused.field) == ("MC001", "userId"), (function, user)
    assert await admin.fetchval("SELECT count(*) FROM credits.balances") == 0


async def test_every_id_that_the_contract_allows_is_a_user(service_login: Connection) -> None:
    for user in TAKEN_USERS:
        await call(service_login, "credits.init_balance", user_id=user)
        await grant(service_login, user, 1)
        assert await available(service_login, user) == 1


@pytest.mark.parametrize(
    ("function", "columns"),
    [
        ("credits.get_balance", {"available": 0, "reserved": 0, "created_at": None}),
        ("credits.get_sync_status", {"active": False, "billing_interval": "monthly"}),
    ],
)
async def test_looking_at_a_user_never_seen_makes_none(
    admin: Connection, service_login: Connection, function: str, columns: dict[str, Any]
) -> None:
    seen = await call(service_login, function, user_id="ann")
    assert {name: seen[name] for name in columns} == columns
    for listing in ("credits.list_transactions", "credits.list_purchases", "credits.list_usage"):
        assert await rows(service_login, listing, user_id="ann") == []
    assert await admin.fetchval("SELECT count(*) FROM credits.balances") == 0
