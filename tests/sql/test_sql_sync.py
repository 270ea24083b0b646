"""Cloud Sync switched on and off: activate, deactivate, another interval, gifts of it."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.support.calls import (
    amounts,
    available,
    call,
    charge,
    grant,
    ledger,
    refusal,
    subscribe,
    subscription,
    utc,
)
from tests.support.databases import Connection

ACTIVATE = "credits.activate_sync"
DEACTIVATE = "credits.deactivate_sync"
CHANGE = "credits.change_sync_interval"
GIFT = "credits.gift_sync"
REVOKE = "credits.revoke_sync_gift"
STATUS = "credits.get_sync_status"


async def paused(admin: Connection) -> None:
    """Ann's Cloud Sync is paused since her credits ran out."""
    await grant(admin, "ann", 30)
    await subscribe(admin, "ann", at=utc("2024-01-31 12:00"))
    result = await charge(admin, utc("2024-02-29 12:00"))
    assert (result["charged"], result["paused"], result["errors"]) == (0, 1, 0)


async def test_activating_charges_a_period_at_once(
    admin: Connection, service_login: Connection
) -> None:
    for user, interval, price, months in [
        ("ann", "monthly", 30, 1),
        ("bob", "quarterly", 90, 3),
        ("cat", "yearly", 360, 12),
    ]:
        await grant(service_login, user, 400)
        done = await call(service_login, ACTIVATE, user_id=user, interval=interval)
        assert (done["amount_charged"], done["available"]) == (price, 400 - price)
        row = (await ledger(admin, user))[-1]
        assert (row["type"], row["amount"], row["app_id"], row["origin"]) == (
            "usage",
            -price,
            "sync",
            "system",
        )
        ends = await admin.fetchval(
            "SELECT credits._utc_add($1, make_interval(months => $2))", row["created_at"], months
        )
        assert done["paid_until"] == done["next_charge_at"] == ends
        status = await call(service_login, STATUS, user_id=user)
        assert dict(status) == {
            "user_id": user,
            "active": True,
            "billing_interval": interval,
            "price": price,
            "next_charge_at": ends,
            "paid_until": ends,
            "paused_at": None,
            "gifted": False,
        }


async def test_activating_needs_the_credits_and_leaves_nothing_behind(
    admin: Connection, service_login: Connection
) -> None:
    for user, held in [("ann", 29), ("bob", None)]:
        if held:
            await grant(service_login, user, held)
        refused = await refusal(service_login, ACTIVATE, user_id=user, email="a@example.org")
        assert (refused.sqlstate, refused.facts) == (
            "MC002",
            {"required": 30, "available": held or 0},
        )
    assert await admin.fetchval("SELECT count(*) FROM credits.sync_subscriptions") == 0
    assert await admin.fetchval("SELECT count(*) FROM credits.contacts") == 0


async def test_held_credits_do_not_pay_for_sync(service_login: Connection) -> None:
    await grant(service_login, "ann", 35)
    await call(service_login, "credits.reserve_credits", user_id="ann", amount=6, reason="x")
    refused = await refusal(service_login, ACTIVATE, user_id="ann")
    assert refused.facts == {"required": 30, "available": 29}


async def test_activating_twice_is_refused_and_charges_once(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 400)
    await call(service_login, ACTIVATE, user_id="ann")
    for interval in ("monthly", "yearly"):
        refused = await refusal(service_login, ACTIVATE, user_id="ann", interval=interval)
        assert refused.sqlstate == "MC008"
    assert await amounts(admin, "ann") == [("grant", 400), ("usage", -30)]


async def test_inside_a_paid_period_activating_charges_nothing_and_keeps_the_anchor(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 400)
    first = await call(service_login, ACTIVATE, user_id="ann")
    before = await subscription(admin, "ann")
    await call(service_login, DEACTIVATE, user_id="ann")
    again = await call(service_login, ACTIVATE, user_id="ann")
    assert dict(again) == {**dict(first), "amount_charged": 0}
    after = await subscription(admin, "ann")
    for column in ("anchor_at", "next_charge_month", "next_charge_at", "paid_until", "periods"):
        assert after[column] == before[column]


async def test_inside_a_paid_period_another_interval_holds_from_the_next_charge(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 400)
    await subscribe(admin, "ann", at=utc("2024-01-31 12:00"))
    await call(service_login, DEACTIVATE, user_id="ann")
    # Three weeks later, in the period that January paid for.
    again = await subscribe(admin, "ann", "quarterly", at=utc("2024-02-20 12:00"))
    assert (again["billing_interval"], again["amount_charged"]) == ("quarterly", 0)
    assert again["next_charge_at"] == again["paid_until"] == utc("2024-02-29 12:00")
    await charge(admin, utc("2024-02-29 12:00"))
    assert (await ledger(admin, "ann"))[-1]["amount"] == -90
    # The anchor's day, three months on.
    assert (await subscription(admin, "ann"))["next_charge_at"] == utc("2024-05-31 12:00")


async def test_behind_a_paid_period_activating_charges_and_starts_an_anchor(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 400)
    await subscribe(admin, "ann", at=utc("2024-01-31 12:00"))
    await call(service_login, DEACTIVATE, user_id="ann")
    # The moment at which the period ends is behind it.
    again = await subscribe(admin, "ann", at=utc("2024-02-29 12:00"))
    assert again["amount_charged"] == 30
    row = await subscription(admin, "ann")
    assert (row["anchor_at"], row["next_charge_at"]) == (
        utc("2024-02-29 12:00"),
        utc("2024-03-29 12:00"),
    )


async def test_activating_takes_the_price_of_today(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 400)
    await call(service_login, ACTIVATE, user_id="ann")
    await admin.execute(
        "UPDATE credits.sync_prices SET price = 40 WHERE billing_interval = 'monthly'"
    )
    assert (await call(service_login, STATUS, user_id="ann"))["price"] == 30
    assert (await call(service_login, STATUS, user_id="bob"))["price"] == 40
    await call(service_login, DEACTIVATE, user_id="ann")
    await call(service_login, ACTIVATE, user_id="ann")
    assert (await call(service_login, STATUS, user_id="ann"))["price"] == 40


async def test_deactivating_stops_at_once_and_refunds_nothing(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 400)
    done = await call(service_login, ACTIVATE, user_id="ann")
    status = await call(service_login, DEACTIVATE, user_id="ann")
    assert (status["active"], status["next_charge_at"]) == (False, None)
    assert status["paid_until"] == done["paid_until"]
    assert await amounts(admin, "ann") == [("grant", 400), ("usage", -30)]
    assert (await charge(admin, done["paid_until"] + timedelta(days=1)))["charged"] == 0


async def test_a_pause_and_its_notice_are_one_transaction(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30 + 29)
    await subscribe(admin, "ann", at=utc("2024-01-31 12:00"))
    await admin.execute(
        """
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'no notices today'; END $$
        """
    )
    await admin.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON credits.notices"
        " FOR EACH ROW EXECUTE FUNCTION public.refuse()"
    )
    due = utc("2024-02-29 12:00")
    assert (await charge(admin, due))["errors"] == 1
    row = await subscription(admin, "ann")
    assert (row["active"], row["paused_at"], row["failures"]) == (True, None, 1)

    await admin.execute("DROP TRIGGER refuse ON credits.notices")
    retried = await charge(admin, row["retry_at"])
    assert (retried["paused"], retried["errors"]) == (1, 0)
    row = await subscription(admin, "ann")
    assert (row["active"], row["paused_at"], row["failures"], row["retry_at"]) == (
        False,
        utc("2024-02-29 12:10"),
        0,
        None,
    )
    notices = await admin.fetch("SELECT user_id, kind, state, data FROM credits.notices")
    assert [tuple(notice) for notice in notices] == [
        (
            "ann",
            "sync_paused",
            "pending",
            {
                "interval": "monthly",
                "price": 30,
                "available": 29,
                "dueAt": "2024-02-29T12:00:00.000000Z",
            },
        )
    ]


async def test_a_paused_subscription_is_not_due_again(admin: Connection) -> None:
    await paused(admin)
    await grant(admin, "ann", 100, "later")
    assert dict(await charge(admin, utc("2024-06-01 12:00"))) == {
        "charged": 0,
        "paused": 0,
        "errors": 0,
        "more": False,
    }
    assert await admin.fetchval("SELECT count(*) FROM credits.notices") == 1


async def test_a_paused_status_tells_since_when(
    admin: Connection, service_login: Connection
) -> None:
    await paused(admin)
    status = await call(service_login, STATUS, user_id="ann")
    assert (status["active"], status["paused_at"], status["next_charge_at"]) == (
        False,
        utc("2024-02-29 12:00"),
        None,
    )


async def test_deactivating_clears_a_pause(admin: Connection, service_login: Connection) -> None:
    await paused(admin)
    status = await call(service_login, DEACTIVATE, user_id="ann")
    assert (status["active"], status["paused_at"]) == (False, None)
    assert (await refusal(service_login, DEACTIVATE, user_id="ann")).sqlstate == "MC010"


async def test_after_a_pause_activating_charges_and_starts_an_anchor(
    admin: Connection, service_login: Connection
) -> None:
    await paused(admin)
    await grant(service_login, "ann", 30, "later")
    again = await subscribe(admin, "ann", at=utc("2024-03-15 12:00"))
    assert again["amount_charged"] == 30
    row = await subscription(admin, "ann")
    assert (row["paused_at"], row["anchor_at"], row["next_charge_at"]) == (
        None,
        utc("2024-03-15 12:00"),
        utc("2024-04-15 12:00"),
    )


async def test_another_interval_charges_nothing_now(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 400)
    done = await call(service_login, ACTIVATE, user_id="ann")
    changed = await call(service_login, CHANGE, user_id="ann", interval="yearly")
    assert dict(changed) == {
        "billing_interval": "yearly",
        "price": 360,
        "effective_at": done["next_charge_at"],
    }
    assert await available(service_login, "ann") == 370
    status = await call(service_login, STATUS, user_id="ann")
    assert (status["next_charge_at"], status["paid_until"]) == (
        done["next_charge_at"],
        done["paid_until"],
    )


async def test_a_gift_of_sync_is_on_and_never_charged(
    admin: Connection, service_login: Connection
) -> None:
    first = await call(service_login, GIFT, user_id="ann")
    assert (first["active"], first["gifted"], first["next_charge_at"]) == (True, True, None)
    assert dict(await call(service_login, GIFT, user_id="ann")) == dict(first)
    result = await charge(admin, utc("2100-01-01 00:00"))
    assert (result["charged"], result["paused"]) == (0, 0)
    assert await amounts(admin, "ann") == []


async def test_a_gift_takes_nothing_from_what_was_paid_for(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 400)
    paid = await call(service_login, ACTIVATE, user_id="ann", interval="quarterly")
    before = await subscription(admin, "ann")
    gifted = await call(service_login, GIFT, user_id="ann")
    assert (gifted["paid_until"], gifted["next_charge_at"]) == (paid["paid_until"], None)
    revoked = await call(service_login, REVOKE, user_id="ann")
    assert (revoked["active"], revoked["gifted"], revoked["paid_until"]) == (
        False,
        False,
        paid["paid_until"],
    )
    again = await call(service_login, ACTIVATE, user_id="ann", interval="quarterly")
    assert (again["amount_charged"], again["next_charge_at"]) == (0, paid["next_charge_at"])
    after = await subscription(admin, "ann")
    assert (after["anchor_at"], after["next_charge_month"]) == (
        before["anchor_at"],
        before["next_charge_month"],
    )


async def test_a_gift_clears_a_pause(admin: Connection, service_login: Connection) -> None:
    await paused(admin)
    status = await call(service_login, GIFT, user_id="ann")
    assert (status["active"], status["paused_at"]) == (True, None)


async def state(connection: Connection, admin: Connection, which: str) -> None:
    """Bring Ann's Cloud Sync into one of its states."""
    if which == "paused":
        await paused(admin)
    elif which != "never":
        await grant(connection, "ann", 400)
        await call(connection, ACTIVATE, user_id="ann")
    if which == "off":
        await call(connection, DEACTIVATE, user_id="ann")
    elif which == "gifted":
        await call(connection, GIFT, user_id="ann")


@pytest.mark.parametrize(
    ("which", "activate", "deactivate", "change", "revoke"),
    [
        ("never", "MC002", "MC010", "MC010", "MC012"),
        ("off", None, "MC010", "MC010", "MC012"),
        ("on", "MC008", None, None, "MC012"),
        ("paused", "MC002", None, "MC010", "MC012"),
        ("gifted", "MC009", "MC011", "MC011", None),
    ],
)
async def test_each_state_takes_the_calls_that_make_sense_in_it(
    admin: Connection,
    service_login: Connection,
    which: str,
    activate: str | None,
    deactivate: str | None,
    change: str | None,
    revoke: str | None,
) -> None:
    await state(service_login, admin, which)
    calls: list[tuple[str, dict[str, Any], str | None]] = [
        (ACTIVATE, {}, activate),
        (DEACTIVATE, {}, deactivate),
        (CHANGE, {"interval": "yearly"}, change),
        (REVOKE, {}, revoke),
        (GIFT, {}, None),
    ]
    for function, arguments, expected in calls:
        attempt = service_login.transaction()
        await attempt.start()
        if expected:
            refused = await refusal(service_login, function, user_id="ann", **arguments)
            assert refused.sqlstate == expected, function
        else:
            await call(service_login, function, user_id="ann", **arguments)
        # Each call is tried in the same state.
        await attempt.rollback()


@pytest.mark.parametrize("paid", [True, False])
async def test_a_repeated_activation_answers_the_first_one(
    admin: Connection, service_login: Connection, paid: bool
) -> None:
    await grant(service_login, "ann", 400)
    if paid:
        await call(service_login, ACTIVATE, user_id="ann")
        await call(service_login, DEACTIVATE, user_id="ann")
    asked = {"user_id": "ann", "interval": "quarterly", "id": uuid4()}
    first = await call(service_login, ACTIVATE, **asked)
    assert first["amount_charged"] == (0 if paid else 90)
    before = [await subscription(admin, "ann"), *await ledger(admin, "ann")]
    assert dict(await call(service_login, ACTIVATE, **asked)) == dict(first)
    assert [await subscription(admin, "ann"), *await ledger(admin, "ann")] == before


async def test_repeated_ends_answer_the_first_one(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 400)
    await call(service_login, ACTIVATE, user_id="ann")
    for prepare, function in [(None, DEACTIVATE), (GIFT, REVOKE)]:
        if prepare:
            await call(service_login, prepare, user_id="ann")
        asked = {"user_id": "ann", "id": uuid4()}
        first = await call(service_login, function, **asked)
        before = await subscription(admin, "ann")
        assert dict(await call(service_login, function, **asked)) == dict(first)
        assert await subscription(admin, "ann") == before


async def test_activating_keeps_the_users_address(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 400)
    await call(service_login, ACTIVATE, user_id="ann", email="ann@example.org")
    assert await admin.fetchval("SELECT email FROM credits.contacts") == "ann@example.org"


async def test_a_subscription_cannot_be_in_two_states(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 400)
    await call(service_login, ACTIVATE, user_id="ann")
    for change in (
        "active = false",
        "next_charge_at = NULL",
        "gifted = true",
        "paused_at = clock_timestamp()",
        "paid_until = NULL",
        "price = 0",
        "next_charge_month = 0",
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await admin.execute(f"UPDATE credits.sync_subscriptions SET {change}")
