"""The dates of Cloud Sync's charges: month ends, late runs, other intervals, other time zones."""

import itertools
from datetime import datetime

import pytest

from tests.support.calls import charge, grant, ledger, subscribe, subscription, utc
from tests.support.databases import Clone, Connection, connect

MONTHLY = [
    "2023-02-28",
    "2023-03-31",
    "2023-04-30",
    "2023-05-31",
    "2023-06-30",
    "2023-07-31",
    "2023-08-31",
    "2023-09-30",
    "2023-10-31",
    "2023-11-30",
    "2023-12-31",
    "2024-01-31",
    "2024-02-29",
    "2024-03-31",
]
QUARTERLY = ["2023-02-28", "2023-05-30", "2023-08-30", "2023-11-30", "2024-02-29", "2024-05-30"]
YEARLY = ["2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29", "2029-02-28"]


# At the first time it is the next day in Berlin and Auckland, at the second in Auckland alone.
TIMES = ["23:30", "12:00"]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Pacific/Auckland"])
async def test_month_ends_are_counted_from_the_anchors_day_in_utc(
    database: Clone, zone: str
) -> None:
    session = await connect(database.admin_url, timezone=zone)
    try:
        schedules = [
            ("monthly", "2023-01-31", MONTHLY),
            ("quarterly", "2022-11-30", QUARTERLY),
            ("yearly", "2024-02-29", YEARLY),
        ]
        for (interval, anchor, expected), time in itertools.product(schedules, TIMES):
            user = f"{interval}-{time}"
            await grant(session, user, 5000)
            await subscribe(session, user, interval, at=utc(f"{anchor} {time}"))
            dates = []
            for _ in expected:
                due = (await subscription(session, user))["next_charge_at"]
                dates.append(due)
                result = await charge(session, due)
                assert (result["charged"], result["errors"]) == (1, 0)
                # Nobody else's is due yet, and his is not due again.
                assert (await charge(session, due))["charged"] == 0
            assert dates == [utc(f"{date} {time}") for date in expected]
            await check_charges(session, user, anchor, expected, time)
            await session.execute("SELECT * FROM credits.deactivate_sync($1)", user)
    finally:
        await session.close()


async def check_charges(
    session: Connection, user: str, anchor: str, expected: list[str], time: str
) -> None:
    """Every charge names the period it paid for, each beginning where the one before ended."""
    charges = [row["metadata"] for row in await ledger(session, user) if row["type"] == "usage"]
    starts = [f"{date}T{time}:00.000000Z" for date in [anchor, *expected]]
    assert [facts["dueAt"] for facts in charges] == starts
    assert [facts["paidUntil"] for facts in charges[:-1]] == starts[1:]
    assert {facts["periodsSkipped"] for facts in charges} == {0}


LATE = [
    # The anchor is 31 January; the charge was due at the end of its first period.
    ("monthly", "2023-02-28 12:00", "2023-03-31", 0),
    ("monthly", "2023-03-31 11:59", "2023-03-31", 0),
    ("monthly", "2023-03-31 12:00", "2023-04-30", 1),
    ("monthly", "2023-05-15 00:00", "2023-05-31", 2),
    ("monthly", "2023-05-31 11:59", "2023-05-31", 2),
    ("monthly", "2024-02-29 12:00", "2024-03-31", 12),
    ("monthly", "2024-03-01 00:00", "2024-03-31", 12),
    ("quarterly", "2023-07-31 11:59", "2023-07-31", 0),
    ("quarterly", "2023-07-31 12:00", "2023-10-31", 1),
    ("quarterly", "2024-01-30 00:00", "2024-01-31", 2),
    ("yearly", "2024-01-31 12:00", "2025-01-31", 0),
    ("yearly", "2033-01-30 00:00", "2033-01-31", 8),
]


async def test_a_late_run_charges_once_and_writes_down_what_it_skipped(admin: Connection) -> None:
    for place, (interval, at, next_at, skipped) in enumerate(LATE):
        user = f"user{place}"
        await grant(admin, user, 1000)
        await subscribe(admin, user, interval, at=utc("2023-01-31 12:00"))
        due = (await subscription(admin, user))["next_charge_at"]
        assert [(await charge(admin, utc(at)))["charged"] for _ in range(2)] == [1, 0]
        row = await subscription(admin, user)
        assert row["next_charge_at"] == row["paid_until"] == utc(f"{next_at} 12:00"), (interval, at)
        charges = [row for row in await ledger(admin, user) if row["type"] == "usage"]
        assert len(charges) == 2
        assert charges[-1]["metadata"] == {
            "interval": interval,
            "dueAt": due.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "paidUntil": f"{next_at}T12:00:00.000000Z",
            "periodsSkipped": skipped,
        }
        # His next one is not the next case's.
        await admin.execute("SELECT * FROM credits.deactivate_sync($1)", user)


async def test_after_a_late_run_the_dates_are_the_anchors_again(admin: Connection) -> None:
    await grant(admin, "ann", 1000)
    await subscribe(admin, "ann", at=utc("2023-01-31 12:00"))
    dates: list[datetime] = []
    for at in ("2023-04-10 00:00", "2023-05-02 03:00", "2023-05-31 12:00", "2023-06-30 12:00"):
        assert (await charge(admin, utc(at)))["charged"] == 1
        dates.append((await subscription(admin, "ann"))["next_charge_at"])
    assert [f"{date:%m-%d}" for date in dates] == ["04-30", "05-31", "06-30", "07-31"]


async def test_the_price_of_the_activation_is_kept(admin: Connection) -> None:
    await grant(admin, "ann", 1000)
    await subscribe(admin, "ann", at=utc("2023-01-31 12:00"))
    await admin.execute("UPDATE credits.sync_prices SET price = price + 10")
    await charge(admin, utc("2023-02-28 12:00"))
    assert (await ledger(admin, "ann"))[-1]["amount"] == -30
    # Another interval is another price, and that is kept in its turn.
    await admin.execute("SELECT * FROM credits.change_sync_interval('ann', 'quarterly')")
    await admin.execute("UPDATE credits.sync_prices SET price = price + 10")
    await charge(admin, utc("2023-03-31 12:00"))
    assert (await ledger(admin, "ann"))[-1]["amount"] == -100


async def test_a_changed_interval_counts_from_the_next_charge_and_keeps_the_anchors_day(
    admin: Connection,
) -> None:
    await grant(admin, "ann", 2000)
    await subscribe(admin, "ann", at=utc("2023-01-31 12:00"))
    steps = [
        ("quarterly", "2023-02-28", "2023-05-31", -90),
        ("monthly", "2023-05-31", "2023-06-30", -30),
        ("yearly", "2023-06-30", "2024-06-30", -360),
        ("monthly", "2024-06-30", "2024-07-31", -30),
    ]
    for interval, due, next_at, amount in steps:
        await admin.execute("SELECT * FROM credits.change_sync_interval('ann', $1)", interval)
        assert (await subscription(admin, "ann"))["next_charge_at"] == utc(f"{due} 12:00")
        await charge(admin, utc(f"{due} 12:00"))
        assert (await ledger(admin, "ann"))[-1]["amount"] == amount
        assert (await subscription(admin, "ann"))["next_charge_at"] == utc(f"{next_at} 12:00")
