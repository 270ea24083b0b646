"""Redeeming gifts: who gets them, who does not, and what is written down of it."""

import asyncio
import itertools
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.support.calls import amounts, available, call, grant, refusal, rows
from tests.support.databases import Clone, Connection, connect
from tests.support.races import blocked

CREATE = "gifts.create_gift"
REDEEM = "gifts.redeem_gift"
PENDING = "gifts.redeem_pending_gifts"
BOB = "bob@example.org"


async def give(connection: Connection, **more: Any) -> asyncpg.Record:
    """Ann makes a gift of 5 credits."""
    await grant(connection, "ann", 5, str(more))
    return await call(connection, CREATE, user_id="ann", credits=5, **more)


async def give_to(connection: Connection, email: str, **more: Any) -> asyncpg.Record:
    """Ann makes a gift for whoever has that address."""
    return await give(connection, type="personalized", target_email=email, **more)


async def attempts(admin: Connection) -> list[tuple[Any, ...]]:
    """Every attempt that was written down, oldest first."""
    found = await admin.fetch(
        "SELECT user_id, outcome, credits, source_app_id FROM gifts.gift_redemptions"
        " ORDER BY created_at"
    )
    return [tuple(row) for row in found]


async def test_one_redeemer_gets_all(admin: Connection, service_login: Connection) -> None:
    gift = await give(service_login, message="Enjoy", creator_name="Ann")
    redeemed = await call(
        service_login, REDEEM, code=gift["code"], user_id="bob", source_app_id="chat"
    )
    assert dict(redeemed) == {
        "outcome": "success",
        "gift_id": gift["id"],
        "credits": 5,
        "message": "Enjoy",
        "creator_name": "Ann",
        "replayed": False,
        "available": 5,
    }
    assert await amounts(admin, "bob") == [("gift", 5)]
    assert await attempts(admin) == [("bob", "success", 5, "chat")]
    row = await admin.fetchrow("SELECT status, redeemed_by FROM gifts.gift_codes")
    assert row is not None
    assert tuple(row) == ("depleted", "bob")


async def test_the_same_redeemer_gets_the_first_answer_again(
    admin: Connection, service_login: Connection
) -> None:
    gift = await give(service_login, message="Enjoy")
    first = await call(service_login, REDEEM, code=gift["code"], user_id="bob")
    # Whatever he says of himself the second time.
    again = await call(
        service_login, REDEEM, code=gift["code"], user_id="bob", email_verified=False
    )
    assert dict(again) == {**dict(first), "replayed": True}
    assert await amounts(admin, "bob") == [("gift", 5)]
    assert len(await attempts(admin)) == 1


async def test_a_refused_attempt_made_again_is_not_the_one_that_got_it(
    service_login: Connection,
) -> None:
    """The gift came to him in between, by the address that he has registered with."""
    gift = await give_to(service_login, BOB)
    attempt = {"code": gift["code"], "user_id": "bob", "email": "else@example.org", "id": uuid4()}
    assert (await call(service_login, REDEEM, **attempt))["outcome"] == "failed_wrong_user"
    await call(service_login, PENDING, user_id="bob", email=BOB)
    again = await call(service_login, REDEEM, **attempt)
    assert (again["outcome"], again["replayed"]) == ("success", True)


async def test_creators_may_redeem_their_own_simple_code(
    admin: Connection, service_login: Connection
) -> None:
    gift = await give(service_login)
    redeemed = await call(service_login, REDEEM, code=gift["code"], user_id="ann")
    assert (redeemed["outcome"], redeemed["available"]) == ("success", 5)
    assert await amounts(admin, "ann") == [("grant", 5), ("gift", -5), ("gift", 5)]


async def test_a_personalized_gift_is_for_the_targets_address_in_any_case(
    service_login: Connection,
) -> None:
    for email, verified in itertools.product(
        [BOB, "Bob@Example.ORG", "  BOB@example.org "], [True, None]
    ):
        gift = await give_to(service_login, " Bob@EXAMPLE.org ", message=f"{email} {verified}")
        assert gift["target_email"] == BOB
        redeemed = await call(
            service_login,
            REDEEM,
            code=gift["code"],
            user_id="bob",
            email=email,
            email_verified=verified,
        )
        assert redeemed["outcome"] == "success", (email, verified)


async def test_a_personalized_gift_is_for_nobody_else(
    admin: Connection, service_login: Connection
) -> None:
    gift = await give_to(service_login, BOB)
    for user, email, verified in [
        ("cat", "cat@example.org", True),
        ("cat", None, True),
        ("cat", None, None),
        ("bob", BOB, False),
        ("ann", "ann@example.org", True),
    ]:
        refused = await call(
            service_login,
            REDEEM,
            code=gift["code"],
            user_id=user,
            email=email,
            email_verified=verified,
        )
        assert (refused["outcome"], refused["credits"]) == ("failed_wrong_user", 0)
        # A stranger learns nothing about a gift that is not for him.
        assert (refused["message"], refused["creator_name"]) == (None, None)
    assert [attempt[:3] for attempt in await attempts(admin)] == [
        (user, "failed_wrong_user", 0) for user in ("cat", "cat", "cat", "bob", "ann")
    ]
    assert await amounts(admin, "bob") == []


async def test_the_words_about_an_address_do_not_matter_for_a_simple_gift(
    service_login: Connection,
) -> None:
    gift = await give(service_login)
    redeemed = await call(
        service_login, REDEEM, code=gift["code"], user_id="bob", email=BOB, email_verified=False
    )
    assert redeemed["outcome"] == "success"


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        ("redeemed", "failed_depleted"),
        ("cancelled", "failed_cancelled"),
        ("out of time", "failed_expired"),
        ("expired", "failed_expired"),
    ],
)
async def test_a_gift_that_is_not_to_be_had_is_an_attempt_with_its_outcome(
    admin: Connection, service_login: Connection, ending: str, outcome: str
) -> None:
    gift = await give_to(service_login, BOB)
    if ending == "redeemed":
        await call(service_login, REDEEM, code=gift["code"], user_id="bob", email=BOB)
    elif ending == "cancelled":
        await call(service_login, "gifts.cancel_gift", user_id="ann", gift_id=gift["id"])
    else:
        await admin.execute(
            "UPDATE gifts.gift_codes SET expires_at = clock_timestamp() - interval '1 second'"
        )
    if ending == "expired":
        await admin.execute("CALL credits.run_gift_expiry()")
    before = await admin.fetch("SELECT * FROM credits.balances ORDER BY user_id")

    # Somebody who was never seen, with the right address or another.
    for email in (BOB, "cat@example.org"):
        refused = await call(
            service_login,
            REDEEM,
            code=gift["code"],
            user_id="cat",
            email=email,
            source_app_id="chat",
        )
        assert dict(refused) == {
            "outcome": outcome,
            "gift_id": gift["id"],
            "credits": 0,
            "message": None,
            "creator_name": None,
            "replayed": False,
            "available": None,
        }
    assert (await attempts(admin))[-2:] == [("cat", outcome, 0, "chat")] * 2
    assert await admin.fetch("SELECT * FROM credits.balances ORDER BY user_id") == before


async def test_whoever_waited_while_another_redeemed_finds_it_claimed(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    gift = await give(service_login)
    other = await connect(database.service_url)
    try:
        async with service_login.transaction():
            await call(service_login, REDEEM, code=gift["code"], user_id="bob")
            late = asyncio.create_task(call(other, REDEEM, code=gift["code"], user_id="cat"))
            await blocked(admin, other, late)
        assert (await late)["outcome"] == "failed_already_claimed"
    finally:
        await other.close()
    assert await attempts(admin) == [
        ("bob", "success", 5, None),
        ("cat", "failed_already_claimed", 0, None),
    ]


async def test_whoever_waited_gets_it_when_the_other_fails(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    gift = await give(service_login)
    other = await connect(database.service_url)
    try:
        undone = service_login.transaction()
        await undone.start()
        await call(service_login, REDEEM, code=gift["code"], user_id="bob")
        late = asyncio.create_task(call(other, REDEEM, code=gift["code"], user_id="cat"))
        await blocked(admin, other, late)
        await undone.rollback()
        assert (await late)["outcome"] == "success"
    finally:
        await other.close()
    assert await attempts(admin) == [("cat", "success", 5, None)]


async def test_one_redeemer_twice_at_once_gets_it_once(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    gift = await give(service_login)
    other = await connect(database.service_url)
    try:
        async with service_login.transaction():
            first = await call(service_login, REDEEM, code=gift["code"], user_id="bob")
            late = asyncio.create_task(call(other, REDEEM, code=gift["code"], user_id="bob"))
            await blocked(admin, other, late)
        assert dict(await late) == {**dict(first), "replayed": True}
    finally:
        await other.close()
    assert await amounts(admin, "bob") == [("gift", 5)]


@pytest.mark.parametrize("known_first", [True, False])
async def test_waiting_gifts_come_to_a_new_user_before_and_after_init(
    admin: Connection, service_login: Connection, known_first: bool
) -> None:
    for place in range(3):
        await give_to(service_login, BOB, message=f"{place}")
    if known_first:
        await call(service_login, "credits.init_balance", user_id="bob")
    pending = await call(service_login, PENDING, user_id="bob", email="BOB@example.org ")
    assert dict(pending) == {"redeemed": 3, "total_credits": 15, "available": 15}
    if not known_first:
        await call(service_login, "credits.init_balance", user_id="bob")
    assert await available(service_login, "bob") == 15
    assert await amounts(admin, "bob") == [("gift", 5)] * 3
    assert await attempts(admin) == [("bob", "success", 5, None)] * 3


async def test_waiting_gifts_come_once(admin: Connection, service_login: Connection) -> None:
    await give_to(service_login, BOB)
    await call(service_login, PENDING, user_id="bob", email=BOB)
    again = await call(service_login, PENDING, user_id="bob", email=BOB)
    assert dict(again) == {"redeemed": 0, "total_credits": 0, "available": 5}
    # Nor to a second account with the same address.
    other = await call(service_login, PENDING, user_id="bob2", email=BOB)
    assert dict(other) == {"redeemed": 0, "total_credits": 0, "available": 0}
    assert len(await attempts(admin)) == 1


async def test_only_what_waits_for_the_address_comes(
    admin: Connection, service_login: Connection
) -> None:
    await give(service_login)
    await give_to(service_login, "cat@example.org")
    cancelled = await give_to(service_login, BOB, message="cancelled")
    await call(service_login, "gifts.cancel_gift", user_id="ann", gift_id=cancelled["id"])
    expired = await give_to(service_login, BOB, message="expired")
    await admin.execute(
        "UPDATE gifts.gift_codes SET expires_at = clock_timestamp() - interval '1 second'"
        " WHERE id = $1",
        expired["id"],
    )
    nothing = {"redeemed": 0, "total_credits": 0, "available": 0}
    assert dict(await call(service_login, PENDING, user_id="bob", email=BOB)) == nothing
    # A pattern is an address like any other.
    for email in ("%@%", "___@example.org"):
        assert dict(await call(service_login, PENDING, user_id="bob", email=email)) == nothing


async def test_an_unverified_address_gets_nothing(service_login: Connection) -> None:
    await give_to(service_login, BOB)
    for verified, redeemed in [(False, 0), (None, 1), (True, 0)]:
        pending = await call(
            service_login, PENDING, user_id="bob", email=BOB, email_verified=verified
        )
        assert pending["redeemed"] == redeemed


async def test_received_gifts_are_listed_newest_first_without_failed_attempts(
    service_login: Connection,
) -> None:
    gifts = [await give(service_login, message=str(place)) for place in range(3)]
    # Ids tell the order, and are drawn by whoever calls: two of one millisecond have none.
    for place, gift in enumerate(gifts[:2]):
        redeemed = {"code": gift["code"], "user_id": "bob", "id": UUID(int=place)}
        await call(service_login, REDEEM, source_app_id="chat", **redeemed)
    await call(service_login, REDEEM, code=gifts[2]["code"], user_id="cat")
    await call(service_login, REDEEM, code=gifts[2]["code"], user_id="bob")
    received = await rows(service_login, "gifts.list_received_gifts", user_id="bob")
    assert [(gift["message"], gift["credits"], gift["source_app_id"]) for gift in received] == [
        ("1", 5, "chat"),
        ("0", 5, "chat"),
    ]
    page = await rows(service_login, "gifts.list_received_gifts", user_id="bob", limit=1, offset=1)
    assert [gift["message"] for gift in page] == ["0"]


async def test_a_redeemer_is_a_user(service_login: Connection) -> None:
    gift = await give(service_login)
    refused = await refusal(service_login, REDEEM, code=gift["code"], user_id="no body")
    assert (refused.sqlstate, refused.field) == ("MC001", "userId")


async def test_whoever_cannot_be_a_user_is_refused_before_his_attempt_is_written_down(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 5)
    gift = await call(service_login, "gifts.create_gift", user_id="ann", credits=5)
    await call(service_login, "gifts.cancel_gift", user_id="ann", gift_id=gift["id"])
    refused = await refusal(service_login, REDEEM, code=gift["code"], user_id="no user")
    assert (refused.sqlstate, refused.field) == ("MC001", "userId")
    assert await admin.fetchval("SELECT count(*) FROM gifts.gift_redemptions") == 0
