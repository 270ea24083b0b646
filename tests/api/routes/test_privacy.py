"""Data subject requests: the export of a user, and his end."""

import logging
from typing import Any
from urllib.parse import quote

import pytest

import service.api.privacy as service_api_privacy
from tests.support.answers import a_time, require_error, wrong_fields
from tests.support.databases import Connection
from tests.support.running import Answer, Running

PSEUDONYM = "erased-0b7e4a52-5a3f-4d1c-9a57-2f6f6f3a1c11"


async def export(service: Running, user: str) -> Answer:
    return await service.call("GET", f"/internal/users/{user}/export", internal=True)


async def erase(service: Running, user: str) -> Answer:
    return await service.call("DELETE", f"/internal/users/{user}", internal=True)


async def live(service: Running, user: str) -> None:
    """Some of everything that needs no Stripe."""
    await service.grant(user, 500)
    email = {"email": f"{user}@example.org", "name": "Annabel"}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("/credits/use", "", {"amount": 5, "appId": "chat", "description": "Dear diary"}),
        ("/sync/activate", "", {}),
        ("/gifts", "", {"credits": 10, "message": "For you"}),
        ("/internal/credits/reserve", "internal", {"amount": 20, "reason": "research:deep"}),
    ]
    for path, kind, body in calls:
        answer = await service.call(
            "POST",
            path,
            user=None if kind else user,
            claims=email,
            internal=bool(kind),
            json={**body, "userId": user},
        )
        assert answer.status < 300, answer.body


@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_however_it_is_cut_into_pieces_it_is_the_same_document(
    service: Running, ann: str, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    await live(service, ann)
    # Characters of several bytes, through which some of the cuts go.
    debit = {"amount": 1, "appId": "chat", "description": "Grüße 🎁" * 20}
    assert (await service.call("POST", "/credits/use", user=ann, json=debit)).status == 200
    whole = await export(service, ann)

    monkeypatch.setattr(service_api_privacy, "PIECE_BYTES", piece)
    cut = await export(service, ann)

    assert cut.status == whole.status == 200
    assert {**cut.body, "exportedAt": 0} == {**whole.body, "exportedAt": 0}
    assert cut.headers["Content-Length"] == whole.headers["Content-Length"]


async def test_a_user_is_exported_as_one_document(service: Running, ann: str) -> None:
    await live(service, ann)

    answer = await export(service, ann)

    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    told = answer.body
    assert told["userId"] == ann
    assert a_time(told["exportedAt"])
    assert told["balance"]["balance"] == 500 - 5 - 30 - 10 - 20
    assert told["contact"]["email"] == f"{ann}@example.org"
    types = [(row["type"], row["amount"]) for row in told["transactions"]]
    assert types == [("grant", 500), ("usage", -5), ("usage", -30), ("gift", -10)]
    assert told["subscription"]["active"] is True
    assert [gift["message"] for gift in told["giftsCreated"]] == ["For you"]
    assert [hold["amount"] for hold in told["reservations"]] == [20]


async def test_what_administrators_did_is_told_of_both(
    service: Running, ann: str, bob: str
) -> None:
    await service.grant(ann, 5)
    used = await service.call(
        "POST", "/credits/use", user=ann, json={"amount": 3, "appId": "chat", "description": "x"}
    )
    debit = used.body["transaction"]["id"]
    claims = {"role": "admin", "name": "Rita"}
    calls: list[tuple[str, dict[str, Any]]] = [
        (f"/admin/users/{ann}/grant", {"amount": 7, "reason": "Why", "idempotencyKey": "mine"}),
        (f"/admin/users/{ann}/refund", {"transactionId": debit, "reason": "Why not"}),
        (f"/admin/sync/{ann}/gift", {}),
    ]
    for path, body in calls:
        answer = await service.call("POST", path, user=bob, claims=claims, json=body)
        assert answer.status == 200, answer.body

    told, of_bob = (await export(service, ann)).body, (await export(service, bob)).body

    actions = [
        (row["action"], row["reason"], row["amount"], row["debitId"])
        for row in told["adminActions"]
    ]
    assert actions == [
        ("grant", "Why", 7, None),
        ("refund", "Why not", 3, debit),
        ("gift_sync", None, None, None),
    ]
    assert told["actionsAsAdmin"] == of_bob["adminActions"] == []
    assert [
        (row["action"], row["adminName"], row["amount"], row["idempotencyKey"])
        for row in of_bob["actionsAsAdmin"]
    ] == [
        ("grant", "Rita", 7, "mine"),
        ("refund", "Rita", 3, None),
        ("gift_sync", "Rita", None, None),
    ]
    assert bob not in str(told)
    assert ann not in str(of_bob)
    # He has nothing but what he did, and that is enough to be forgotten.
    assert a_time((await erase(service, bob)).body["erasedAt"])
    listed = (
        await service.call("GET", f"/admin/users/{ann}/actions", user="root", claims=claims)
    ).body
    assert len(listed) == 3
    for row in listed:
        assert (row["adminId"][:7], row["adminName"]) == ("erased-", None)


async def test_the_export_of_a_user_never_seen_is_empty(service: Running, ann: str) -> None:
    answer = await export(service, ann)
    assert answer.status == 200
    assert answer.body["balance"] == {
        "balance": 0,
        "totalEarned": 0,
        "totalSpent": 0,
        "reserved": 0,
        "transactionsCount": 0,
        "createdAt": None,
        "updatedAt": None,
    }
    assert answer.body["transactions"] == answer.body["giftsCreated"] == []
    assert answer.body["contact"] is answer.body["subscription"] is None


async def test_numbers_of_metadata_come_as_they_were_stored(
    service: Running, admin: Connection, ann: str
) -> None:
    await service.grant(ann, 5)
    await admin.execute(
        "SELECT * FROM credits.use_credits(p_user_id => $1, p_amount => 1, p_app_id => 'x',"
        " p_description => '', p_metadata => '{\"n\": 12345678901234567890123, \"f\": 1.50}')",
        ann,
    )
    url = f"{service.url}/api/v1/internal/users/{ann}/export"
    key = {"X-Service-Key": service.settings.service_keys[0]}
    async with service.session.get(url, headers=key) as answer:
        text = await answer.text()
    assert '{"f": 1.50, "n": 12345678901234567890123}' in text


async def test_a_user_is_erased(service: Running, ann: str, bob: str) -> None:
    await live(service, ann)

    answer = await erase(service, ann)

    assert answer.status == 200
    assert a_time(answer.body.pop("erasedAt"))
    assert answer.body == {
        "success": True,
        "forfeitedCredits": 500 - 5 - 30,
        "writtenOffCredits": 0,
        "cancelledGifts": 1,
        "releasedHolds": 1,
    }
    assert await service.balance(ann) == 0
    left = (await export(service, ann)).body
    never_seen = (await export(service, bob)).body
    for document in (left, never_seen):
        del document["userId"], document["exportedAt"]
    assert left == never_seen


async def test_erasing_again_answers_the_same_success(service: Running, ann: str) -> None:
    await service.grant(ann, 5)
    assert (await erase(service, ann)).body["forfeitedCredits"] == 5

    for _ in range(2):
        again = await erase(service, ann)
        assert again.status == 200
        assert again.body == {
            "success": True,
            "forfeitedCredits": 0,
            "writtenOffCredits": 0,
            "cancelledGifts": 0,
            "releasedHolds": 0,
            "erasedAt": None,
        }


async def test_a_ledger_of_before_answers_its_owner_no_more(service: Running, ann: str) -> None:
    await live(service, ann)
    await erase(service, ann)
    for path in ("/credits/transactions", "/gifts/me/created", "/credits/usage"):
        assert (await service.call("GET", path, user=ann)).body == []
    status = (await service.call("GET", "/sync/status", user=ann)).body
    assert (status["active"], status["paidUntil"]) == (False, None)
    # And he may begin anew.
    await service.grant(ann, 3)
    (row,) = (await service.call("GET", "/credits/transactions", user=ann)).body
    assert (row["amount"], row["balanceBefore"]) == (3, 0)


async def test_forfeitures_are_listed_by_their_type(service: Running, ann: str) -> None:
    await service.grant(ann, 3)
    answer = await service.call("GET", "/credits/transactions?type=forfeiture", user=ann)
    assert (answer.status, answer.body) == (200, [])


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_this_is_for_services(service: Running, ann: str, method: str) -> None:
    path = f"/internal/users/{ann}" + ("/export" if method == "GET" else "")
    await service.grant(ann, 5)
    for headers in ({}, {"X-Service-Key": "wrong"}):
        require_error(await service.call(method, path, headers=headers), 401, "unauthorized")
    token = await service.call(method, path, user=ann, claims={"role": "admin"})
    require_error(token, 401, "unauthorized")
    assert await service.balance(ann) == 5


@pytest.mark.parametrize(
    "user", ["a b", "a%", "..%2f", "x" * 129, "erased-0b7e4a52-5a3f-4d1c-9a57-2f6f6f3a1c11"]
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_user_ids_that_cannot_be(service: Running, method: str, user: str) -> None:
    path = f"/internal/users/{quote(user)}" + ("/export" if method == "GET" else "")
    answer = await service.call(method, path, internal=True)
    require_error(answer, 400, "invalid_request")
    assert wrong_fields(answer) == ["userId"]


async def test_a_token_cannot_name_a_pseudonym(
    service: Running, admin: Connection, ann: str
) -> None:
    await service.grant(ann, 5)
    await erase(service, ann)
    found = await admin.fetch("SELECT user_id FROM credits.erasures")
    for row in found:
        answer = await service.call("GET", "/credits/balance", user=row["user_id"])
        require_error(answer, 401, "unauthorized")
        answer = await service.call(
            "POST",
            "/internal/credits/use",
            internal=True,
            json={"userId": row["user_id"], "amount": 1, "appId": "x", "description": ""},
        )
        require_error(answer, 400, "invalid_request")


async def test_nothing_of_it_is_logged(
    service: Running, ann: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    await live(service, ann)
    capfd.readouterr()
    with caplog.at_level(logging.DEBUG):
        await export(service, ann)
        await erase(service, ann)
    said = caplog.text + "".join(capfd.readouterr())
    for secret in (ann, "Annabel", "Dear diary", "erased-"):
        assert secret not in said


async def test_support_does_the_same_and_it_is_written_down_who(
    service: Running, ann: str, bob: str
) -> None:
    await live(service, ann)
    claims = {"role": "admin", "name": "Rita"}
    exported = await service.call("GET", f"/admin/users/{ann}/export", user=bob, claims=claims)
    assert exported.status == 200
    assert len(exported.body["transactions"]) == 4
    refused = await service.call("DELETE", f"/admin/users/{ann}", user=ann)
    assert refused.status == 403

    erased = await service.call("DELETE", f"/admin/users/{ann}", user=bob, claims=claims)

    assert erased.body["forfeitedCredits"] == 500 - 5 - 30
    again = await service.call("DELETE", f"/admin/users/{ann}", user=bob, claims=claims)
    assert again.body["erasedAt"] is None
    of_bob = (await export(service, bob)).body
    assert of_bob["erasuresAsAdmin"] == [{"erasedAt": erased.body["erasedAt"]}]
    # Who is erased in turn is no longer named there.
    assert a_time((await erase(service, bob)).body["erasedAt"])
    assert (await export(service, bob)).body["erasuresAsAdmin"] == []
