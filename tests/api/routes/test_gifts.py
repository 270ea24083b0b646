"""Gift codes over HTTP: made, looked at, redeemed, taken back."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.support.answers import (
    GIFT,
    PUBLIC_GIFT,
    RECEIVED_GIFT,
    a_number,
    a_text,
    header,
    maybe,
    require_error,
    require_shape,
    wrong_fields,
)
from tests.support.databases import Connection
from tests.support.running import Answer, Running

REDEEMED = {
    "success": True,
    "credits": a_number,
    "creditsReceived": a_number,
    "message": maybe(a_text),
    "creatorName": maybe(a_text),
    "newBalance": a_number,
}


async def create(service: Running, user: str, **body: Any) -> Answer:
    claims = {"name": "Ann", "email": "creator@example.org"} | body.pop("claims", {})
    return await service.call(
        "POST", "/gifts", user=user, claims=claims, json={"totalCredits": 10, **body}
    )


async def made(service: Running, user: str, **body: Any) -> dict[str, Any]:
    answer = await create(service, user, **body)
    assert answer.status == 201, answer.body
    gift: dict[str, Any] = answer.body
    return gift


async def redeem(
    service: Running,
    user: str,
    code: str,
    claims: dict[str, Any] | None = None,
    **body: Any,
) -> Answer:
    return await service.call(
        "POST", f"/gifts/{code}/redeem", user=user, claims=claims, json=body or None
    )


async def look(service: Running, code: str) -> Answer:
    return await service.call("GET", f"/gifts/{code}")


async def outcomes(admin: Connection, code: str) -> list[tuple[str, str]]:
    """Every attempt on a code that was written down, oldest first."""
    rows = await admin.fetch(
        "SELECT r.user_id, r.outcome FROM gifts.gift_redemptions AS r"
        " INNER JOIN gifts.gift_codes AS g ON g.id = r.gift_id WHERE g.code = $1 ORDER BY r.id",
        code,
    )
    return [(row["user_id"], row["outcome"]) for row in rows]


async def expire(admin: Connection, gift: dict[str, Any]) -> None:
    """Let the time of a gift pass, before any job has been there."""
    await admin.execute(
        "UPDATE gifts.gift_codes SET expires_at = now() - interval '1 second' WHERE id = $1",
        gift["id"],
    )


# Making


async def test_a_gift_takes_its_credits_from_the_creator(service: Running, ann: str) -> None:
    await service.grant(ann, 100)

    answer = await create(service, ann, totalCredits=40, message="Happy birthday")

    assert answer.status == 201
    gift = answer.body
    require_shape(gift, GIFT)
    assert gift["creatorId"] == ann
    assert gift["creatorName"] == "Ann"
    assert (gift["totalCredits"], gift["redeemed"]) == (40, 0)
    assert (gift["type"], gift["status"]) == ("simple", "active")
    assert gift["targetEmail"] is None
    assert gift["message"] == "Happy birthday"
    assert re.fullmatch(r"[A-HJ-NP-Z2-9]{10,}", gift["code"])
    assert gift["url"] == f"{service.settings.base_url}/g/{gift['code']}"
    assert a_text(gift["shortUrl"])
    assert gift["createdAt"] == gift["updatedAt"]
    balance = (await service.call("GET", "/credits/balance", user=ann)).body
    assert (balance["balance"], balance["totalSpent"]) == (60, 40)


async def test_a_gift_can_be_personalized(service: Running, ann: str, zoe: str) -> None:
    await service.grant(ann, 100)

    gift = await made(service, ann, type="personalized", targetEmail=f"{zoe.title()}@Example.org")

    require_shape(gift, GIFT)
    assert gift["type"] == "personalized"
    assert gift["targetEmail"] == f"{zoe}@example.org"
    assert gift["message"] is None


async def test_the_older_name_of_the_amount(service: Running, ann: str) -> None:
    await service.grant(ann, 100)

    answer = await service.call("POST", "/gifts", user=ann, json={"credits": 7})

    assert (answer.status, answer.body["totalCredits"]) == (201, 7)


async def test_how_long_a_gift_lasts(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    named = (datetime.now(UTC) + timedelta(days=5)).replace(microsecond=0)
    for body, days in (({}, 90), ({"expirationDays": 1}, 1), ({"expirationDays": 3650}, 3650)):
        before = datetime.now(UTC)
        gift = await made(service, ann, **body)
        lasts = datetime.fromisoformat(gift["expiresAt"]) - timedelta(days=days)
        assert before - timedelta(milliseconds=1) <= lasts <= datetime.now(UTC)

    gift = await made(service, ann, expiresAt=named.isoformat())

    assert datetime.fromisoformat(gift["expiresAt"]) == named


async def test_a_gift_that_is_not_covered(service: Running, ann: str) -> None:
    await service.grant(ann, 9)

    require_error(
        await create(service, ann),
        402,
        "insufficient_credits",
        {"required": 10, "available": 9},
    )
    require_error(
        await create(service, "nobody"),
        402,
        "insufficient_credits",
        {"required": 10, "available": 0},
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"type": "personalized"}, "targetEmail"),
        ({"type": "simple", "targetEmail": "zoe@example.org"}, "targetEmail"),
        ({"totalCredits": None}, "totalCredits"),
        ({"expiresAt": "2020-01-01T00:00:00Z"}, "expiresAt"),
        (
            {"expiresAt": (datetime.now(UTC) + timedelta(days=3651)).isoformat()},
            "expiresAt",
        ),
    ],
)
async def test_rules_between_the_fields_of_a_gift(
    service: Running, body: dict[str, Any], field: str, ann: str
) -> None:
    await service.grant(ann, 100)

    assert wrong_fields(await create(service, ann, **body)) == [field]
    assert await service.balance(ann) == 100


async def test_the_creators_name(service: Running, ann: str) -> None:
    await service.grant(ann, 1000)
    for name, shown in (
        ("Ann", "Ann"),
        ("  Ann \x07\n Lee ", "Ann  Lee"),
        ("x" * 64, "x" * 64),
        ("y" * 65, "y" * 64),
        (f"{ann}@example.org", None),
        ("see https://evil.example", None),
        ("", None),
        (None, None),
        (7, None),
        ("\x01\x02", None),
    ):
        gift = await made(service, ann, claims={"name": name})
        seen = (await look(service, gift["code"])).body
        assert (gift["creatorName"], seen["creatorName"]) == (shown, shown), name


# Looking


async def test_anybody_with_the_code_sees_little(service: Running, ann: str, zoe: str) -> None:
    await service.grant(ann, 100)
    gift = await made(
        service, ann, targetEmail=f"{zoe}@example.org", type="personalized", message="Hello"
    )

    answer = await look(service, gift["code"])

    assert answer.status == 200
    require_shape(answer.body, PUBLIC_GIFT)
    assert answer.body == {
        "code": gift["code"],
        "type": "personalized",
        "status": "active",
        "totalCredits": 10,
        "redeemed": False,
        "message": "Hello",
        "creatorName": "Ann",
        "expiresAt": gift["expiresAt"],
        "isPersonalized": True,
    }
    assert "example.org" not in str(answer.body)


async def test_a_code_is_matched_as_people_write_it(service: Running, ann: str, bob: str) -> None:
    await service.grant(ann, 100)
    code = (await made(service, ann))["code"]
    for written in (
        code.lower(),
        "-".join(code),
        f"{code[:4]}%20{code[4:8]}%20{code[8:]}",
        f"%20{code}-",
    ):
        answer = await look(service, written)
        assert (answer.status, answer.body["code"]) == (200, code), written

    redeemed = await redeem(service, bob, f"{code[:4].lower()}-{code[4:]}")

    assert redeemed.status == 200


@pytest.mark.parametrize(
    "code", ["ABCD", "me", "%00", "A%00", "x" * 65, "%F0%9F%8E%81", "%25", "-"]
)
async def test_a_code_that_is_not_there(service: Running, code: str, bob: str) -> None:
    require_error(await look(service, code), 404, "not_found")
    require_error(await redeem(service, bob, code), 404, "not_found")


# Redeeming


async def test_a_gift_is_redeemed(service: Running, admin: Connection, ann: str, bob: str) -> None:
    await service.grant(ann, 100)
    gift = await made(service, ann, totalCredits=40, message="Hello")

    answer = await redeem(service, bob, gift["code"], sourceAppId="chat")

    assert answer.status == 200
    require_shape(answer.body, REDEEMED)
    assert answer.body == {
        "success": True,
        "credits": 40,
        "creditsReceived": 40,
        "message": "Hello",
        "creatorName": "Ann",
        "newBalance": 40,
    }
    assert await service.balance(bob) == 40
    seen = (await look(service, gift["code"])).body
    assert (seen["status"], seen["redeemed"]) == ("depleted", True)
    assert await outcomes(admin, gift["code"]) == [(bob, "success")]


async def test_the_redeemer_asking_again_gets_the_first_answer(
    service: Running, admin: Connection, ann: str, bob: str
) -> None:
    await service.grant(ann, 100)
    code = (await made(service, ann, message="Hello"))["code"]
    first = await redeem(service, bob, code)

    second = await redeem(service, bob, code)

    assert second.status == 200
    assert second.body == first.body
    assert header(second, "Idempotent-Replayed") == "true"
    assert await service.balance(bob) == 10
    assert await outcomes(admin, code) == [(bob, "success")]


async def test_one_redeemer_gets_all(service: Running, admin: Connection, ann: str) -> None:
    await service.grant(ann, 100)
    code = (await made(service, ann))["code"]

    answers = await asyncio.gather(
        *(redeem(service, f"user-{number}", code) for number in range(20))
    )
    late = await redeem(service, "late", code)

    assert sorted(answer.status for answer in answers) == [200] + [400] * 19
    for answer in (late, *(answer for answer in answers if answer.status != 200)):
        require_error(answer, 400, "gift_not_active")
    found = await outcomes(admin, code)
    assert len(found) == 21
    assert [outcome for _, outcome in found].count("success") == 1
    assert dict(found)["late"] == "failed_depleted"


async def test_creators_may_redeem_their_own_simple_code(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    code = (await made(service, ann))["code"]

    answer = await redeem(service, ann, code)

    assert (answer.status, answer.body["newBalance"]) == (200, 100)


async def test_a_personalized_gift_is_for_its_address(service: Running, ann: str, zoe: str) -> None:
    await service.grant(ann, 100)
    address = f"{zoe.title()}@example.org"
    for claims in (
        {"email": f"{zoe}@example.org"},
        {"email": f"{zoe}@example.org".upper()},
        {"email": f"{zoe}@example.org", "email_verified": True},
        {"email": f"{zoe}@example.org", "email_verified": None},
    ):
        code = (await made(service, ann, type="personalized", targetEmail=address))["code"]
        assert (await redeem(service, zoe, code, claims=claims)).status == 200, claims


async def test_a_personalized_gift_is_for_nobody_else(
    service: Running, admin: Connection, ann: str, bob: str, zoe: str
) -> None:
    await service.grant(ann, 100)
    code = (await made(service, ann, type="personalized", targetEmail=f"{zoe}@example.org"))["code"]
    wrong: list[dict[str, Any]] = [
        {},
        {"email": f"{bob}@example.org"},
        {"email": f"{zoe}@example.org", "email_verified": False},
        {"email": f"{zoe}@example.org.evil.example"},
        {"email": f"{zoe}@example.org\u0000"},
    ]
    for claims in wrong:
        answer = await redeem(service, bob, code, claims=claims)
        require_error(answer, 403, "gift_wrong_recipient")
        assert "example.org" not in str(answer.body)

    assert await outcomes(admin, code) == [(bob, "failed_wrong_user")] * len(wrong)
    claims = {"email": f"{zoe}@example.org"}
    assert (await redeem(service, zoe, code, claims=claims)).status == 200


async def test_an_expired_gift_is_not_redeemed(
    service: Running, admin: Connection, ann: str, bob: str
) -> None:
    await service.grant(ann, 100)
    gift = await made(service, ann)
    await expire(admin, gift)

    require_error(await redeem(service, bob, gift["code"]), 400, "gift_expired")
    assert (await look(service, gift["code"])).body["status"] == "expired"
    await admin.execute("SELECT FROM gifts._expire_gifts(now(), 10, '-infinity', '')")
    require_error(await redeem(service, bob, gift["code"]), 400, "gift_expired")
    assert await service.balance(ann) == 100
    assert await outcomes(admin, gift["code"]) == [(bob, "failed_expired")] * 2


# Lists


async def test_the_gifts_a_user_made(service: Running, ann: str, bob: str) -> None:
    await service.grant(ann, 100)
    gifts = [await made(service, ann, totalCredits=number) for number in (1, 2, 3)]
    await redeem(service, bob, gifts[0]["code"])

    answer = await service.call("GET", "/gifts/me/created", user=ann)

    assert answer.status == 200
    for gift in answer.body:
        require_shape(gift, GIFT)
    assert [gift["id"] for gift in answer.body] == [gift["id"] for gift in reversed(gifts)]
    assert [(gift["status"], gift["redeemed"]) for gift in answer.body] == [
        ("active", 0),
        ("active", 0),
        ("depleted", 1),
    ]
    page = await service.call("GET", "/gifts/me/created?limit=1&offset=1", user=ann)
    assert [gift["totalCredits"] for gift in page.body] == [2]
    assert (await service.call("GET", "/gifts/me/created", user=bob)).body == []


async def test_the_gifts_a_user_received(service: Running, ann: str, bob: str) -> None:
    await service.grant(ann, 100)
    for number, app in ((1, "chat"), (2, None), (3, None)):
        gift = await made(service, ann, totalCredits=number, message=f"number {number}")
        await redeem(service, bob, gift["code"], sourceAppId=app)

    answer = await service.call("GET", "/gifts/me/received", user=bob)

    assert answer.status == 200
    for gift in answer.body:
        require_shape(gift, RECEIVED_GIFT)
        assert gift["status"] == "depleted"
        assert gift["creatorName"] == "Ann"
        assert gift["credits"] == gift["creditsReceived"]
        assert gift["createdAt"] <= gift["redeemedAt"]
    assert [(gift["credits"], gift["message"], gift["sourceAppId"]) for gift in answer.body] == [
        (3, "number 3", None),
        (2, "number 2", None),
        (1, "number 1", "chat"),
    ]
    page = await service.call("GET", "/gifts/me/received?limit=1&offset=2", user=bob)
    assert [gift["credits"] for gift in page.body] == [1]
    assert (await service.call("GET", "/gifts/me/received", user=ann)).body == []


# Taking back


async def test_a_cancelled_gift_goes_back_to_its_creator(
    service: Running, admin: Connection, ann: str, bob: str
) -> None:
    await service.grant(ann, 100)
    gift = await made(service, ann, totalCredits=40)

    first = await service.call("DELETE", f"/gifts/{gift['id']}", user=ann)
    second = await service.call("DELETE", f"/gifts/{gift['id']}", user=ann)

    assert (first.status, first.body) == (200, {"success": True, "refundedCredits": 40})
    assert (second.status, second.body["refundedCredits"]) == (200, 40)
    assert await service.balance(ann) == 100
    assert (await look(service, gift["code"])).body["status"] == "cancelled"
    require_error(await redeem(service, bob, gift["code"]), 400, "gift_not_active")
    assert await outcomes(admin, gift["code"]) == [(bob, "failed_cancelled")]


async def test_only_the_creator_takes_a_gift_back(service: Running, ann: str, bob: str) -> None:
    await service.grant(ann, 100)
    gift = await made(service, ann)

    for user, gift_id in (
        (bob, gift["id"]),
        (ann, str(uuid4())),
        (ann, gift["code"]),
        (ann, "me"),
    ):
        answer = await service.call("DELETE", f"/gifts/{gift_id}", user=user)
        require_error(answer, 404, "not_found")

    assert await service.balance(ann) == 90


async def test_what_is_gone_is_not_taken_back(
    service: Running, admin: Connection, ann: str, bob: str
) -> None:
    await service.grant(ann, 100)
    redeemed, expired = await made(service, ann), await made(service, ann)
    await redeem(service, bob, redeemed["code"])
    await expire(admin, expired)
    await admin.execute("SELECT FROM gifts._expire_gifts(now(), 10, '-infinity', '')")

    first = await service.call("DELETE", f"/gifts/{redeemed['id']}", user=ann)
    second = await service.call("DELETE", f"/gifts/{expired['id']}", user=ann)

    require_error(first, 400, "gift_not_active")
    require_error(second, 400, "gift_expired")
    assert await service.balance(ann) == 90
