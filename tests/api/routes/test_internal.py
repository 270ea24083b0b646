"""What other services call: balances, debits, refunds, grants, reservations, charges."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.support.answers import (
    BALANCE,
    MOVED,
    SYNC_STATUS,
    a_bool,
    a_number,
    a_text,
    a_time,
    an_id,
    header,
    maybe,
    require_error,
    require_shape,
)
from tests.support.databases import Connection
from tests.support.running import Answer, Running

BALANCE_ROW = {
    "userId": a_text,
    "balance": a_number,
    "totalEarned": a_number,
    "totalSpent": a_number,
    "version": a_number,
    "createdAt": maybe(a_time),
    "updatedAt": maybe(a_time),
}


async def post(service: Running, path: str, **body: Any) -> Answer:
    return await service.call("POST", f"/internal{path}", internal=True, json=body)


async def debit(service: Running, user: str, amount: int, **body: Any) -> str:
    answer = await post(
        service,
        "/credits/use",
        userId=user,
        amount=amount,
        **{"appId": "app", "description": "x", **body},
    )
    assert answer.status == 200, answer.body
    transaction: str = answer.body["transaction"]["id"]
    return transaction


async def hold(service: Running, user: str, amount: int, **body: Any) -> str:
    answer = await post(
        service, "/credits/reserve", userId=user, amount=amount, **{"reason": "research", **body}
    )
    assert answer.status == 200, answer.body
    reservation: str = answer.body["reservationId"]
    return reservation


async def kept(service: Running, user: str) -> dict[str, Any]:
    """A user's balance as services see it."""
    answer = await service.call("GET", f"/internal/credits/balance/{user}", internal=True)
    assert answer.status == 200
    require_shape(answer.body, BALANCE)
    found: dict[str, Any] = answer.body
    return found


# Balances


async def test_the_balance_is_the_one_users_see(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    await hold(service, ann, 4)

    assert (
        await kept(service, ann) == (await service.call("GET", "/credits/balance", user=ann)).body
    )


async def test_the_balance_of_a_user_never_seen_is_zeros(
    service: Running, admin: Connection
) -> None:
    assert await kept(service, "nobody") == dict.fromkeys(BALANCE, 0)
    # Looking makes nobody known.
    assert (
        await admin.fetchval("SELECT count(*) FROM credits.balances WHERE user_id = 'nobody'") == 0
    )


async def test_init_makes_a_user_known_once(service: Running, ann: str) -> None:
    first = await post(service, "/credits/init", userId=ann)
    second = await post(service, "/credits/init", userId=ann, unknown=1)

    assert (first.status, second.status) == (200, 200)
    require_shape(first.body, BALANCE_ROW)
    assert first.body["createdAt"] is not None
    assert (first.body["balance"], first.body["totalEarned"], first.body["version"]) == (0, 0, 0)
    assert second.body == first.body


async def test_init_of_a_user_who_has_credits_answers_them(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    await hold(service, ann, 3)

    answer = await post(service, "/credits/init", userId=ann)

    assert (answer.body["balance"], answer.body["totalEarned"]) == (7, 10)
    assert (answer.body["totalSpent"], answer.body["version"]) == (0, 2)


# Debits and refunds


async def test_a_debit_by_a_service_answers_as_a_users_does(service: Running, ann: str) -> None:
    await service.grant(ann, 10)

    answer = await post(
        service,
        "/credits/use",
        userId=ann,
        amount=4,
        appId="chat",
        description="x",
        metadata={"a": 1},
    )

    require_shape(answer.body, MOVED)
    assert answer.body["newBalance"] == {"balance": 6, "totalEarned": 10, "totalSpent": 4}
    assert answer.body["transaction"]["userId"] == ann
    assert answer.body["transaction"]["amount"] == -4
    assert answer.body["transaction"]["metadata"] == {"a": 1}


async def test_a_debit_that_is_not_covered(service: Running, ann: str) -> None:
    await service.grant(ann, 10)

    answer = await post(
        service, "/credits/use", userId=ann, amount=11, appId="chat", description="x"
    )

    require_error(answer, 402, "insufficient_credits", {"required": 11, "available": 10})


async def test_a_refund_gives_credits_back(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    await debit(service, ann, 5)

    answer = await post(service, "/credits/refund", userId=ann, amount=2, description="sorry")

    assert answer.status == 200
    require_shape(answer.body, MOVED)
    transaction = answer.body["transaction"]
    assert (transaction["type"], transaction["amount"], transaction["appId"]) == (
        "refund",
        2,
        "system",
    )
    assert transaction["description"] == "sorry"
    assert answer.body["newBalance"] == {"balance": 7, "totalEarned": 12, "totalSpent": 5}


async def test_a_refund_keeps_its_app_and_metadata(service: Running, ann: str) -> None:
    answer = await post(
        service,
        "/credits/refund",
        userId=ann,
        amount=2,
        description="",
        appId="chat",
        metadata={"ticket": 7},
    )

    transaction = answer.body["transaction"]
    assert (transaction["appId"], transaction["metadata"]) == ("chat", {"ticket": 7})


async def test_refunds_of_a_debit_never_exceed_it(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    transaction = await debit(service, ann, 6)
    refund = {"userId": ann, "description": "x", "transactionId": transaction}

    assert (await post(service, "/credits/refund", amount=4, **refund)).status == 200
    refused = await post(service, "/credits/refund", amount=3, **refund)
    assert (await post(service, "/credits/refund", amount=2, **refund)).status == 200
    nothing_left = await post(service, "/credits/refund", amount=1, **refund)

    require_error(refused, 400, "invalid_request")
    assert refused.body["details"][0]["field"] == "amount"
    assert refused.body["details"][0]["left"] == 2
    assert nothing_left.body["details"][0]["left"] == 0
    assert (await kept(service, ann))["balance"] == 10


async def test_racing_refunds_of_a_debit_never_exceed_it(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    transaction = await debit(service, ann, 10)

    answers = await asyncio.gather(
        *(
            post(
                service,
                "/credits/refund",
                userId=ann,
                amount=3,
                description="x",
                transactionId=transaction,
            )
            for _ in range(8)
        )
    )

    assert sorted(answer.status for answer in answers) == [200] * 3 + [400] * 5
    assert (await kept(service, ann))["balance"] == 9


async def test_a_refund_names_a_debit_of_that_user(service: Running, ann: str, bob: str) -> None:
    await service.grant(ann, 10)
    await service.grant(bob, 10)
    debited = await debit(service, ann, 6)
    history = await service.call("GET", "/credits/transactions?type=grant", user=bob)
    granted = history.body[0]["id"]

    for user, transaction in ((bob, debited), (bob, granted), (ann, str(uuid4()))):
        answer = await post(
            service,
            "/credits/refund",
            userId=user,
            amount=1,
            description="x",
            transactionId=transaction,
        )
        require_error(answer, 404, "not_found")


async def test_a_commit_can_be_refunded_as_a_debit(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    reservation = await hold(service, ann, 10)
    committed = await post(service, "/credits/commit", reservationId=reservation)

    answer = await post(
        service,
        "/credits/refund",
        userId=ann,
        amount=10,
        description="x",
        transactionId=committed.body["transactionId"],
    )

    assert answer.status == 200
    assert (await kept(service, ann))["balance"] == 10


# Grants


async def test_a_grant_is_made_once_per_reference(service: Running, ann: str, bob: str) -> None:
    grant = {"userId": ann, "reason": "reward", "referenceId": "r-1", "description": "Thanks"}

    first = await post(service, "/credits/grant", amount=10, **grant)
    second = await post(service, "/credits/grant", amount=99, **grant)
    other = await post(service, "/credits/grant", amount=5, **{**grant, "referenceId": "r-2"})
    another = await post(service, "/credits/grant", amount=5, **{**grant, "userId": bob})

    shape = {
        "ok": True,
        "alreadyGranted": a_bool,
        "newBalance": a_number,
        "transactionId": an_id,
    }
    require_shape(first.body, shape)
    require_shape(other.body, shape)
    assert (first.body["alreadyGranted"], first.body["newBalance"]) == (False, 10)
    assert second.status == 200
    assert second.body == {**first.body, "alreadyGranted": True, "message": second.body["message"]}
    assert (other.body["alreadyGranted"], other.body["newBalance"]) == (False, 15)
    assert (another.body["alreadyGranted"], another.body["newBalance"]) == (False, 5)
    history = await service.call("GET", "/credits/transactions", user=ann)
    assert [row["description"] for row in history.body] == ["Thanks", "Thanks"]
    assert history.body[0]["metadata"] == {"reason": "reward", "referenceId": "r-2"}


async def test_racing_grants_of_one_reference_grant_once(service: Running, ann: str) -> None:
    answers = await asyncio.gather(
        *(
            post(
                service,
                "/credits/grant",
                userId=ann,
                amount=10,
                reason="reward",
                referenceId="r-1",
            )
            for _ in range(20)
        )
    )

    assert {answer.status for answer in answers} == {200}
    assert sum(not answer.body["alreadyGranted"] for answer in answers) == 1
    assert (await kept(service, ann))["balance"] == 10


# Reservations


def seconds_until(time: str, now: datetime) -> float:
    return (datetime.fromisoformat(time) - now).total_seconds()


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [({}, 86_400), ({"expiresInSeconds": 1}, 1), ({"expiresInSeconds": 604_800}, 604_800)],
)
async def test_a_reservation_holds_credits(
    service: Running, admin: Connection, asked: dict[str, int], seconds: int, ann: str
) -> None:
    await service.grant(ann, 10)
    before = await admin.fetchval("SELECT clock_timestamp()")

    answer = await post(
        service, "/credits/reserve", userId=ann, amount=4, reason="research:deep", **asked
    )

    after = await admin.fetchval("SELECT clock_timestamp()")
    assert answer.status == 200
    require_shape(answer.body, {"reservationId": an_id, "balance": 6, "expiresAt": a_time})
    # The answer has milliseconds, the database microseconds.
    assert seconds_until(answer.body["expiresAt"], before) > seconds - 0.001
    assert seconds_until(answer.body["expiresAt"], after) <= seconds
    assert (await kept(service, ann))["reserved"] == 4


async def test_a_reservation_holds_no_more_than_is_there(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    await hold(service, ann, 7)

    answer = await post(service, "/credits/reserve", userId=ann, amount=4, reason="x")

    require_error(answer, 402, "insufficient_credits", {"required": 4, "available": 3})


async def test_a_user_never_seen_can_hold_nothing(service: Running) -> None:
    answer = await post(service, "/credits/reserve", userId="nobody", amount=1, reason="x")

    require_error(answer, 402, "insufficient_credits", {"required": 1, "available": 0})


async def test_a_commit_debits_what_was_held(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    reservation = await hold(service, ann, 4, reason="research:deep")

    answer = await post(service, "/credits/commit", reservationId=reservation, userId=ann)

    assert answer.status == 200
    require_shape(answer.body, {"success": True, "transactionId": an_id, "balance": 6, "amount": 4})
    (row, _) = (await service.call("GET", "/credits/transactions", user=ann)).body
    assert (row["id"], row["type"], row["amount"]) == (
        answer.body["transactionId"],
        "usage",
        -4,
    )
    assert (row["appId"], row["description"]) == ("research", "research:deep")
    assert (await kept(service, ann))["reserved"] == 0


async def test_what_is_not_committed_goes_back(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    reservation = await hold(service, ann, 8)

    answer = await post(
        service, "/credits/commit", reservationId=reservation, amount=3, description="Two pages"
    )

    assert (answer.body["amount"], answer.body["balance"]) == (3, 7)
    balance = await kept(service, ann)
    assert (balance["balance"], balance["reserved"], balance["totalSpent"]) == (7, 0, 3)
    history = await service.call("GET", "/credits/transactions?limit=1", user=ann)
    assert history.body[0]["description"] == "Two pages"


async def test_no_more_is_committed_than_was_held(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    reservation = await hold(service, ann, 4)

    refused = await post(service, "/credits/commit", reservationId=reservation, amount=5)
    taken = await post(service, "/credits/commit", reservationId=reservation, amount=4)

    require_error(refused, 400, "invalid_request")
    assert refused.body["details"][0]["field"] == "amount"
    assert taken.status == 200


async def test_a_hold_past_its_time_is_still_committed(
    service: Running, admin: Connection, ann: str
) -> None:
    await service.grant(ann, 10)
    reservation = await hold(service, ann, 4)
    await admin.execute(
        "UPDATE credits.reservations SET expires_at = now() - interval '1 day' WHERE user_id = $1",
        ann,
    )

    answer = await post(service, "/credits/commit", reservationId=reservation)

    assert (answer.status, answer.body["balance"]) == (200, 6)


async def test_a_hold_that_was_swept_is_resolved(
    service: Running, admin: Connection, ann: str
) -> None:
    await service.grant(ann, 10)
    reservation = await hold(service, ann, 4)
    await admin.execute(
        "SELECT FROM credits._expire_reservations(now() + interval '2 days', 10, '-infinity', '')"
    )

    commit = await post(service, "/credits/commit", reservationId=reservation)
    refund = await post(service, "/credits/refund-reservation", reservationId=reservation)

    require_error(commit, 400, "reservation_resolved", {"status": "expired"})
    assert (refund.status, refund.body["balance"]) == (200, 10)


async def test_a_reservation_is_refunded(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    reservation = await hold(service, ann, 4)

    answer = await post(
        service, "/credits/refund-reservation", reservationId=reservation, userId=ann
    )

    assert answer.status == 200
    require_shape(answer.body, {"success": True, "balance": 10})
    assert (await kept(service, ann))["transactionsCount"] == 1


async def test_committing_again_answers_the_first_result(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    reservation = await hold(service, ann, 4)

    first = await post(service, "/credits/commit", reservationId=reservation, amount=3)
    await debit(service, ann, 2)
    second = await post(service, "/credits/commit", reservationId=reservation)
    opposite = await post(service, "/credits/refund-reservation", reservationId=reservation)

    assert second.status == 200
    assert second.body["transactionId"] == first.body["transactionId"]
    assert (second.body["amount"], second.body["balance"]) == (3, 5)
    assert header(second, "Idempotent-Replayed") == "true"
    require_error(opposite, 400, "reservation_resolved", {"status": "committed"})


async def test_refunding_again_answers_the_first_result(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    reservation = await hold(service, ann, 4)

    await post(service, "/credits/refund-reservation", reservationId=reservation)
    second = await post(service, "/credits/refund-reservation", reservationId=reservation)
    opposite = await post(service, "/credits/commit", reservationId=reservation)

    assert (second.status, second.body["balance"]) == (200, 10)
    assert header(second, "Idempotent-Replayed") == "true"
    require_error(opposite, 400, "reservation_resolved", {"status": "refunded"})


@pytest.mark.parametrize("path", ["/credits/commit", "/credits/refund-reservation"])
async def test_a_reservation_is_its_users_alone(
    service: Running, path: str, ann: str, bob: str
) -> None:
    await service.grant(ann, 10)
    reservation = await hold(service, ann, 4)

    foreign = await post(service, path, reservationId=reservation, userId=bob)
    unknown = await post(service, path, reservationId=str(uuid4()))

    require_error(foreign, 404, "not_found")
    require_error(unknown, 404, "not_found")
    assert (await kept(service, ann))["reserved"] == 4


# Waiting gifts


async def give(service: Running, user: str, email: str, amount: int, **body: Any) -> str:
    answer = await service.call(
        "POST",
        "/gifts",
        user=user,
        json={"totalCredits": amount, "targetEmail": email, "type": "personalized", **body},
    )
    assert answer.status == 201, answer.body
    gift: str = answer.body["id"]
    return gift


async def test_pending_gifts_are_redeemed_for_an_address_of_any_case(
    service: Running, ann: str, zoe: str
) -> None:
    await service.grant(ann, 100)
    await give(service, ann, f"{zoe.upper()}@Example.org", 10)
    await give(service, ann, f"{zoe}@example.org", 20)
    await give(service, ann, f"other-{zoe}@example.org", 40)

    first = await post(
        service,
        "/gifts/redeem-pending",
        userId=zoe,
        email=f"{zoe.title()}@example.ORG",
        emailVerified=True,
    )
    second = await post(service, "/gifts/redeem-pending", userId=zoe, email=f"{zoe}@example.org")

    assert (first.status, first.body) == (200, {"redeemed": 2, "totalCredits": 30})
    assert (second.status, second.body) == (200, {"redeemed": 0, "totalCredits": 0})
    assert await service.balance(zoe) == 30


async def test_an_unverified_address_gets_nothing(service: Running, ann: str, zoe: str) -> None:
    await service.grant(ann, 100)
    await give(service, ann, f"{zoe}@example.org", 10)
    pending = {"userId": zoe, "email": f"{zoe}@example.org"}

    unverified = await post(service, "/gifts/redeem-pending", emailVerified=False, **pending)
    unknown = await post(service, "/gifts/redeem-pending", emailVerified=None, **pending)

    assert unverified.body == {"redeemed": 0, "totalCredits": 0}
    assert unknown.body == {"redeemed": 1, "totalCredits": 10}


async def test_gifts_that_are_not_active_are_not_pending(
    service: Running, admin: Connection, ann: str, zoe: str
) -> None:
    await service.grant(ann, 100)
    cancelled = await give(service, ann, f"{zoe}@example.org", 10)
    await service.call("DELETE", f"/gifts/{cancelled}", user=ann)
    expired = await give(service, ann, f"{zoe}@example.org", 20)
    await admin.execute(
        "UPDATE gifts.gift_codes SET expires_at = now() - interval '1 minute' WHERE id = $1",
        expired,
    )

    answer = await post(service, "/gifts/redeem-pending", userId=zoe, email=f"{zoe}@example.org")

    assert answer.body == {"redeemed": 0, "totalCredits": 0}


# Cloud Sync


async def test_sync_status_is_the_one_users_see(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    await service.call("POST", "/sync/activate", user=ann, json={"interval": "quarterly"})

    answer = await service.call("GET", f"/internal/sync/status/{ann}", internal=True)

    assert answer.status == 200
    require_shape(answer.body, SYNC_STATUS)
    assert answer.body == (await service.call("GET", "/sync/status", user=ann)).body
    assert (answer.body["active"], answer.body["interval"]) == (True, "quarterly")


async def test_sync_status_of_a_user_never_seen(service: Running, admin: Connection) -> None:
    answer = await service.call("GET", "/internal/sync/status/nobody", internal=True)

    assert (answer.status, answer.body["active"], answer.body["interval"]) == (
        200,
        False,
        "monthly",
    )
    assert (
        await admin.fetchval(
            "SELECT count(*) FROM credits.sync_subscriptions WHERE user_id = 'nobody'"
        )
        == 0
    )


async def test_charge_recurring_charges_what_is_due(service: Running, admin: Connection) -> None:
    for user, credits in (("rich", 100), ("poor", 40), ("later", 100)):
        await service.grant(user, credits)
        assert (await service.call("POST", "/sync/activate", user=user)).status == 200
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET next_charge_at = now() - interval '1 hour',"
        " paid_until = now() - interval '1 hour' WHERE user_id IN ('rich', 'poor')"
    )

    first = await post(service, "/sync/charge-recurring")
    second = await service.call("POST", "/internal/sync/charge-recurring", internal=True)

    assert (first.status, second.status) == (200, 200)
    assert first.body == {"charged": 1, "paused": 1, "errors": 0, "total": 2, "more": False}
    assert second.body == {"charged": 0, "paused": 0, "errors": 0, "total": 0, "more": False}
    assert await service.balance("rich") == 40
    assert await service.balance("poor") == 10
    assert await service.balance("later") == 70
    run = await admin.fetchrow(
        "SELECT ended_at, error, did FROM credits.job_runs WHERE job = 'recurring-charge'"
        " ORDER BY started_at DESC OFFSET 1 LIMIT 1"
    )
    assert run is not None
    assert run["ended_at"] is not None
    assert run["error"] is None
    assert (run["did"]["charged"], run["did"]["paused"]) == (1, 1)


async def test_charge_recurring_goes_on_until_nothing_is_due(
    service: Running, admin: Connection
) -> None:
    # More than one batch of the default size.
    await admin.execute(
        "SELECT FROM generate_series(1, 501) AS n"
        " CROSS JOIN LATERAL credits.grant_credits('many-' || n, 100, 'test', 'start')"
        " CROSS JOIN LATERAL credits.activate_sync('many-' || n)"
    )
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET next_charge_at = now() - interval '1 hour',"
        " paid_until = now() - interval '1 hour' WHERE user_id LIKE 'many-%'"
    )

    answer = await post(service, "/sync/charge-recurring")

    assert answer.body == {
        "charged": 501,
        "paused": 0,
        "errors": 0,
        "total": 501,
        "more": False,
    }
    assert (
        await admin.fetchval(
            "SELECT count(*) FROM credits.balances WHERE user_id LIKE 'many-%' AND balance = 40"
            " AND total_spent = 60"
        )
        == 501
    )
    assert await admin.fetchval(
        "SELECT min(next_charge_at) > now() + $1 FROM credits.sync_subscriptions"
        " WHERE user_id LIKE 'many-%'",
        timedelta(days=26),
    )
