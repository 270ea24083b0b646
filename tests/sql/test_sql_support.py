"""Support: credits.grant_as_admin, refund_as_admin, and what they leave in admin_actions."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from service.ids import uuid7
from tests.support.calls import (
    amounts,
    available,
    buy,
    call,
    debit,
    grant,
    ledger,
    make_package,
    refund_object,
    refusal,
    rows,
    start_buying,
    stripe_event,
    subscribe,
    utc,
)
from tests.support.databases import Clone, Connection, connect
from tests.support.races import blocked

GRANT = "credits.grant_as_admin"
REFUND = "credits.refund_as_admin"
ROOT: dict[str, Any] = {"reason": "Ticket 4711", "admin_id": "root", "admin_name": "Rita"}


async def actions(connection: Connection, user_id: str) -> list[asyncpg.Record]:
    """What was done to a user, newest first, also within a millisecond."""
    found = await rows(connection, "credits.list_admin_actions", user_id=user_id)
    return sorted(found, key=lambda row: row["created_at"], reverse=True)


# Grants


async def test_a_grant_moves_credits_and_says_who_and_why(
    admin: Connection, service_login: Connection
) -> None:
    move = await call(service_login, GRANT, user_id="ann", amount=50, idempotency_key="k", **ROOT)

    assert (move["type"], move["amount"], move["available"]) == ("grant", 50, 50)
    (row,) = await ledger(admin, "ann")
    assert (row["id"], row["origin"], row["app_id"]) == (move["id"], "system", "system")
    assert "4711" not in str(dict(row))
    (action,) = await actions(service_login, "ann")
    assert dict(action) == {
        "id": move["id"],
        "user_id": "ann",
        "admin_id": "root",
        "admin_name": "Rita",
        "action": "grant",
        "reason": "Ticket 4711",
        "transaction_id": move["id"],
        "details": {"amount": 50, "idempotencyKey": "k"},
        "created_at": move["created_at"],
    }


async def test_a_key_again_answers_the_first_grant_and_writes_nothing(
    admin: Connection, service_login: Connection
) -> None:
    arguments = {"user_id": "ann", "amount": 50, "idempotency_key": "k", **ROOT}
    first = await call(service_login, GRANT, **arguments)

    again = await call(service_login, GRANT, **{**arguments, "reason": "Other words"})

    assert dict(again) == {**dict(first), "replayed": True}
    assert await amounts(admin, "ann") == [("grant", 50)]
    assert len(await actions(service_login, "ann")) == 1
    refused = await refusal(service_login, GRANT, **{**arguments, "amount": 51})
    assert (refused.sqlstate, refused.facts) == ("MC003", {"idempotencyKey": "k"})


async def test_an_id_again_is_the_same_call(admin: Connection, service_login: Connection) -> None:
    arguments = {"user_id": "ann", "amount": 50, "id": uuid4(), **ROOT}
    first = await call(service_login, GRANT, **arguments)
    assert dict(await call(service_login, GRANT, **arguments)) == dict(first)
    taken = await debit(service_login, "ann", 10)
    refund = {"user_id": "ann", "transaction_id": taken["id"], "id": uuid4(), **ROOT}
    second = await call(service_login, REFUND, **refund)
    assert dict(await call(service_login, REFUND, **refund)) == dict(second)
    assert await amounts(admin, "ann") == [("grant", 50), ("usage", -10), ("refund", 10)]
    assert len(await actions(service_login, "ann")) == 2


async def test_no_key_is_occupied_by_another(admin: Connection, service_login: Connection) -> None:
    await grant(service_login, "ann", 100, "k")
    for origin in ("user", "service"):
        await debit(service_login, "ann", 1, idempotency_key="k", origin=origin)
    arguments = {"user_id": "ann", "amount": 50, "idempotency_key": "k", **ROOT}
    mine = await call(service_login, GRANT, **arguments)
    theirs = await call(service_login, GRANT, **{**arguments, "admin_id": "rolf"})
    elsewhere = await call(service_login, GRANT, **{**arguments, "user_id": "bob"})

    assert not any(move["replayed"] for move in (mine, theirs, elsewhere))
    # Nor can anybody occupy an administrator's by guessing how it is kept.
    kept = (await ledger(admin, "ann"))[-1]["idempotency_key"]
    for origin in ("user", "service"):
        taken = await debit(service_login, "ann", 1, idempotency_key=kept, origin=origin)
        assert not taken["replayed"]
    await grant(service_login, "ann", 1, kept)
    assert (await call(service_login, GRANT, **arguments))["id"] == mine["id"]


async def test_a_key_of_a_grant_is_none_of_a_refund(service_login: Connection) -> None:
    await call(service_login, GRANT, user_id="ann", amount=5, idempotency_key="k", **ROOT)
    taken = await debit(service_login, "ann", 5)
    refund = {"user_id": "ann", "transaction_id": taken["id"], "idempotency_key": "k", **ROOT}

    assert (await refusal(service_login, REFUND, **refund)).sqlstate == "MC003"
    assert (await refusal(service_login, REFUND, amount=5, **refund)).sqlstate == "MC003"
    await call(service_login, REFUND, **{**refund, "idempotency_key": "l"})
    refused = await refusal(
        service_login, GRANT, user_id="ann", amount=5, **{**ROOT, "idempotency_key": "l"}
    )
    assert refused.sqlstate == "MC003"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (" Rita\x07 R. ", "Rita R."),
        ("rita@example.org", None),
        ("see https://evil", None),
        ("x" * 70, "x" * 64),
        ("", None),
        (None, None),
    ],
)
async def test_an_administrators_name_is_cleaned(
    service_login: Connection, name: str | None, kept: str | None
) -> None:
    await call(service_login, GRANT, user_id="ann", amount=1, **{**ROOT, "admin_name": name})
    assert (await actions(service_login, "ann"))[0]["admin_name"] == kept


async def test_what_is_missing_or_out_of_bounds_is_refused_by_name(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 100)
    taken = await debit(service_login, "ann", 10)
    texts: dict[str, list[Any]] = {
        "reason": [None, "", "r" * 501],
        "admin_id": [None, "", "a" * 129],
        "idempotency_key": ["", "k" * 256],
        "user_id": [None, "a b"],
    }
    amount = [0, -1, 1_000_000_001]
    wire = {"admin_id": "adminId", "idempotency_key": "idempotencyKey", "user_id": "userId"}
    for function, good, cases in (
        (GRANT, {"amount": 1}, {**texts, "amount": [None, *amount]}),
        (REFUND, {"transaction_id": taken["id"]}, {**texts, "amount": amount}),
    ):
        for name, values in cases.items():
            for value in values:
                arguments = {"user_id": "ann", **ROOT, **good, name: value}
                refused = await refusal(service_login, function, **arguments)
                assert (refused.sqlstate, refused.field) == ("MC001", wire.get(name, name)), name
    missing = await refusal(service_login, REFUND, user_id="ann", transaction_id=None, **ROOT)
    assert missing.sqlstate == "MC004"
    for function in ("credits.gift_sync", "credits.revoke_sync_gift"):
        refused = await refusal(service_login, function, user_id="ann", reason="r" * 501)
        assert (refused.sqlstate, refused.field) == ("MC001", "reason")
    assert await actions(service_login, "ann") == []
    assert await admin.fetchval("SELECT count(*) FROM credits.balances") == 1


# Refunds


async def test_a_refund_gives_back_what_is_left_and_says_who_and_why(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 100)
    taken = await debit(service_login, "ann", 10)
    refund = {"user_id": "ann", "transaction_id": taken["id"], **ROOT}
    part = await call(service_login, REFUND, amount=3, **refund)
    rest = await call(service_login, REFUND, idempotency_key="k", **refund)

    assert [(move["type"], move["amount"]) for move in (part, rest)] == [
        ("refund", 3),
        ("refund", 7),
    ]
    assert rest["reference_id"] == taken["id"]
    # It counts for the same app, so that the debit and what came back stand together.
    assert (rest["app_id"], rest["available"]) == ("app", 100)
    newest, oldest = await actions(service_login, "ann")
    assert (newest["id"], newest["transaction_id"]) == (rest["id"], rest["id"])
    assert newest["details"] == {
        "amount": 7,
        "debitId": str(taken["id"]),
        "rest": True,
        "idempotencyKey": "k",
    }
    assert oldest["details"] == {
        "amount": 3,
        "debitId": str(taken["id"]),
        "rest": False,
        "idempotencyKey": None,
    }
    for amount in (None, 1):
        refused = await refusal(service_login, REFUND, amount=amount, **refund)
        assert (refused.sqlstate, refused.field, refused.facts["left"]) == ("MC001", "amount", 0)


async def test_a_refund_of_the_rest_again_answers_the_first(service_login: Connection) -> None:
    await grant(service_login, "ann", 100)
    taken = await debit(service_login, "ann", 10)
    refund = {"user_id": "ann", "transaction_id": taken["id"], "idempotency_key": "k", **ROOT}
    first = await call(service_login, REFUND, **refund)

    again = await call(service_login, REFUND, **refund)

    assert dict(again) == {**dict(first), "replayed": True}
    assert len(await actions(service_login, "ann")) == 1
    # What it came to is another request than what was asked for.
    assert (await refusal(service_login, REFUND, amount=10, **refund)).sqlstate == "MC003"
    other = await debit(service_login, "ann", 10)
    refund["transaction_id"] = other["id"]
    assert (await refusal(service_login, REFUND, **refund)).sqlstate == "MC003"


async def test_administrators_and_services_share_what_is_left_of_a_debit(
    service_login: Connection,
) -> None:
    await grant(service_login, "ann", 100)
    taken = await debit(service_login, "ann", 10)
    about = {"user_id": "ann", "transaction_id": taken["id"]}
    await call(service_login, "credits.refund_credits", amount=6, description="x", **about)

    too_much = await refusal(service_login, REFUND, amount=5, **about, **ROOT)
    assert too_much.facts["left"] == 4
    assert (await call(service_login, REFUND, **about, **ROOT))["amount"] == 4
    refused = await refusal(
        service_login, "credits.refund_credits", amount=1, description="x", **about
    )
    assert refused.facts["left"] == 0


async def test_only_a_debit_of_the_user_is_refunded(service_login: Connection) -> None:
    await grant(service_login, "ann", 100)
    taken = await debit(service_login, "ann", 10)
    granted = await call(service_login, GRANT, user_id="ann", amount=1, **ROOT)
    for user, transaction in (("bob", taken["id"]), ("ann", granted["id"]), ("ann", uuid4())):
        refused = await refusal(
            service_login, REFUND, user_id=user, transaction_id=transaction, **ROOT
        )
        assert refused.sqlstate == "MC004"


async def test_two_administrators_never_refund_more_than_a_debit(
    admin: Connection, database: Clone
) -> None:
    await grant(admin, "ann", 100)
    taken = await debit(admin, "ann", 10)
    first, second = await connect(database.service_url), await connect(database.service_url)
    try:
        refund = {"user_id": "ann", "transaction_id": taken["id"], **ROOT}
        opened = first.transaction()
        await opened.start()
        await call(first, REFUND, amount=6, **refund)
        waiting = asyncio.create_task(
            call(second, REFUND, **{**refund, "admin_id": "rolf", "admin_name": None})
        )
        await blocked(admin, second)
        await opened.commit()

        # What was left when it had the lock, and not when it was called.
        assert (await waiting)["amount"] == 4
        refused = await refusal(second, REFUND, **refund)
        assert refused.facts["left"] == 0
    finally:
        await first.close()
        await second.close()
    assert await amounts(admin, "ann") == [
        ("grant", 100),
        ("usage", -10),
        ("refund", 6),
        ("refund", 4),
    ]
    assert [row["admin_id"] for row in await actions(admin, "ann")] == ["rolf", "root"]


async def test_a_key_that_races_itself_refunds_once(admin: Connection, database: Clone) -> None:
    await grant(admin, "ann", 100)
    taken = await debit(admin, "ann", 10)
    connections = [await connect(database.service_url) for _ in range(8)]
    try:
        refund = {"user_id": "ann", "transaction_id": taken["id"], "idempotency_key": "k", **ROOT}
        moves = await asyncio.gather(
            *(call(one, REFUND, amount=4, **refund) for one in connections)
        )
    finally:
        for one in connections:
            await one.close()
    assert len({move["id"] for move in moves}) == 1
    assert sorted(move["replayed"] for move in moves) == [False] + [True] * 7
    assert len(await actions(admin, "ann")) == 1
    assert await available(admin, "ann") == 94


async def test_an_action_and_its_move_stand_or_fall_together(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 100)
    taken = await debit(service_login, "ann", 10)
    await admin.execute(
        "ALTER TABLE credits.admin_actions ADD CONSTRAINT no_more CHECK (false) NOT VALID"
    )
    for function, arguments in (
        (GRANT, {"amount": 5}),
        (REFUND, {"transaction_id": taken["id"]}),
        ("credits.gift_sync", {}),
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await rows(service_login, function, user_id="ann", **arguments, **ROOT)
    assert await amounts(admin, "ann") == [("grant", 100), ("usage", -10)]
    assert await admin.fetchval("SELECT count(*) FROM credits.debit_refunds") == 0
    status = await call(service_login, "credits.get_sync_status", user_id="ann")
    assert status["gifted"] is False


# Gifts of Cloud Sync


async def test_a_sync_gift_and_its_end_are_written_down_once(service_login: Connection) -> None:
    for reason in ("First", "Again"):
        await call(service_login, "credits.gift_sync", user_id="ann", **{**ROOT, "reason": reason})
    ended = {"user_id": "ann", "id": uuid4(), **ROOT}
    first = await call(service_login, "credits.revoke_sync_gift", **ended)
    # Its connection broke, and it is called again.
    assert dict(await call(service_login, "credits.revoke_sync_gift", **ended)) == dict(first)
    refused = await refusal(service_login, "credits.revoke_sync_gift", **{**ended, "id": uuid4()})
    assert refused.sqlstate == "MC012"

    assert [
        (row["action"], row["admin_id"], row["admin_name"], row["reason"], row["transaction_id"])
        for row in await actions(service_login, "ann")
    ] == [
        ("revoke_sync_gift", "root", "Rita", "Ticket 4711", None),
        ("gift_sync", "root", "Rita", "First", None),
    ]


async def test_in_psql_the_login_is_who(admin: Connection, service_login: Connection) -> None:
    await call(admin, "credits.gift_sync", user_id="ann", reason="")
    await call(service_login, "credits.revoke_sync_gift", user_id="ann")

    newest, oldest = await actions(service_login, "ann")
    assert (newest["admin_id"], newest["reason"]) == ("mana", None)
    assert (oldest["admin_id"], oldest["reason"]) == ("postgres", None)


async def test_two_administrators_gift_once(admin: Connection, database: Clone) -> None:
    connections = [await connect(database.service_url) for _ in range(6)]
    try:
        await asyncio.gather(
            *(call(one, "credits.gift_sync", user_id="ann", **ROOT) for one in connections)
        )
    finally:
        for one in connections:
            await one.close()
    assert len(await actions(admin, "ann")) == 1


# Finding and looking


async def find(connection: Connection, query: str, **arguments: Any) -> list[str]:
    """The ids of the users that a text finds."""
    found = await rows(connection, "credits.find_users", query=query, **arguments)
    return [row["user_id"] for row in found]


async def learn_address(admin: Connection, user_id: str, email: str) -> None:
    """A user's token has told an address."""
    await admin.execute(
        "SELECT credits._remember_address($1, $2, clock_timestamp())", user_id, email
    )


async def test_users_are_found_best_match_first(
    admin: Connection, service_login: Connection
) -> None:
    for user in ("ann", "anna", "ann-2", "Ann", "bob", "an", "*"):
        await grant(service_login, user, 1)
    await learn_address(admin, "bob", "Ann@Example.org")
    await learn_address(admin, "an", "annabel@example.org")

    # The id itself, what begins so (case matters in ids), then addresses in any case.
    assert await find(service_login, "ann") == ["ann", "ann-2", "anna", "an", "bob"]
    assert await find(service_login, " ann@example.ORG ") == ["bob"]
    assert await find(service_login, "ANN@") == ["bob"]
    assert await find(service_login, "ann", limit=2) == ["ann", "ann-2"]
    # No pattern: a sign that is one elsewhere is only a sign.
    assert await find(service_login, "*") == ["*"]
    for nobody in ("nn", "%", "a_n", "ann_", "zoe", "@example.org"):
        assert await find(service_login, nobody) == [], nobody


async def test_what_a_search_tells_of_a_user(admin: Connection, service_login: Connection) -> None:
    await grant(service_login, "ann", 100)
    await call(service_login, "credits.reserve_credits", user_id="ann", amount=30, reason="x")
    move = await debit(service_login, "ann", 10)
    await learn_address(admin, "ann", "ann@example.org")
    await call(service_login, "credits.gift_sync", user_id="ann")
    await call(service_login, "credits.init_balance", user_id="annette")

    ann, annette = await rows(service_login, "credits.find_users", query="ann")

    assert dict(ann) == {
        "user_id": "ann",
        "email": "ann@example.org",
        "available": 60,
        "reserved": 30,
        "sync_active": True,
        "last_move_at": move["created_at"],
    }
    assert tuple(annette) == ("annette", None, 0, 0, False, None)


async def test_users_are_found_by_what_is_theirs(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await buy(admin, "ann", "pi_ann")
    await call(
        service_login, "credits.link_stripe_customer", user_id="bob", stripe_customer_id="cus_bob"
    )
    await grant(service_login, "cat", 100)
    taken = await debit(service_login, "cat", 10)
    gift = await call(service_login, "gifts.create_gift", user_id="cat", credits=5)
    code = gift["code"]

    for text, user in (
        (str(purchase["id"]), "ann"),
        (str(purchase["id"]).upper(), "ann"),
        ("pi_ann", "ann"),
        ("cus_bob", "bob"),
        (str(taken["id"]), "cat"),
        (f" {code[:4]}-{code[4:].lower()} ", "cat"),
    ):
        assert await find(service_login, text) == [user], text
    await call(service_login, "gifts.redeem_gift", code=code, user_id="dan")
    assert await find(service_login, code) == ["cat", "dan"]
    assert await find(service_login, str(uuid4())) == []


async def test_a_search_for_nothing_is_refused(service_login: Connection) -> None:
    for text in (None, "", "  ", "x" * 255):
        refused = await refusal(service_login, "credits.find_users", query=text)
        assert (refused.sqlstate, refused.field) == ("MC001", "query")


async def test_an_account_is_what_the_user_has(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 1000)
    await debit(service_login, "ann", 10)
    holds = [
        await call(
            service_login,
            "credits.reserve_credits",
            user_id="ann",
            amount=1,
            reason=f"x:{n}",
            id=uuid7(),
        )
        for n in range(52)
    ]
    await call(
        service_login, "credits.refund_reservation", reservation_id=holds[-1]["reservation_id"]
    )
    await learn_address(admin, "ann", "ann@example.org")

    account = await call(service_login, "credits.get_account", user_id="ann")

    balance = await call(service_login, "credits.get_balance", user_id="ann")
    for name in ("available", "reserved", "total_earned", "total_spent", "transactions_count"):
        assert account[name] == balance[name], name
    assert (account["email"], account["created_at"]) == ("ann@example.org", balance["created_at"])
    status = await call(service_login, "credits.get_sync_status", user_id="ann")
    assert dict(account["sync"]) == dict(status)
    assert [hold["reason"] for hold in account["open_holds"]] == [
        f"x:{n}" for n in range(50, 0, -1)
    ]
    newest = account["open_holds"][0]
    assert (newest["id"], newest["amount"], newest["status"], newest["expires_at"]) == (
        holds[50]["reservation_id"],
        1,
        "open",
        holds[50]["expires_at"],
    )


async def test_looking_at_nobody_makes_nobody(admin: Connection, service_login: Connection) -> None:
    account = await call(service_login, "credits.get_account", user_id="nobody")
    assert (account["user_id"], account["email"], account["available"]) == ("nobody", None, 0)
    assert (account["created_at"], account["open_holds"]) == (None, [])
    assert account["sync"]["active"] is False
    assert await actions(service_login, "nobody") == []
    assert await rows(service_login, "gifts.list_masked_gifts", user_id="nobody") == []
    assert await admin.fetchval("SELECT count(*) FROM credits.balances") == 0


async def test_the_code_of_an_active_gift_is_masked(service_login: Connection) -> None:
    await grant(service_login, "ann", 100)
    live = await call(service_login, "gifts.create_gift", user_id="ann", credits=5, message="Hi")
    used = await call(service_login, "gifts.create_gift", user_id="ann", credits=6)
    await call(service_login, "gifts.redeem_gift", code=used["code"], user_id="bob")

    newest, oldest = await rows(service_login, "gifts.list_masked_gifts", user_id="ann")

    assert (newest["id"], newest["code"], newest["redeemed_by"]) == (
        used["id"],
        used["code"],
        "bob",
    )
    assert (oldest["id"], oldest["code"], oldest["message"]) == (live["id"], "*" * 12, "Hi")
    assert live["code"] not in str([dict(newest), dict(oldest)])
    (page,) = await rows(service_login, "gifts.list_masked_gifts", user_id="ann", limit=1, offset=1)
    assert page["id"] == live["id"]


# Stripe events and notices


async def test_events_that_are_not_done_with_are_listed_newest_first(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_buying(admin, "ann", "pi_ann", 1000, 900)
    wrong = {"id": "pi_ann", "amount_received": 1, "currency": "eur", "status": "succeeded"}
    named = {**wrong, "id": "pi_other", "metadata": {"purchaseId": str(purchase["id"])}}
    for number, about in enumerate([wrong, named, wrong]):
        event = await stripe_event(admin, "payment_intent.succeeded", about, f"evt_{number}")
        assert event["state"] == "failed", dict(event)
    refunded = {"id": "ch_1", "object": "charge", "payment_intent": "pi_ann"}
    await stripe_event(admin, "charge.refunded", refunded, "evt_r")
    await stripe_event(admin, "refund.created", refund_object("re_1", "pi_ann", 1), "evt_a")
    # The same moment, so that the id decides.
    await admin.execute(
        "UPDATE credits.stripe_events SET received_at = $1 WHERE id <> 'evt_0'", utc("2026-01-02")
    )
    await admin.execute(
        "UPDATE credits.stripe_events SET received_at = $1 WHERE id = 'evt_0'", utc("2026-01-03")
    )

    listed = await rows(service_login, "credits.list_stripe_events")
    assert [row["id"] for row in listed] == ["evt_0", "evt_2", "evt_1"]
    assert {row["purchase_id"] for row in listed} == {purchase["id"]}
    assert all(row["error"] and row["attempts"] == 1 for row in listed)
    pages: list[str] = []
    before: str | None = None
    while page := await rows(service_login, "credits.list_stripe_events", limit=1, before=before):
        before = page[0]["id"]
        pages.append(page[0]["id"])
    assert pages == ["evt_0", "evt_2", "evt_1"]
    (waiting,) = await rows(service_login, "credits.list_stripe_events", state="received")
    assert (waiting["id"], waiting["purchase_id"]) == ("evt_r", purchase["id"])
    for arguments, field in (
        ({"state": "applied"}, "state"),
        ({"state": None}, "state"),
        ({"before": "evt_unknown"}, "before"),
    ):
        refused = await refusal(service_login, "credits.list_stripe_events", **arguments)
        assert (refused.sqlstate, refused.field) == ("MC001", field)


async def write_notices(admin: Connection, user_id: str, *states: str) -> list[UUID]:
    """Notices in these states, the newest last."""
    await call(admin, "credits.init_balance", user_id=user_id)
    for _ in states:
        await admin.execute(
            "SELECT credits._write_notice($1, 'gift_expired', '{}', clock_timestamp())", user_id
        )
    made: list[UUID] = [
        row["id"]
        for row in await admin.fetch(
            "SELECT id FROM credits.notices WHERE user_id = $1 ORDER BY id", user_id
        )
    ]
    for notice, state in zip(made, states, strict=True):
        if state != "pending":
            settled = await call(
                admin,
                "credits.settle_notice",
                user_id=user_id,
                id=notice,
                state=state,
                error=None if state == "delivered" else "why",
            )
            assert settled["settle_notice"]
    return made


async def test_notices_that_were_not_delivered_are_listed_newest_first(
    admin: Connection, service_login: Connection
) -> None:
    states = ("failed", "delivered", "undeliverable", "pending", "failed")
    made = await write_notices(admin, "ann", *states)

    for state in ("failed", "undeliverable", "pending"):
        listed = await rows(service_login, "credits.list_notices", state=state)
        assert sorted(row["id"] for row in listed) == sorted(
            notice for notice, of in zip(made, states, strict=True) if of == state
        )
    newest, oldest = await rows(service_login, "credits.list_notices")
    assert newest["id"] > oldest["id"]
    assert (newest["last_error"], newest["user_id"], newest["next_attempt_at"]) == (
        "why",
        "ann",
        None,
    )
    page = await rows(service_login, "credits.list_notices", before=newest["id"])
    assert [row["id"] for row in page] == [oldest["id"]]
    assert len(await rows(service_login, "credits.list_notices", limit=1)) == 1
    for other in ("delivered", None):
        refused = await refusal(service_login, "credits.list_notices", state=other)
        assert (refused.sqlstate, refused.field) == ("MC001", "state")


# The whole


async def days(connection: Connection, number: int = 5) -> list[tuple[int, ...]]:
    """Sold, granted, used, reversed, refunded, outstanding of the last days, newest first."""
    listed = await rows(connection, "credits.list_daily_totals", days=number)
    assert len(listed) == number
    return [tuple(row.values())[1:] for row in listed]


async def move_back(admin: Connection, user_id: str, number: int) -> None:
    """Let every ledger row of a user that was made today be so many days old."""
    await admin.execute("SET session_replication_role = replica")
    await admin.execute(
        "UPDATE credits.transactions SET created_at = created_at - make_interval(days => $2)"
        " WHERE user_id = $1 AND created_at > now() - interval '12 hours'",
        user_id,
        number,
    )
    await admin.execute("RESET session_replication_role")


async def outstanding(admin: Connection) -> int:
    """What users have now, in balances and in active gifts."""
    now: int = await admin.fetchval(
        "SELECT (SELECT sum(balance) FROM credits.balances) + (SELECT coalesce(sum(total_credits),"
        " 0) FROM gifts.gift_codes WHERE status = 'active')"
    )
    return now


async def make_history(admin: Connection) -> None:
    """Four days ago a purchase; two days ago a grant and a gift; today the rest."""
    await buy(admin, "ann", "pi_ann", 1000, 900)
    await move_back(admin, "ann", 4)
    await grant(admin, "ann", 50)
    await call(admin, "gifts.create_gift", user_id="ann", credits=200)
    await move_back(admin, "ann", 2)
    taken = await debit(admin, "ann", 30)
    await call(admin, REFUND, user_id="ann", transaction_id=taken["id"], amount=7, **ROOT)
    await stripe_event(admin, "refund.created", refund_object("re_1", "pi_ann", 90))


HISTORY = [
    (0, 0, 30, 100, 7, 927),
    (0, 0, 0, 0, 0, 1050),
    (0, 50, 0, 0, 0, 1050),
    (0, 0, 0, 0, 0, 1000),
    (1000, 0, 0, 0, 0, 1000),
    (0, 0, 0, 0, 0, 0),
]


async def test_days_are_the_same_counted_or_not(
    admin: Connection, service_login: Connection
) -> None:
    await make_history(admin)
    assert await days(service_login, 6) == HISTORY
    assert HISTORY[0][-1] == await outstanding(admin)

    await admin.execute("CALL credits.run_ledger_check()")

    counted = await admin.fetch("SELECT * FROM credits.daily_totals ORDER BY day DESC")
    # Today is not over, and yesterday for an hour at least.
    assert [tuple(row.values())[1:] for row in counted] in (HISTORY[1:5], HISTORY[2:5])
    assert await days(service_login, 6) == HISTORY
    assert await days(service_login, 1) == HISTORY[:1]


async def test_days_are_counted_every_night(admin: Connection, service_login: Connection) -> None:
    await make_history(admin)
    for hours in (-50, -40, -26, -26, 0):
        await admin.execute(
            "SELECT credits._count_days(clock_timestamp() + make_interval(hours => $1))", hours
        )
        assert await days(service_login, 6) == HISTORY, hours


async def test_a_row_that_came_late_is_counted(
    admin: Connection, service_login: Connection
) -> None:
    await make_history(admin)
    count = "SELECT credits._count_days(clock_timestamp())"
    await admin.execute(count)
    # Of a day that was counted, and of one that is not counted again by itself.
    await grant(admin, "bob", 5, "late")
    await move_back(admin, "bob", 1)
    await grant(admin, "bob", 6, "later")
    await move_back(admin, "bob", 10)
    await admin.execute(count)

    totals = await days(service_login, 12)
    assert totals[0][-1] == await outstanding(admin)
    assert [day[1] for day in totals] == [0, 5, 50, 0, 0, 0, 0, 0, 0, 0, 6, 0]


async def test_no_day_at_all(admin: Connection, service_login: Connection) -> None:
    await admin.execute("CALL credits.run_ledger_check()")
    assert await admin.fetchval("SELECT count(*) FROM credits.daily_totals") == 0
    assert await days(service_login, 366) == [(0,) * 6] * 366
    for number in (0, 367, None):
        refused = await refusal(service_login, "credits.list_daily_totals", days=number)
        assert (refused.sqlstate, refused.field) == ("MC001", "days")


async def test_the_job_tells_of_days_that_cannot_be_counted(admin: Connection) -> None:
    await admin.execute("ALTER TABLE credits.daily_totals RENAME TO elsewhere")
    await admin.execute("CALL credits.run_ledger_check()")
    run = await admin.fetchrow("SELECT did, error FROM credits.job_runs")
    assert run is not None
    # The check itself was made, and what it found is kept.
    assert run["did"]["violations"] == 0
    assert run["error"].startswith("42P01")


async def test_the_overview_counts_what_is_open(
    admin: Connection, service_login: Connection
) -> None:
    empty = await call(service_login, "credits.get_overview")
    assert empty["ledger_checked_at"] is None
    assert empty["ledger_violations"] is None
    assert {value for name, value in empty.items() if not name.startswith("ledger_")} == {0}

    long_ago = utc("2024-01-31 12:00")
    for user, credits in (("pays", 100), ("short", 30), ("later", 100), ("stuck", 100)):
        await grant(admin, user, credits)
        await subscribe(admin, user, at=long_ago)
    soon = "next_charge_at = clock_timestamp() + interval '{}'"
    for user, change in (
        ("later", soon.format("2 hours")),
        ("short", soon.format("30 minutes")),
        ("stuck", "retry_at = clock_timestamp() + interval '5 hours', failures = 1"),
    ):
        await admin.execute(
            f"UPDATE credits.sync_subscriptions SET {change} WHERE user_id = $1", user
        )
    await call(admin, "credits.gift_sync", user_id="gifted")
    await grant(admin, "paused", 30)
    await subscribe(admin, "paused", at=long_ago)
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET active = false, next_charge_at = NULL,"
        " paused_at = clock_timestamp() WHERE user_id = 'paused'"
    )
    await write_notices(admin, "ann", "failed", "undeliverable", "undeliverable", "pending")
    await admin.execute(
        "INSERT INTO credits.stripe_events (id, type, state, error, created_at, received_at)"
        " VALUES ('evt_1', 'x', 'failed', 'x', now(), now()), ('evt_2', 'x', 'received', NULL,"
        " now(), now()), ('evt_3', 'x', 'failed', 'x', now(), now())"
    )
    await admin.execute("CALL credits.run_ledger_check()")

    overview = dict(await call(service_login, "credits.get_overview"))

    assert overview.pop("ledger_checked_at") is not None
    assert overview == {
        "subscriptions_active": 4,
        "subscriptions_paused": 1,
        "subscriptions_gifted": 1,
        "next_run_due": 2,
        "next_run_charges": 1,
        "next_run_pauses": 1,
        "next_run_credits": 30,
        "ledger_violations": 0,
        "events_failed": 2,
        "events_received": 1,
        "notices_waiting": 1,
        "notices_failed": 1,
        "notices_undeliverable": 2,
    }


async def test_a_preview_is_bounded(admin: Connection, service_login: Connection) -> None:
    for number in range(6):
        await grant(admin, f"user{number}", 100)
        await subscribe(admin, f"user{number}", at=utc(f"2024-01-{number + 1:02} 12:00"))
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET failures = 1,"
        " retry_at = clock_timestamp() + interval '1 hour' WHERE user_id IN ('user0', 'user1')"
    )
    whole = await rows(service_login, "credits.preview_charge")
    assert [(row["user_id"], row["action"]) for row in whole] == [
        ("user0", "skip"),
        ("user1", "skip"),
        *((f"user{number}", "charge") for number in range(2, 6)),
    ]
    part = await rows(service_login, "credits.preview_charge", limit=1)
    assert [(row["user_id"], row["action"]) for row in part] == [
        ("user0", "skip"),
        ("user2", "charge"),
    ]


async def test_jobs_tell_how_their_last_runs_ended(
    admin: Connection, service_login: Connection
) -> None:
    async def job(name: str) -> asyncpg.Record:
        states = await rows(service_login, "credits.list_job_states")
        assert [row["job"] for row in states] == sorted(row["job"] for row in states)
        return next(row for row in states if row["job"] == name)

    new = await job("gift-expiry")
    assert tuple(new) == ("gift-expiry", None, None, None, None, None, False)
    await admin.execute("UPDATE credits.jobs SET since = since - interval '1 year'")
    assert (await job("gift-expiry"))["late"] is True

    await admin.execute("CALL credits.run_gift_expiry()")
    done = await job("gift-expiry")
    assert (done["late"], done["error"], done["did"]) == (False, None, {"expired": 0, "errors": 0})
    assert done["last_started_at"] < done["last_ended_at"] == done["last_succeeded_at"]

    failed = await call(admin, "credits.begin_job_run", job="gift-expiry")
    await call(
        admin,
        "credits.update_job_run",
        id=failed["begin_job_run"],
        did={"expired": 1},
        error="why",
        ended=True,
    )
    broken = await job("gift-expiry")
    assert (broken["error"], broken["did"]) == ("why", {"expired": 1})
    assert broken["last_succeeded_at"] == done["last_succeeded_at"]
    assert broken["last_ended_at"] > done["last_ended_at"]

    await call(admin, "credits.begin_job_run", job="gift-expiry")
    running = await job("gift-expiry")
    assert running["last_started_at"] > broken["last_started_at"]
    assert (running["error"], running["last_ended_at"]) == ("why", broken["last_ended_at"])


# Privileges


async def test_support_functions_are_the_services_alone(admin: Connection, database: Clone) -> None:
    await make_package(admin)
    reader = await connect(database.admin_url, role="mana_credits_readonly")
    try:
        for function, arguments in (
            (GRANT, {"user_id": "ann", "amount": 1, **ROOT}),
            (REFUND, {"user_id": "ann", "transaction_id": uuid4(), **ROOT}),
            ("credits.find_users", {"query": "ann"}),
            ("credits.get_account", {"user_id": "ann"}),
            ("gifts.list_masked_gifts", {"user_id": "ann"}),
            ("credits.get_overview", {}),
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await rows(reader, function, **arguments)
        # What was done is for reading.
        assert await reader.fetch("SELECT * FROM credits.admin_actions") == []
    finally:
        await reader.close()


async def test_actions_are_listed_by_pages_newest_first(service_login: Connection) -> None:
    ids = [uuid7() for _ in range(5)]
    for number, id_ in enumerate(ids):
        await call(service_login, GRANT, user_id="ann", amount=number + 1, id=id_, **ROOT)
    for limit, offset, shown in ((2, 0, [4, 3]), (2, 2, [2, 1]), (9, 0, [4, 3, 2, 1, 0])):
        page = await rows(
            service_login, "credits.list_admin_actions", user_id="ann", limit=limit, offset=offset
        )
        assert [row["id"] for row in page] == [ids[number] for number in shown]
