"""The ledger as a chain, the totals beside it, and what is listed of it."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.support.calls import (
    call,
    charge,
    debit,
    grant,
    ledger,
    make_package,
    reverse,
    rows,
    subscribe,
    utc,
)
from tests.support.databases import Clone, Connection, connect


async def move_everything(admin: Connection, service_login: Connection) -> None:
    """Ann makes a move of every kind."""
    await grant(service_login, "ann", 1000)
    taken = await debit(service_login, "ann", 50, origin="user", idempotency_key="k")
    await call(
        service_login,
        "credits.refund_credits",
        user_id="ann",
        amount=20,
        description="x",
        transaction_id=taken["id"],
    )
    for amount in (10, None):
        held = await call(
            service_login, "credits.reserve_credits", user_id="ann", amount=40, reason="research"
        )
        await call(
            service_login,
            "credits.commit_reservation",
            reservation_id=held["reservation_id"],
            amount=amount,
        )
    for _ in range(2):
        gift = await call(service_login, "gifts.create_gift", user_id="ann", credits=5)
    await call(service_login, "gifts.cancel_gift", user_id="ann", gift_id=gift["id"])
    await subscribe(admin, "ann", at=utc("2024-01-01 00:00"))
    purchase = await call(
        service_login,
        "credits.start_purchase",
        user_id="ann",
        package_id=await make_package(admin, 500, 450),
    )
    await call(
        service_login,
        "credits.follow_payment",
        user_id="ann",
        purchase_id=purchase["id"],
        stripe_payment_intent_id="pi_1",
        stripe_status="succeeded",
        received_euro_cents=450,
        currency="eur",
    )
    await reverse(admin, "ann", 2000)


async def test_the_ledger_is_a_gapless_chain_through_every_kind_of_move(
    admin: Connection, service_login: Connection
) -> None:
    await move_everything(admin, service_login)
    moves = await ledger(admin, "ann")
    assert [(move["seq"], move["type"], move["amount"]) for move in moves] == [
        (1, "grant", 1000),
        (2, "usage", -50),
        (3, "refund", 20),
        (4, "usage", -10),
        (5, "usage", -40),
        (6, "gift", -5),
        (7, "gift", -5),
        (8, "gift", 5),
        (9, "usage", -30),
        (10, "purchase", 500),
        (11, "purchase", 2000),
        (12, "usage", -2000),
        # The active gift is cancelled before the balance goes below zero.
        (13, "gift", 5),
        (14, "reversal", -2000),
    ]
    balance = 0
    for move in moves:
        assert move["balance_before"] == balance
        balance += move["amount"]
        assert move["balance_after"] == balance


async def test_the_balance_adds_the_ledger_up(admin: Connection, service_login: Connection) -> None:
    await move_everything(admin, service_login)
    await call(service_login, "credits.grant_credits", **bonus(700))
    await call(
        service_login, "credits.reserve_credits", user_id="ann", amount=90, reason="research"
    )
    balance = await call(service_login, "credits.get_balance", user_id="ann")
    assert (balance["total_earned"], balance["total_spent"]) == (4230, 4140)
    assert (balance["available"], balance["reserved"]) == (0, 90)
    assert balance["transactions_count"] == 15


def bonus(amount: int) -> dict[str, object]:
    """A grant that comes late."""
    return {"user_id": "ann", "amount": amount, "reason": "bonus", "reference_id": "bonus"}


@pytest.mark.parametrize(
    ("zone", "hour"),
    # At these hours it is another day there than in UTC.
    [("Pacific/Auckland", 13), ("Pacific/Honolulu", 1)],
)
async def test_usage_is_counted_by_the_day_in_utc(
    admin: Connection, database: Clone, zone: str, hour: int
) -> None:
    await grant(admin, "ann", 1000)
    session = await connect(database.admin_url, timezone=zone)
    try:
        # One at a time, as debits are written, and many at once, as charges are.
        await subscribe(session, "ann", at=datetime(2024, 5, 1, hour, 30, tzinfo=UTC))
        await charge(session, datetime(2024, 6, 1, hour, 30, tzinfo=UTC))
    finally:
        await session.close()
    found = await admin.fetch("SELECT * FROM credits.usage_stats ORDER BY day")
    assert [tuple(row) for row in found] == [
        ("ann", date(2024, 5, 1), "sync", 30, 1),
        ("ann", date(2024, 6, 1), "sync", 30, 1),
    ]


async def test_usage_adds_up_by_app_and_leaves_out_what_is_no_usage(
    admin: Connection, service_login: Connection
) -> None:
    await move_everything(admin, service_login)
    await call(service_login, "credits.grant_credits", **bonus(2000))
    await debit(service_login, "ann", 7)
    found = await admin.fetch(
        "SELECT app_id, sum(credits_used), sum(operations) FROM credits.usage_stats"
        " GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in found] == [
        ("app", 2057, 3),
        ("research", 50, 2),
        ("sync", 30, 1),
    ]


async def test_usage_is_listed_for_so_many_days_today_included(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 1000)
    await admin.execute(
        """
        SELECT m.seq FROM generate_series(0, 40) AS days
        CROSS JOIN LATERAL credits._record_move(
            ROW('ann', NULL, 'usage', 'service', -1, 'app', 'x', NULL, NULL, NULL)
                ::credits.new_move,
            clock_timestamp() - make_interval(days => days)
        ) AS m
        """
    )
    for days in (1, 2, 30):
        found = await service_login.fetch(
            """
            SELECT u.day, (clock_timestamp() AT TIME ZONE 'UTC')::date AS today
            FROM credits.list_usage('ann', $1) AS u
            """,
            days,
        )
        today = found[0]["today"]
        assert [row["day"] for row in found] == [today - timedelta(days=n) for n in range(days)]


async def test_the_history_is_paged_by_its_cursor(
    admin: Connection, service_login: Connection
) -> None:
    await move_everything(admin, service_login)
    listing = "credits.list_transactions"
    pages, before = [], None
    while page := await rows(service_login, listing, user_id="ann", limit=4, before_seq=before):
        pages.append([move["seq"] for move in page])
        before = page[-1]["seq"]
        # What comes in meanwhile moves no page.
        await grant(service_login, "ann", 1, f"later {before}")
    assert pages == [[14, 13, 12, 11], [10, 9, 8, 7], [6, 5, 4, 3], [2, 1]]


async def test_the_history_is_filtered_by_type_and_app(
    admin: Connection, service_login: Connection
) -> None:
    await move_everything(admin, service_login)
    await grant(service_login, "bob", 5)
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [*range(14, 0, -1)]),
        ({"type": "usage"}, [12, 9, 5, 4, 2]),
        ({"app_id": "research"}, [5, 4]),
        ({"type": "usage", "app_id": "app"}, [12, 2]),
        ({"type": "gift", "offset": 1}, [8, 7, 6]),
        ({"type": "usage", "before_seq": 5}, [4, 2]),
        ({"app_id": "nothing"}, []),
    ]
    for filters, expected in cases:
        found = await rows(service_login, "credits.list_transactions", user_id="ann", **filters)
        assert [move["seq"] for move in found] == expected, filters


async def test_init_makes_a_user_once_and_changes_nothing_later(
    service_login: Connection,
) -> None:
    first = await call(service_login, "credits.init_balance", user_id="ann")
    assert (first["available"], first["version"], first["transactions_count"]) == (0, 0, 0)
    assert await call(service_login, "credits.init_balance", user_id="ann") == first
    await grant(service_login, "ann", 5)
    known = await call(service_login, "credits.get_balance", user_id="ann")
    assert await call(service_login, "credits.init_balance", user_id="ann") == known
    assert (known["created_at"], known["version"]) == (first["created_at"], 1)
