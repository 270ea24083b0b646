"""Administrators: finding users, grants and refunds, the whole, Stripe events and notices."""

from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from service.ids import uuid7
from tests.support.answers import (
    GIFT,
    MOVED,
    PURCHASE,
    SYNC_STATUS,
    TRANSACTION,
    a_bool,
    a_number,
    a_text,
    a_time,
    an_id,
    header,
    maybe,
    next_page,
    require_error,
    require_shape,
    wrong_fields,
)
from tests.support.calls import buy, start_buying, stripe_event
from tests.support.databases import Connection
from tests.support.running import Answer, Running

FOUND = {
    "userId": a_text,
    "email": maybe(a_text),
    "balance": a_number,
    "reserved": a_number,
    "syncActive": a_bool,
    "lastMoveAt": maybe(a_time),
}
HOLD = {
    "id": an_id,
    "amount": a_number,
    "reason": a_text,
    "status": "open",
    "createdAt": a_time,
    "expiresAt": a_time,
}
ACCOUNT = {
    "userId": a_text,
    "email": maybe(a_text),
    "balance": a_number,
    "reserved": a_number,
    "totalEarned": a_number,
    "totalSpent": a_number,
    "transactionsCount": a_number,
    "createdAt": maybe(a_time),
    "sync": SYNC_STATUS,
    "reservations": lambda value: isinstance(value, list),
}
ACTION = {
    "id": an_id,
    "userId": a_text,
    "adminId": a_text,
    "adminName": maybe(a_text),
    "action": a_text,
    "reason": maybe(a_text),
    "transactionId": maybe(an_id),
    "details": lambda value: isinstance(value, dict),
    "createdAt": a_time,
}
SUPPORT_GIFT = {
    **GIFT,
    "url": maybe(a_text),
    "shortUrl": maybe(a_text),
    "redeemedBy": maybe(a_text),
    "redeemedAt": maybe(a_time),
}
DAY = dict.fromkeys(
    ("sold", "granted", "used", "reversed", "refunded", "outstanding"), a_number
) | {"date": a_text}
JOB = {
    "job": a_text,
    "lastStartedAt": maybe(a_time),
    "lastEndedAt": maybe(a_time),
    "lastSucceededAt": maybe(a_time),
    "did": lambda value: value is None or isinstance(value, dict),
    "error": maybe(a_text),
    "late": a_bool,
}
EVENT = {
    "id": a_text,
    "type": a_text,
    "state": a_text,
    "error": maybe(a_text),
    "receivedAt": a_time,
    "attempts": a_number,
    "nextAttemptAt": maybe(a_time),
    "purchaseId": maybe(an_id),
}
NOTICE = {
    "id": an_id,
    "userId": a_text,
    "kind": a_text,
    "state": a_text,
    "attempts": a_number,
    "lastError": maybe(a_text),
    "createdAt": a_time,
    "nextAttemptAt": maybe(a_time),
}


async def ask(
    service: Running,
    method: str,
    path: str,
    json: Any = None,
    *,
    headers: dict[str, str] | None = None,
    **claims: Any,
) -> Answer:
    return await service.call(
        method,
        f"/admin{path}",
        user=claims.pop("sub", "root"),
        claims={"role": "admin", "name": "Rita", **claims},
        json=json,
        headers=headers,
    )


async def spend(service: Running, user: str, amount: int, **more: Any) -> str:
    answer = await service.call(
        "POST",
        "/internal/credits/use",
        internal=True,
        json={"userId": user, "amount": amount, "appId": "chat", "description": "x", **more},
    )
    assert answer.status == 200, answer.body
    id_: str = answer.body["transaction"]["id"]
    return id_


# Finding and looking


async def test_a_user_is_found(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    await service.call("POST", "/sync/activate", user=ann, claims={"email": f"{ann}@example.org"})

    for text in (ann, f"{ann}@EXAMPLE.org", f" {ann}@exam"):
        answer = await ask(service, "GET", f"/users?query={quote(text)}")
        assert answer.status == 200
        (found,) = answer.body
        require_shape(found, FOUND)
        assert (found["userId"], found["balance"], found["syncActive"]) == (ann, 70, True)
        assert found["email"] == f"{ann}@example.org"
    nobody = await ask(service, "GET", "/users?query=nobody-at-all")
    assert (nobody.status, nobody.body) == (200, [])


async def test_a_search_is_bounded(service: Running, ann: str) -> None:
    for number in range(3):
        await service.grant(f"{ann}.{number}", 1)
    answer = await ask(service, "GET", f"/users?query={ann}.&limit=2")
    assert [user["userId"] for user in answer.body] == [f"{ann}.0", f"{ann}.1"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "query"),
        ("?query=", "query"),
        ("?query=%20", "query"),
        ("?query=" + "x" * 255, "query"),
        ("?query=a%00", "query"),
        ("?query=a&query=b", "query"),
        ("?query=a&limit=0", "limit"),
        ("?query=a&limit=501", "limit"),
    ],
)
async def test_searches_that_cannot_be(service: Running, query: str, field: str) -> None:
    assert wrong_fields(await ask(service, "GET", f"/users{query}")) == [field]


async def test_an_account(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    held = await service.call(
        "POST",
        "/internal/credits/reserve",
        internal=True,
        json={"userId": ann, "amount": 30, "reason": "research:deep"},
    )

    answer = await ask(service, "GET", f"/users/{ann}")

    assert answer.status == 200
    require_shape(answer.body, ACCOUNT)
    (hold,) = answer.body["reservations"]
    require_shape(hold, HOLD)
    assert (hold["id"], hold["amount"]) == (held.body["reservationId"], 30)
    assert answer.body["sync"] == (await service.call("GET", "/sync/status", user=ann)).body
    balance = (await service.call("GET", "/credits/balance", user=ann)).body
    assert {name: answer.body[name] for name in balance} == balance


async def test_an_account_of_nobody(service: Running) -> None:
    answer = await ask(service, "GET", "/users/nobody")

    assert answer.status == 200
    require_shape(answer.body, ACCOUNT)
    assert {name: answer.body[name] for name in answer.body if name not in ("sync", "userId")} == {
        **dict.fromkeys(("balance", "reserved", "totalEarned", "totalSpent"), 0),
        "transactionsCount": 0,
        "email": None,
        "createdAt": None,
        "reservations": [],
    }
    for part in ("transactions", "purchases", "gifts", "actions"):
        assert (await ask(service, "GET", f"/users/nobody/{part}")).body == []


async def test_the_ledger_is_what_the_user_sees(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    for _ in range(4):
        await spend(service, ann, 1)

    for query in ("", "?type=usage", "?appId=chat", "?limit=2&offset=1", "?before=3"):
        mine = await service.call("GET", f"/credits/transactions{query}", user=ann)
        seen = await ask(service, "GET", f"/users/{ann}/transactions{query}")
        assert (seen.status, seen.body) == (200, mine.body), query
        for row in seen.body:
            require_shape(row, TRANSACTION)
    page = await ask(service, "GET", f"/users/{ann}/transactions?limit=2")
    rows = page.body
    while (link := next_page(page)) is not None:
        assert link.startswith(f"/admin/users/{ann}/transactions?")
        page = await ask(service, "GET", link.removeprefix("/admin"))
        rows = rows + page.body
    assert rows == (await service.call("GET", "/credits/transactions", user=ann)).body
    for query, field in (("before=x", "before"), ("type=x", "type"), ("limit=0", "limit")):
        answer = await ask(service, "GET", f"/users/{ann}/transactions?{query}")
        assert wrong_fields(answer) == [field]


async def test_purchases_are_what_the_user_sees(
    service: Running, admin: Connection, ann: str
) -> None:
    await buy(admin, ann, f"pi_{ann}")

    answer = await ask(service, "GET", f"/users/{ann}/purchases")

    require_shape(answer.body[0], PURCHASE)
    assert answer.body == (await service.call("GET", "/credits/purchases", user=ann)).body
    found = await ask(service, "GET", f"/users?query=pi_{ann}")
    assert [user["userId"] for user in found.body] == [ann]


async def test_gifts_are_shown_without_codes_that_are_money(
    service: Running, ann: str, bob: str
) -> None:
    await service.grant(ann, 100)
    made = [
        await service.call("POST", "/gifts", user=ann, json={"totalCredits": 5}) for _ in range(2)
    ]
    live, used = made[0].body, made[1].body
    await service.call("POST", f"/gifts/{used['code']}/redeem", user=bob, json={})

    answer = await ask(service, "GET", f"/users/{ann}/gifts")

    newest, oldest = answer.body
    for gift in answer.body:
        require_shape(gift, SUPPORT_GIFT)
    assert (newest["code"], newest["url"]) == (used["code"], used["url"])
    assert (newest["redeemed"], newest["redeemedBy"]) == (1, bob)
    assert (oldest["id"], oldest["code"], oldest["url"]) == (live["id"], "*" * 12, None)
    assert live["code"] not in str(answer.body)
    # Whoever holds a code can be helped.
    found = await ask(service, "GET", f"/users?query={live['code'].lower()}")
    assert [user["userId"] for user in found.body] == [ann]


# Grants and refunds


async def test_a_grant_is_made_and_written_down(service: Running, ann: str) -> None:
    answer = await ask(
        service, "POST", f"/users/{ann}/grant", {"amount": 50, "reason": "Ticket 4711"}
    )

    assert answer.status == 200
    require_shape(answer.body, MOVED)
    assert answer.body["newBalance"] == {"balance": 50, "totalEarned": 50, "totalSpent": 0}
    assert header(answer, "Idempotent-Replayed") is None
    actions = await ask(service, "GET", f"/users/{ann}/actions")
    (action,) = actions.body
    require_shape(action, ACTION)
    transaction = answer.body["transaction"]
    assert action == {
        "id": transaction["id"],
        "userId": ann,
        "adminId": "root",
        "adminName": "Rita",
        "action": "grant",
        "reason": "Ticket 4711",
        "transactionId": transaction["id"],
        "details": {"amount": 50, "idempotencyKey": None},
        "createdAt": transaction["createdAt"],
    }
    # Why is not for the user.
    history = await service.call("GET", "/credits/transactions", user=ann)
    assert "4711" not in str(history.body)


@pytest.mark.parametrize("in_header", [False, True])
async def test_a_repeated_grant_is_one(service: Running, ann: str, in_header: bool) -> None:
    body: dict[str, Any] = {"amount": 50, "reason": "x"}
    headers = {"Idempotency-Key": "k"} if in_header else None
    if not in_header:
        body["idempotencyKey"] = "k"
    first = await ask(service, "POST", f"/users/{ann}/grant", body, headers=headers)
    again = await ask(service, "POST", f"/users/{ann}/grant", body, headers=headers)
    other = await ask(
        service, "POST", f"/users/{ann}/grant", {**body, "amount": 51}, headers=headers
    )
    others = await ask(service, "POST", f"/users/{ann}/grant", body, headers=headers, sub="rolf")

    assert header(again, "Idempotent-Replayed") == "true"
    assert again.body == {**first.body, "message": "Transaction already processed"}
    require_error(other, 409, "idempotency_key_reused", {"idempotencyKey": "k"})
    assert header(others, "Idempotent-Replayed") is None
    assert await service.balance(ann) == 100
    assert len((await ask(service, "GET", f"/users/{ann}/actions")).body) == 2


async def test_a_refund_gives_back_what_is_left(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    debit = await spend(service, ann, 10)
    part = {"transactionId": debit, "amount": 4, "reason": "It failed"}
    rest = {"transactionId": debit, "reason": "All of it failed", "idempotencyKey": "k"}

    answers = [
        await ask(service, "POST", f"/users/{ann}/refund", body) for body in (part, rest, rest)
    ]

    for answer in answers:
        assert answer.status == 200, answer.body
    require_shape(answers[1].body, MOVED)
    assert [answer.body["transaction"]["amount"] for answer in answers] == [4, 6, 6]
    assert header(answers[2], "Idempotent-Replayed") == "true"
    assert answers[1].body["transaction"]["appId"] == "chat"
    newest, oldest = (await ask(service, "GET", f"/users/{ann}/actions")).body
    assert (newest["action"], newest["reason"]) == ("refund", "All of it failed")
    assert (newest["details"]["debitId"], newest["details"]["amount"]) == (debit, 6)
    assert oldest["reason"] == "It failed"
    too_much = await ask(service, "POST", f"/users/{ann}/refund", {**part, "amount": 1})
    assert wrong_fields(too_much) == ["amount"]
    assert await service.balance(ann) == 100


async def test_what_is_no_debit_of_the_user_is_not_refunded(
    service: Running, ann: str, bob: str
) -> None:
    await service.grant(ann, 100)
    debit = await spend(service, ann, 10)
    for user, transaction in ((bob, debit), (ann, str(uuid4()))):
        body = {"transactionId": transaction, "reason": "x"}
        require_error(await ask(service, "POST", f"/users/{user}/refund", body), 404, "not_found")
    found = await ask(service, "GET", f"/users?query={debit}")
    assert [user["userId"] for user in found.body] == [ann]
    assert (await ask(service, "GET", f"/users?query={bob}")).body == []


@pytest.mark.parametrize(
    ("call", "body", "fields"),
    [
        ("grant", {}, ["amount", "reason"]),
        ("grant", {"amount": 1}, ["reason"]),
        ("grant", {"amount": 1, "reason": ""}, ["reason"]),
        ("grant", {"amount": 1, "reason": "r" * 501}, ["reason"]),
        ("grant", {"amount": 1, "reason": None}, ["reason"]),
        ("grant", {"amount": 0, "reason": "x"}, ["amount"]),
        ("grant", {"amount": 1.5, "reason": "x"}, ["amount"]),
        ("grant", {"amount": 1_000_000_001, "reason": "x"}, ["amount"]),
        ("grant", {"amount": 1, "reason": "x", "idempotencyKey": ""}, ["idempotencyKey"]),
        ("refund", {}, ["reason", "transactionId"]),
        ("refund", {"transactionId": "x", "reason": "x"}, ["transactionId"]),
        ("refund", {"transactionId": str(uuid4()), "reason": "x", "amount": 0}, ["amount"]),
    ],
)
async def test_grants_and_refunds_that_cannot_be(
    service: Running, ann: str, call: str, body: dict[str, Any], fields: list[str]
) -> None:
    assert wrong_fields(await ask(service, "POST", f"/users/{ann}/{call}", body)) == fields


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        *(("GET", f"/{part}") for part in ("transactions", "purchases", "gifts", "actions")),
        ("POST", "/grant"),
        ("POST", "/refund"),
    ],
)
async def test_user_ids(service: Running, method: str, path: str) -> None:
    body = {"amount": 1, "reason": "x", "transactionId": str(uuid4())} if method == "POST" else None
    for user in ("x" * 129, "a b", "a%b", "a\tb"):
        answer = await ask(service, method, f"/users/{quote(user, safe='')}{path}", body)
        assert wrong_fields(answer) == ["userId"], user
    for user in ("auth0|5f7c", "Jürgen~!$&'()*+,;=:@", "..."):
        answer = await ask(service, method, f"/users/{quote(user, safe='')}{path}", body)
        assert answer.status == (404 if path == "/refund" else 200), (user, answer.body)


# Gifts of Cloud Sync


async def test_a_sync_gift_says_who_and_why(service: Running, ann: str) -> None:
    for reason in ("For a bug report", "Again"):
        answer = await ask(service, "POST", f"/sync/{ann}/gift", {"reason": reason})
        assert answer.status == 200
    revoked = await ask(
        service, "DELETE", f"/sync/{ann}/gift", {"reason": "A mistake"}, sub="rolf", name=None
    )
    assert revoked.status == 200
    require_error(await ask(service, "DELETE", f"/sync/{ann}/gift"), 400, "sync_not_gifted")
    await ask(service, "POST", f"/sync/{ann}/gift")

    actions = (await ask(service, "GET", f"/users/{ann}/actions")).body
    for action in actions:
        require_shape(action, ACTION)
        assert (action["transactionId"], action["details"]) == (None, {})
    told = [(one["action"], one["adminId"], one["adminName"], one["reason"]) for one in actions]
    assert told == [
        ("gift_sync", "root", "Rita", None),
        ("revoke_sync_gift", "rolf", None, "A mistake"),
        ("gift_sync", "root", "Rita", "For a bug report"),
    ]
    for method in ("POST", "DELETE"):
        too_long = await ask(service, method, f"/sync/{ann}/gift", {"reason": "r" * 501})
        assert wrong_fields(too_long) == ["reason"]


# The whole


async def test_the_overview(service: Running, admin: Connection, ann: str) -> None:
    before = (await ask(service, "GET", "/overview")).body
    await service.grant(ann, 100)
    await spend(service, ann, 30)
    await admin.execute("CALL credits.run_ledger_check()")

    answer = await ask(service, "GET", "/overview?days=3")

    assert answer.status == 200
    overview = answer.body
    assert set(overview) == {
        *("days", "subscriptions", "nextRun", "jobs", "ledgerCheck", "stripeEvents", "notices")
    }
    assert (len(before["days"]), len(overview["days"])) == (30, 3)
    for day in overview["days"]:
        require_shape(day, DAY)
    dates = [day["date"] for day in overview["days"]]
    assert dates == sorted(dates, reverse=True)
    today = overview["days"][0]
    assert today["outstanding"] - before["days"][0]["outstanding"] == 70
    assert today["outstanding"] == await admin.fetchval(
        "SELECT (SELECT sum(balance) FROM credits.balances) + (SELECT coalesce(sum(total_credits),"
        " 0) FROM gifts.gift_codes WHERE status = 'active')"
    )
    require_shape(
        overview["subscriptions"], dict.fromkeys(("active", "paused", "gifted"), a_number)
    )
    require_shape(
        overview["nextRun"], dict.fromkeys(("due", "charges", "pauses", "credits"), a_number)
    )
    require_shape(overview["stripeEvents"], {"failed": a_number, "received": a_number})
    require_shape(
        overview["notices"], dict.fromkeys(("waiting", "failed", "undeliverable"), a_number)
    )
    require_shape(overview["ledgerCheck"], {"checkedAt": a_time, "violations": 0})
    for job in overview["jobs"]:
        require_shape(job, JOB)
    (check,) = [job for job in overview["jobs"] if job["job"] == "ledger-check"]
    assert (check["lastSucceededAt"], check["late"]) == (
        overview["ledgerCheck"]["checkedAt"],
        False,
    )
    assert check["did"]["violations"] == 0


@pytest.mark.parametrize("days", ["0", "367", "x", "1.5", ""])
async def test_overviews_that_cannot_be(service: Running, days: str) -> None:
    assert wrong_fields(await ask(service, "GET", f"/overview?days={days}")) == ["days"]


# Stripe events and notices


async def test_failed_events_are_listed_and_replayed(
    service: Running, admin: Connection, ann: str
) -> None:
    purchase = await start_buying(admin, ann, f"pi_{ann}", 1000, 900)
    wrong = {"id": f"pi_{ann}", "amount_received": 1, "currency": "eur", "status": "succeeded"}
    names = [f"evt_{ann}_{number}" for number in range(3)]
    for name in names:
        await stripe_event(admin, "payment_intent.succeeded", wrong, name)

    pages = await ask(service, "GET", "/stripe-events?state=failed&limit=2")
    rows = pages.body
    while (link := next_page(pages)) is not None:
        pages = await ask(service, "GET", link.removeprefix("/admin"))
        rows = rows + pages.body
    for row in rows:
        require_shape(row, EVENT)
    assert [row["id"] for row in rows] == names[::-1]
    assert {row["purchaseId"] for row in rows} == {str(purchase["id"])}
    assert (await ask(service, "GET", "/stripe-events")).body == rows

    still = await ask(service, "POST", f"/stripe-events/{names[0]}/replay", {})
    assert still.status == 200
    assert (still.body["id"], still.body["state"]) == (names[0], "failed")
    assert still.body["error"].startswith("MC001")
    # What stood in its way is mended.
    await admin.execute(
        "UPDATE credits.stripe_events SET payload ="
        " jsonb_set(payload, '{data,object,amount_received}', '900') WHERE id = $1",
        names[0],
    )
    for _ in range(2):
        done = await ask(service, "POST", f"/stripe-events/{names[0]}/replay")
        assert (done.status, done.body["state"], done.body["error"]) == (200, "applied", None)
        assert await service.balance(ann) == 1000
    assert names[0] not in str((await ask(service, "GET", "/stripe-events")).body)


async def test_events_that_cannot_be_replayed(
    service: Running, admin: Connection, ann: str
) -> None:
    for unknown in ("evt_unknown", "x" * 300):
        answer = await ask(service, "POST", f"/stripe-events/{unknown}/replay")
        require_error(answer, 404, "not_found")
    await stripe_event(admin, "x", {}, f"evt_{ann}")
    await admin.execute(
        "UPDATE credits.stripe_events SET payload = NULL WHERE id = $1", f"evt_{ann}"
    )
    assert wrong_fields(await ask(service, "POST", f"/stripe-events/evt_{ann}/replay")) == ["id"]


async def test_without_stripe_an_event_waits_for_its_answer(
    service: Running, admin: Connection, ann: str
) -> None:
    await buy(admin, ann, f"pi_{ann}")
    charge = {"id": "ch_1", "object": "charge", "payment_intent": f"pi_{ann}"}
    await stripe_event(admin, "charge.refunded", charge, f"evt_{ann}")

    answer = await ask(service, "POST", f"/stripe-events/evt_{ann}/replay")

    assert (answer.status, answer.body["state"]) == (200, "received")
    listed = await ask(service, "GET", "/stripe-events?state=received")
    assert [row["id"] for row in listed.body] == [f"evt_{ann}"]
    # Due at once, for whoever can ask.
    assert await admin.fetchval(
        "SELECT next_attempt_at <= clock_timestamp() FROM credits.stripe_events WHERE id = $1",
        f"evt_{ann}",
    )


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=applied", "state"),
        ("state=", "state"),
        ("limit=0", "limit"),
        ("before=", "before"),
        ("before=evt_unknown", "before"),
        ("before=" + "x" * 256, "before"),
    ],
)
async def test_lists_of_events_that_cannot_be(service: Running, query: str, field: str) -> None:
    assert wrong_fields(await ask(service, "GET", f"/stripe-events?{query}")) == [field]


async def write_notice(admin: Connection, user: str, state: str) -> str:
    """A notice in this state."""
    await admin.execute("SELECT * FROM credits.init_balance($1)", user)
    id_ = uuid7()
    await admin.execute(
        "INSERT INTO credits.notices (user_id, id, kind, state, data, last_error, attempts,"
        " created_at) VALUES ($1, $2, 'gift_expired', $3, '{}', 'why', 9, clock_timestamp())",
        user,
        id_,
        state,
    )
    return str(id_)


async def test_notices_are_listed_and_sent_once_more(
    service: Running, admin: Connection, ann: str
) -> None:
    failed = [await write_notice(admin, ann, "failed") for _ in range(3)]
    homeless = await write_notice(admin, ann, "undeliverable")

    pages = await ask(service, "GET", "/notices?limit=2")
    rows = pages.body
    while (link := next_page(pages)) is not None:
        pages = await ask(service, "GET", link.removeprefix("/admin"))
        rows = rows + pages.body
    for row in rows:
        require_shape(row, NOTICE)
    assert [row["id"] for row in rows] == failed[::-1]
    assert (rows[0]["userId"], rows[0]["lastError"], rows[0]["attempts"]) == (ann, "why", 9)
    listed = await ask(service, "GET", "/notices?state=undeliverable")
    assert [row["id"] for row in listed.body] == [homeless]

    unknown = await ask(service, "POST", "/notices/retry", {"ids": [failed[0], str(uuid4())]})
    require_error(unknown, 404, "not_found")
    none = await ask(service, "POST", "/notices/retry", {"ids": []})
    assert (none.status, none.body) == (200, {"retried": 0})
    one = await ask(service, "POST", "/notices/retry", {"ids": [failed[0], failed[0]]})
    assert (one.status, one.body) == (200, {"retried": 1})
    left = await ask(service, "GET", "/notices")
    assert [row["id"] for row in left.body] == failed[:0:-1]
    everything = await ask(service, "POST", "/notices/retry")
    assert everything.body == {"retried": 3}
    assert (await ask(service, "GET", "/notices?state=failed")).body == []


@pytest.mark.parametrize(
    ("query", "field"),
    [("state=delivered", "state"), ("before=x", "before"), ("limit=501", "limit")],
)
async def test_lists_of_notices_that_cannot_be(service: Running, query: str, field: str) -> None:
    assert wrong_fields(await ask(service, "GET", f"/notices?{query}")) == [field]


@pytest.mark.parametrize("ids", ["x", ["x"], [1], [str(uuid4())] * 501, {}])
async def test_retries_that_cannot_be(service: Running, ids: Any) -> None:
    assert wrong_fields(await ask(service, "POST", "/notices/retry", {"ids": ids})) == ["ids"]


# Who may


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/users?query=ann"),
        ("GET", "/users/ann"),
        ("POST", "/users/ann/grant"),
        ("POST", "/users/ann/refund"),
        ("GET", "/overview"),
        ("POST", "/stripe-events/evt_1/replay"),
        ("POST", "/notices/retry"),
    ],
)
async def test_all_of_this_is_for_administrators(service: Running, method: str, path: str) -> None:
    body = {"amount": 1, "reason": "x", "transactionId": str(uuid4())}
    sent = body if method == "POST" else None
    for role in (None, "user", "Admin", ["admin"], True):
        require_error(await ask(service, method, path, sent, role=role), 403, "forbidden")
    require_error(await service.call(method, f"/admin{path}", json=sent), 401, "unauthorized")
    internal = await service.call(method, f"/admin{path}", json=sent, internal=True)
    require_error(internal, 401, "unauthorized")
