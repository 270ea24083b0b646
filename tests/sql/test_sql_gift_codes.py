"""Gift codes, making gifts, taking them back, letting them expire."""

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.support.calls import (
    amounts,
    available,
    call,
    grant,
    last_run,
    ledger,
    refusal,
    rows,
)
from tests.support.databases import Connection

ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
CREATE = "gifts.create_gift"
CANCEL = "gifts.cancel_gift"
REDEEM = "gifts.redeem_gift"


async def give(connection: Connection, credits: int = 5, **more: Any) -> asyncpg.Record:
    """Ann makes a gift."""
    return await call(connection, CREATE, user_id="ann", credits=credits, **more)


async def expire(admin: Connection, at: datetime) -> asyncpg.Record:
    """Return what has expired by then."""
    result = await admin.fetchrow("SELECT * FROM gifts._expire_gifts($1, 100, '-infinity', '')", at)
    assert result is not None
    return result


async def test_a_code_has_twelve_characters_each_of_all_thirty_two(admin: Connection) -> None:
    drawn = await admin.fetch("SELECT gifts._new_code() AS code FROM generate_series(1, 2000)")
    codes = [row["code"] for row in drawn]
    assert len(set(codes)) == 2000
    assert {len(code) for code in codes} == {12}
    # A character is missing by chance at one of the places once in 10^25.
    for place in range(12):
        assert sorted({code[place] for code in codes}) == sorted(ALPHABET)


async def test_codes_do_not_come_from_the_seeded_source(admin: Connection) -> None:
    codes, seeded = set(), set()
    for _ in range(2):
        await admin.execute("SELECT setseed(0.5)")
        codes.add(await admin.fetchval("SELECT gifts._new_code()"))
        await admin.execute("SELECT setseed(0.5)")
        seeded.add(await admin.fetchval("SELECT random()"))
    assert (len(codes), len(seeded)) == (2, 1)
    source = await admin.fetchval(
        "SELECT prosrc FROM pg_proc WHERE oid = 'gifts._new_code'::regproc"
    )
    assert "gen_random_uuid()" in source


async def test_a_gift_takes_its_credits_from_the_creator(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 20)
    gift = await give(service_login, 15, message="Enjoy", creator_name="Ann")
    assert (gift["total_credits"], gift["type"], gift["status"], gift["replayed"]) == (
        15,
        "simple",
        "active",
        False,
    )
    assert (gift["creator_id"], gift["creator_name"], gift["message"]) == ("ann", "Ann", "Enjoy")
    row = (await ledger(admin, "ann"))[-1]
    assert (row["type"], row["amount"], row["reference_id"], row["origin"]) == (
        "gift",
        -15,
        gift["id"],
        "user",
    )
    refused = await refusal(service_login, CREATE, user_id="ann", credits=6)
    assert (refused.sqlstate, refused.facts) == ("MC002", {"required": 6, "available": 5})


async def test_held_credits_cannot_be_given(service_login: Connection) -> None:
    await grant(service_login, "ann", 20)
    await call(service_login, "credits.reserve_credits", user_id="ann", amount=15, reason="x")
    refused = await refusal(service_login, CREATE, user_id="ann", credits=6)
    assert refused.facts == {"required": 6, "available": 5}


async def draw_codes(admin: Connection, *codes: str) -> None:
    """Let the next codes drawn in this database be these, the last of them for ever."""
    await admin.execute("CREATE SEQUENCE public.draws")
    await admin.execute("GRANT USAGE ON SEQUENCE public.draws TO mana_credits_owner")
    listed = ", ".join(f"'{code}'" for code in codes)
    await admin.execute(
        f"""
        CREATE OR REPLACE FUNCTION gifts._new_code() RETURNS text LANGUAGE sql VOLATILE AS $$
            SELECT (ARRAY[{listed}])[least(nextval('public.draws'), {len(codes)})]
        $$
        """
    )


async def test_a_code_that_is_taken_is_drawn_again(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 20)
    await draw_codes(admin, "A" * 12, "A" * 12, "A" * 12, "B" * 12)
    assert [(await give(service_login))["code"] for _ in range(2)] == ["A" * 12, "B" * 12]
    assert await amounts(admin, "ann") == [("grant", 20), ("gift", -5), ("gift", -5)]


async def test_a_source_that_repeats_itself_takes_nothing(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 20)
    await draw_codes(admin, "A" * 12)
    await give(service_login)
    assert (await refusal_without_facts(service_login)) == "P0004"
    assert await available(service_login, "ann") == 15


async def refusal_without_facts(connection: Connection) -> str | None:
    """The SQLSTATE of a gift that cannot be made for a reason of our own."""
    with pytest.raises(asyncpg.PostgresError) as caught:
        await give(connection)
    return caught.value.sqlstate


async def test_a_code_is_matched_as_people_type_it(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 20)
    gift = await give(service_login)
    code = gift["code"]
    for typed in (
        code.lower(),
        f" {code} ",
        f"{code[:4]}-{code[4:8]}-{code[8:]}",
        f"\t{code[:6].lower()} - {code[6:]}\n",
    ):
        assert (await call(service_login, "gifts.get_gift", code=typed))["code"] == code
    redeemed = await call(
        service_login, REDEEM, code=f"{code[:4]}-{code[4:].lower()}", user_id="bob"
    )
    assert redeemed["outcome"] == "success"


async def test_older_shorter_codes_stay_valid(admin: Connection, service_login: Connection) -> None:
    await grant(service_login, "ann", 20)
    await give(service_login)
    await admin.execute("UPDATE gifts.gift_codes SET code = 'WXYZ'")
    redeemed = await call(service_login, REDEEM, code="wx-yz", user_id="bob")
    assert (redeemed["outcome"], redeemed["credits"]) == ("success", 5)


async def test_an_unknown_code_is_not_found_and_written_nowhere(
    admin: Connection, service_login: Connection
) -> None:
    for code in ("ABCDEFGHJKLM", "", "-", "%", "0OIL1", "🎁"):
        for function, more in [("gifts.get_gift", {}), (REDEEM, {"user_id": "bob"})]:
            refused = await refusal(service_login, function, code=code, **more)
            assert (refused.sqlstate, refused.facts) == ("MC004", {"resource": "gift"})
    assert await admin.fetchval("SELECT count(*) FROM gifts.gift_redemptions") == 0


async def test_a_creators_name_is_cleaned(admin: Connection) -> None:
    for given, shown in [
        ("Ann", "Ann"),
        (None, None),
        ("", None),
        ("   ", None),
        ("\t\n", None),
        ("  Ann  ", "Ann"),
        ("A\nn\x07n\x7f\x85", "Ann"),
        ("Änn 用户 🎁", "Änn 用户 🎁"),
        ("ann@example.org", None),
        ("Ann @ home", None),
        ("http://example.org", None),
        ("ANN://", None),
        ("Ann: / Bob", "Ann: / Bob"),
        ("x" * 64, "x" * 64),
        ("x" * 65, "x" * 64),
        ("x" * 63 + "  y", "x" * 63),
        (" " * 64 + "Ann", "Ann"),
    ]:
        cleaned = await admin.fetchval("SELECT gifts._clean_name($1)", given)
        assert cleaned == shown, given


async def test_the_cleaned_name_is_what_others_see(
    service_login: Connection,
) -> None:
    await grant(service_login, "ann", 20)
    named = await give(service_login, creator_name=" An\nn ")
    hidden = await give(service_login, creator_name="ann@example.org", message="Hi")
    for gift, name in [(named, "Ann"), (hidden, None)]:
        assert gift["creator_name"] == name
        seen = await call(service_login, "gifts.get_gift", code=gift["code"])
        assert seen["creator_name"] == name
        got = await call(service_login, REDEEM, code=gift["code"], user_id="bob")
        assert got["creator_name"] == name
    received = await rows(service_login, "gifts.list_received_gifts", user_id="bob")
    assert [row["creator_name"] for row in received] == [None, "Ann"]


async def test_whoever_has_a_code_sees_neither_creator_nor_target(
    service_login: Connection,
) -> None:
    await grant(service_login, "ann", 20)
    gift = await give(service_login, type="personalized", target_email="bob@example.org")
    seen = await call(service_login, "gifts.get_gift", code=gift["code"])
    assert sorted(seen.keys()) == sorted(
        ["code", "type", "status", "total_credits", "message", "creator_name", "expires_at"]
    )
    assert "bob@example.org" not in map(str, seen.values())


async def test_a_gift_lasts_90_days_unless_said_otherwise(service_login: Connection) -> None:
    await grant(service_login, "ann", 100)
    for more, days in [({}, 90), ({"expiration_days": 1}, 1), ({"expiration_days": 3650}, 3650)]:
        gift = await give(service_login, **more)
        assert gift["expires_at"] - gift["created_at"] == timedelta(days=days)
    at = (await give(service_login))["created_at"] + timedelta(hours=5)
    # A date that is named goes before a number of days.
    named = await give(service_login, expires_at=at, expiration_days=10)
    assert named["expires_at"] == at


async def test_a_gift_ends_in_the_future_and_within_3650_days(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 100)
    now = await admin.fetchval("SELECT clock_timestamp()")
    await give(service_login, expires_at=now + timedelta(days=3649, hours=23))
    for ends in [
        now,
        now - timedelta(days=1),
        now + timedelta(days=3651),
        datetime.max.replace(tzinfo=now.tzinfo),
        datetime.min.replace(tzinfo=now.tzinfo),
    ]:
        refused = await refusal(service_login, CREATE, user_id="ann", credits=5, expires_at=ends)
        assert (refused.sqlstate, refused.field) == ("MC001", "expiresAt"), ends
    assert await available(service_login, "ann") == 95


async def test_cancelling_returns_everything_once(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 20)
    gift = await give(service_login, 15)
    first = await call(service_login, CANCEL, user_id="ann", gift_id=gift["id"])
    again = await call(service_login, CANCEL, user_id="ann", gift_id=gift["id"])
    assert dict(first) == {"refunded_credits": 15, "replayed": False, "available": 20}
    assert dict(again) == {"refunded_credits": 15, "replayed": True, "available": 20}
    assert await amounts(admin, "ann") == [("grant", 20), ("gift", -15), ("gift", 15)]
    assert (await ledger(admin, "ann"))[-1]["reference_id"] == gift["id"]


async def test_only_the_creator_cancels(service_login: Connection) -> None:
    await grant(service_login, "ann", 20)
    gift = await give(service_login)
    for user, gift_id in [("bob", gift["id"]), ("ann", uuid4())]:
        refused = await refusal(service_login, CANCEL, user_id=user, gift_id=gift_id)
        assert (refused.sqlstate, refused.facts) == ("MC004", {"resource": "gift"})


async def test_what_is_redeemed_or_expired_cannot_be_cancelled(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 20)
    redeemed = await give(service_login)
    await call(service_login, REDEEM, code=redeemed["code"], user_id="bob")
    expired = await give(service_login, expiration_days=1)
    await expire(admin, expired["expires_at"])
    for gift, sqlstate, status in [
        (redeemed, "MC005", "depleted"),
        (expired, "MC006", "expired"),
    ]:
        refused = await refusal(service_login, CANCEL, user_id="ann", gift_id=gift["id"])
        assert (refused.sqlstate, refused.facts) == (sqlstate, {"status": status})


async def test_an_expired_gift_goes_back_with_a_ledger_row_and_a_notice(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 20)
    gift, later = (
        await give(service_login, expiration_days=1),
        await give(service_login, expiration_days=2),
    )
    ends = gift["expires_at"]
    assert (await expire(admin, ends - timedelta(microseconds=1)))["done"] == 0
    assert (await expire(admin, ends))["done"] == 1
    assert (await expire(admin, ends))["done"] == 0

    row = (await ledger(admin, "ann"))[-1]
    assert (row["type"], row["amount"], row["reference_id"], row["origin"]) == (
        "gift",
        5,
        gift["id"],
        "system",
    )
    states = await admin.fetch("SELECT id, status FROM gifts.gift_codes")
    assert {row["id"]: row["status"] for row in states} == {
        gift["id"]: "expired",
        later["id"]: "active",
    }
    notices = await admin.fetch("SELECT user_id, kind, state, data FROM credits.notices")
    assert [tuple(notice) for notice in notices] == [
        (
            "ann",
            "gift_expired",
            "pending",
            {
                "giftId": str(gift["id"]),
                "credits": 5,
                "expiredAt": ends.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        )
    ]


async def test_gifts_of_many_creators_expire_in_one_batch(
    admin: Connection, service_login: Connection
) -> None:
    for user in ("cat", "ann", "bob"):
        await grant(service_login, user, 20)
        for credits in (3, 4):
            gift = await call(
                service_login, CREATE, user_id=user, credits=credits, expiration_days=1
            )
    assert (await expire(admin, gift["expires_at"]))["done"] == 6
    for user in ("ann", "bob", "cat"):
        assert await amounts(admin, user) == [
            ("grant", 20),
            ("gift", -3),
            ("gift", -4),
            ("gift", 3),
            ("gift", 4),
        ]


async def test_past_its_time_a_gift_shows_as_expired_before_the_job_comes(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 20)
    gift = await give(service_login)
    await admin.execute(
        "UPDATE gifts.gift_codes SET expires_at = clock_timestamp() - interval '1 second'"
    )
    seen = await call(service_login, "gifts.get_gift", code=gift["code"])
    assert seen["status"] == "expired"
    # It is still there to be taken back.
    taken = await call(service_login, CANCEL, user_id="ann", gift_id=gift["id"])
    assert taken["refunded_credits"] == 5


async def test_a_gift_that_cannot_go_back_does_not_stop_the_others(
    admin: Connection, service_login: Connection
) -> None:
    for user in ("ann", "bob", "cat"):
        await grant(service_login, user, 20)
        await call(service_login, CREATE, user_id=user, credits=5)
    # Ann's balance has lost count of her ledger, so that no row can follow.
    await admin.execute("UPDATE credits.balances SET last_seq = last_seq - 1 WHERE user_id = 'ann'")
    for user, days in [("ann", 3), ("bob", 2), ("cat", 1)]:
        await admin.execute(
            "UPDATE gifts.gift_codes SET expires_at = clock_timestamp() - make_interval(days => $2)"
            " WHERE creator_id = $1",
            user,
            days,
        )

    await admin.execute("CALL credits.run_gift_expiry(1)")
    run = await last_run(admin, "gift-expiry")
    assert (run["did"], run["error"]) == ({"expired": 2, "errors": 1}, None)
    await admin.execute("CALL credits.run_gift_expiry(10)")
    assert (await last_run(admin, "gift-expiry"))["did"] == {"expired": 0, "errors": 1}
    assert await admin.fetchval("SELECT count(*) FROM credits.notices") == 2

    await admin.execute("UPDATE credits.balances SET last_seq = last_seq + 1 WHERE user_id = 'ann'")
    await admin.execute("CALL credits.run_gift_expiry(10)")
    for user in ("ann", "bob", "cat"):
        assert await available(admin, user) == 20


async def test_created_gifts_are_listed_newest_first(service_login: Connection) -> None:
    await grant(service_login, "ann", 20)
    await grant(service_login, "bob", 20)
    made = [(await give(service_login))["id"] for _ in range(3)]
    await call(service_login, CREATE, user_id="bob", credits=5)
    listed = await rows(service_login, "gifts.list_created_gifts", user_id="ann")
    assert [gift["id"] for gift in listed] == made[::-1]
    page = await rows(service_login, "gifts.list_created_gifts", user_id="ann", limit=1, offset=1)
    assert [gift["id"] for gift in page] == [made[1]]


async def test_making_a_gift_keeps_the_creators_address(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 20)
    # What is no address is passed over, and the gift is made all the same.
    for email in ("ann@example.org", "ann", None, "@", "a@" + "x" * 253):
        await give(service_login, 1, email=email)
    assert await admin.fetchval("SELECT email FROM credits.contacts") == "ann@example.org"
    await give(service_login, 1, email="ann@example.com")
    assert await admin.fetchval("SELECT email FROM credits.contacts") == "ann@example.com"
