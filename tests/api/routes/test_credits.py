"""Personal credits over HTTP: balance, debits, history, usage, prices, packages."""

from datetime import timedelta
from typing import Any

import pytest

import service.wire as service_wire
from tests.support.answers import (
    BALANCE,
    MOVED,
    TRANSACTION,
    a_text,
    a_time,
    maybe,
    next_page,
    require_error,
    require_shape,
)
from tests.support.calls import reverse
from tests.support.databases import Connection
from tests.support.running import Answer, Running

PRICES = {
    "ai_chat_gpt4": (5, 1),
    "ai_chat_claude": (5, 1),
    "ai_chat_gemini": (2, 1),
    "ai_chat_qwen": (2, 1),
    "ai_chat_ollama": (1, 10),
    "ai_image_generation": (10, 1),
    "ai_image_upscale": (5, 1),
    "ai_research_quick": (5, 1),
    "ai_research_deep": (25, 1),
    "ai_food_analysis": (3, 1),
    "ai_deck_generation": (20, 1),
    "ai_card_generation": (2, 1),
    "ai_quote_explanation": (2, 1),
    "ai_plant_analysis": (2, 1),
    "ai_guide_generation": (5, 1),
    "ai_context_generation": (2, 1),
    "ai_smart_scheduling": (2, 1),
    "ai_suggestions": (2, 1),
    "ai_enrichment": (2, 1),
    "cloud_sync": (30, 1),
    "bulk_import": (1, 50),
    "pdf_export": (1, 1),
    "premium_theme": (3, 1),
}


async def use(service: Running, user: str, amount: int = 1, **body: Any) -> Answer:
    return await service.call(
        "POST",
        "/credits/use",
        user=user,
        json={"amount": amount, "appId": "app", "description": "x", **body},
    )


# Balance and debits


async def test_a_user_never_seen_has_zeros(service: Running) -> None:
    answer = await service.call("GET", "/credits/balance", user="nobody")

    assert answer.status == 200
    assert answer.body == {
        "balance": 0,
        "totalEarned": 0,
        "totalSpent": 0,
        "reserved": 0,
        "transactionsCount": 0,
    }


async def test_balance_is_earned_less_spent_less_reserved(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    await use(service, ann, 30)
    await service.call(
        "POST",
        "/internal/credits/reserve",
        internal=True,
        json={"userId": ann, "amount": 15, "reason": "research"},
    )

    answer = await service.call("GET", "/credits/balance", user=ann)

    require_shape(answer.body, BALANCE)
    assert answer.body == {
        "balance": 55,
        "totalEarned": 100,
        "totalSpent": 30,
        "reserved": 15,
        "transactionsCount": 2,
    }


async def test_a_debit_answers_its_transaction_and_the_new_balance(
    service: Running, ann: str
) -> None:
    await service.grant(ann, 10)
    metadata = {"model": "m", "nested": {"list": [1, 2.5, None, True, "ü"]}, "big": 10**30}

    answer = await use(
        service,
        ann,
        3,
        description="A picture",
        metadata=metadata,
        idempotencyKey="key-1",
        sourceAppId="ignored",
    )

    assert answer.status == 200
    require_shape(answer.body, MOVED)
    transaction = answer.body["transaction"]
    assert transaction | {"id": None, "createdAt": None, "completedAt": None} == {
        "id": None,
        "userId": ann,
        "type": "usage",
        "status": "completed",
        "amount": -3,
        "balanceBefore": 10,
        "balanceAfter": 7,
        "appId": "app",
        "description": "A picture",
        "metadata": metadata,
        "idempotencyKey": "key-1",
        "createdAt": None,
        "completedAt": None,
    }
    assert answer.body["newBalance"] == {"balance": 7, "totalEarned": 10, "totalSpent": 3}
    assert await service.balance(ann) == 7


async def test_what_a_debit_was_not_given_is_null(service: Running, ann: str) -> None:
    await service.grant(ann, 10)

    answer = await use(service, ann)

    require_shape(answer.body, MOVED)
    assert answer.body["transaction"]["metadata"] is None
    assert answer.body["transaction"]["idempotencyKey"] is None


async def test_a_debit_takes_all_that_is_there_and_not_one_more(service: Running, ann: str) -> None:
    await service.grant(ann, 12)

    refused = await use(service, ann, 13)
    taken = await use(service, ann, 12)

    require_error(refused, 402, "insufficient_credits", {"required": 13, "available": 12})
    assert taken.body["newBalance"]["balance"] == 0


async def test_a_user_never_seen_has_nothing_to_spend(service: Running) -> None:
    require_error(
        await use(service, "nobody", 30),
        402,
        "insufficient_credits",
        {"required": 30, "available": 0},
    )


async def test_what_is_available_is_never_told_as_negative(
    service: Running, admin: Connection, ann: str
) -> None:
    await service.grant(ann, 10)
    await reverse(admin, ann, 25)

    refused = await use(service, ann, 1)
    balance = await service.call("GET", "/credits/balance", user=ann)

    require_error(refused, 402, "insufficient_credits", {"required": 1, "available": 0})
    assert (balance.body["balance"], balance.body["totalSpent"]) == (-15, 50)


async def test_held_credits_are_not_spent(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    await service.call(
        "POST",
        "/internal/credits/reserve",
        internal=True,
        json={"userId": ann, "amount": 8, "reason": "research"},
    )

    require_error(
        await use(service, ann, 3), 402, "insufficient_credits", {"required": 3, "available": 2}
    )


# History


async def test_the_history_is_newest_first(service: Running, ann: str) -> None:
    await service.grant(ann, 10)
    for number in range(3):
        await use(service, ann, description=f"number {number}")

    answer = await service.call("GET", "/credits/transactions", user=ann)

    assert answer.status == 200
    for row in answer.body:
        require_shape(row, TRANSACTION)
    assert [row["description"] for row in answer.body] == [
        "number 2",
        "number 1",
        "number 0",
        "test",
    ]
    assert [row["type"] for row in answer.body] == ["usage", "usage", "usage", "grant"]
    assert [row["balanceAfter"] for row in answer.body] == [7, 8, 9, 10]
    assert next_page(answer) is None


async def test_a_long_answer_is_whole_however_it_is_written(
    service: Running, ann: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.grant(ann, 10)
    for number in range(5):
        body = {"amount": 1, "appId": "app", "description": f"Grüße 🎁 {number}" * 10}
        assert (await service.call("POST", "/credits/use", user=ann, json=body)).status == 200
    path = "/credits/transactions?limit=3"
    at_once = await service.call("GET", path, user=ann)

    monkeypatch.setattr(service_wire, "PIECE_BYTES", 11)
    in_pieces = await service.call("GET", path, user=ann)

    assert in_pieces.status == 200
    assert in_pieces.body == at_once.body
    for name in ("Content-Length", "Content-Type", "Cache-Control", "Link"):
        assert in_pieces.headers[name] == at_once.headers[name]
    headers = {"Authorization": f"Bearer {service.token(ann)}"}
    async with service.session.head(f"{service.url}/api/v1{path}", headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Length"] == at_once.headers["Content-Length"]


async def test_the_history_of_a_user_never_seen_is_empty(service: Running) -> None:
    answer = await service.call("GET", "/credits/transactions", user="nobody")

    assert (answer.status, answer.body) == (200, [])
    assert next_page(answer) is None


async def test_the_history_of_others_is_not_shown(service: Running, ann: str, bob: str) -> None:
    await service.grant(ann, 10)

    assert (await service.call("GET", "/credits/transactions", user=bob)).body == []


async def fill(admin: Connection, user: str, rows: int) -> None:
    """Write a history: row n is a grant of n credits."""
    await admin.execute(
        "SELECT FROM generate_series(1, $2) AS n"
        " CROSS JOIN LATERAL credits.grant_credits($1, n, 'test', 'filled-' || n)",
        user,
        rows,
    )


async def test_a_link_tells_that_there_is_more(service: Running, admin: Connection) -> None:
    await fill(admin, "three", 3)
    await fill(admin, "fifty", 50)
    await fill(admin, "more", 51)
    for user, query, shown, more in (
        ("fifty", "", 50, False),
        ("more", "", 50, True),
        ("three", "?limit=1", 1, True),
        ("three", "?limit=2", 2, True),
        ("three", "?limit=3", 3, False),
        ("three", "?limit=500", 3, False),
        ("three", "?limit=1&offset=1", 1, True),
        ("three", "?limit=1&offset=2", 1, False),
        ("three", "?offset=3", 0, False),
    ):
        answer = await service.call("GET", f"/credits/transactions{query}", user=user)
        found = (len(answer.body), next_page(answer) is not None)
        assert found == (shown, more), (user, query)


async def test_cursors_show_every_row_once_while_rows_are_written(
    service: Running, admin: Connection, ann: str
) -> None:
    await fill(admin, ann, 23)
    seen: list[int] = []
    page: str | None = "/credits/transactions?limit=5"
    while page is not None:
        answer = await service.call("GET", page, user=ann)
        seen += [row["amount"] for row in answer.body]
        page = next_page(answer)
        await use(service, ann)

    assert seen == list(range(23, 0, -1))


async def test_a_cursor_keeps_the_filters_and_the_size(
    service: Running, admin: Connection, ann: str
) -> None:
    await service.grant(ann, 100)
    for number in range(7):
        await use(service, ann, appId="one" if number % 2 else "two", description=str(number))
    seen: list[str] = []
    pages = 0
    page: str | None = "/credits/transactions?limit=2&offset=1&type=usage&appId=two"
    while page is not None:
        answer = await service.call("GET", page, user=ann)
        seen += [row["description"] for row in answer.body]
        page = next_page(answer)
        pages += 1

    assert seen == ["4", "2", "0"]
    assert pages == 2


async def test_offsets_skip_the_newest(service: Running, admin: Connection, ann: str) -> None:
    await fill(admin, ann, 6)

    answer = await service.call("GET", "/credits/transactions?limit=2&offset=3", user=ann)

    assert [row["amount"] for row in answer.body] == [3, 2]


async def test_filters(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    debit = (await use(service, ann, 5, appId="chat")).body["transaction"]["id"]
    refund = {"userId": ann, "amount": 2, "description": "x", "transactionId": debit}
    await service.call("POST", "/internal/credits/refund", internal=True, json=refund)
    await service.call("POST", "/gifts", user=ann, json={"totalCredits": 3})
    await use(service, ann, 7, appId="pictures")

    async def amounts(query: str) -> list[int]:
        answer = await service.call("GET", f"/credits/transactions{query}", user=ann)
        assert answer.status == 200
        return [row["amount"] for row in answer.body]

    assert await amounts("") == [-7, -3, 2, -5, 100]
    assert await amounts("?type=usage") == [-7, -5]
    assert await amounts("?type=refund") == [2]
    assert await amounts("?type=gift") == [-3]
    assert await amounts("?type=grant") == [100]
    assert await amounts("?type=purchase") == []
    assert await amounts("?type=reversal") == []
    assert await amounts("?appId=chat") == [-5]
    assert await amounts("?appId=system") == [-3, 2, 100]
    assert await amounts("?appId=pictures&type=usage") == [-7]
    assert await amounts("?appId=unknown") == []


# Usage


async def usage(service: Running, user: str, query: str = "") -> list[dict[str, Any]]:
    answer = await service.call("GET", f"/credits/usage{query}", user=user)
    assert answer.status == 200, answer.body
    rows: list[dict[str, Any]] = answer.body
    for row in rows:
        require_shape(
            row,
            {
                "date": a_text,
                "appId": a_text,
                "creditsUsed": row["creditsUsed"],
                "operations": row["operations"],
            },
        )
    return rows


async def test_usage_adds_up_debits_commits_and_charges_per_app(service: Running, ann: str) -> None:
    await service.grant(ann, 1000)
    await use(service, ann, 5, appId="chat")
    await use(service, ann, 6, appId="chat")
    held = await service.call(
        "POST",
        "/internal/credits/reserve",
        internal=True,
        json={"userId": ann, "amount": 25, "reason": "research:deep:42"},
    )
    reservation = held.body["reservationId"]
    await service.call(
        "POST",
        "/internal/credits/commit",
        internal=True,
        json={"reservationId": reservation, "amount": 20},
    )
    assert (await service.call("POST", "/sync/activate", user=ann)).status == 200
    # Neither what is given away nor what comes back is usage.
    await service.call("POST", "/gifts", user=ann, json={"totalCredits": 3})
    refund = {"userId": ann, "amount": 1, "description": "x", "appId": "chat"}
    await service.call("POST", "/internal/credits/refund", internal=True, json=refund)

    rows = await usage(service, ann)

    assert [(row["appId"], row["creditsUsed"], row["operations"]) for row in rows] == [
        ("chat", 11, 2),
        ("research", 20, 1),
        ("sync", 30, 1),
    ]
    assert await usage(service, "nobody") == []


async def test_usage_looks_back_as_many_days_as_it_is_asked(
    service: Running, admin: Connection, ann: str
) -> None:
    # A day that ends between the setting up and the asking moves every bound by one.
    now = await admin.fetchval("SELECT now()")
    move = (
        "SELECT FROM credits._record_move(ROW($4::text, NULL, $1::credits.transaction_type,"
        " 'system', $2::bigint, 'app', 'x', NULL, NULL, NULL)::credits.new_move, $3)"
    )
    await admin.execute("SELECT FROM credits._lock_balance($1)", ann)
    await admin.execute(move, "grant", 5000, now - timedelta(days=401), ann)
    days = (400, 366, 365, 31, 30, 29, 1, 0)
    for ago in days:
        await admin.execute(move, "usage", -1 - ago, now - timedelta(days=ago), ann)

    async def seen(query: str) -> list[int]:
        while True:
            before = await admin.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
            rows = await usage(service, ann, query)
            if before == await admin.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date"):
                break
        shift = (before - now.date()).days
        for row in rows:
            ago = row["creditsUsed"] - 1
            assert row["date"] == (now.date() - timedelta(days=ago)).isoformat()
        return [row["creditsUsed"] - 1 + shift for row in rows]

    assert await seen("?days=1") == [0]
    assert await seen("?days=2") == [0, 1]
    assert await seen("") == [0, 1, 29]
    assert await seen("?days=30") == [0, 1, 29]
    assert await seen("?days=366") == [0, 1, 29, 30, 31, 365]


# Prices and packages


async def test_every_price_is_told(service: Running) -> None:
    answer = await service.call("GET", "/credits/pricing")

    assert answer.status == 200
    require_shape(
        answer.body,
        {
            "operationCosts": {name: cost for name, (cost, per) in PRICES.items() if per == 1},
            "operations": lambda value: isinstance(value, list),
            "sync": {"monthly": 30, "quarterly": 90, "yearly": 360},
            "lastUpdated": a_time,
        },
    )
    assert len(answer.body["operations"]) == 23
    for operation in answer.body["operations"]:
        cost, per = PRICES[operation["operation"]]
        require_shape(
            operation,
            {
                "operation": operation["operation"],
                "name": a_text,
                "description": a_text,
                "category": a_text,
                "app": maybe(a_text),
                "cost": cost,
                "per": per,
            },
        )
    assert {operation["operation"] for operation in answer.body["operations"]} == set(PRICES)
