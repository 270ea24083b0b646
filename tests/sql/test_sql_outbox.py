"""The outbox: what is claimed, leased and settled, and the notices of charges to come."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from tests.support.calls import call, charge, debit, grant, last_run, refusal, rows, subscribe, utc
from tests.support.databases import Clone, Connection, connect

CLAIM = "credits.claim_notices"
SETTLE = "credits.settle_notice"


async def write(admin: Connection, *users: str) -> None:
    """A notice each, the first user's first."""
    for place, user in enumerate(users):
        await admin.execute("SELECT * FROM credits.init_balance($1)", user)
        await admin.execute(
            """
            SELECT credits._write_notice(
                $1, 'sync_paused', '{"price": 30}', clock_timestamp() - make_interval(mins => $2)
            )
            """,
            user,
            60 - place,
        )


async def claimed(connection: Connection, **more: Any) -> list[str]:
    """Claim notices, and whose they are."""
    return sorted(notice["user_id"] for notice in await rows(connection, CLAIM, **more))


async def notice(admin: Connection) -> asyncpg.Record:
    """The one notice that there is."""
    found = await admin.fetch("SELECT * FROM credits.notices")
    assert len(found) == 1
    return found[0]


async def now(admin: Connection) -> datetime:
    """The server's clock."""
    at: datetime = await admin.fetchval("SELECT clock_timestamp()")
    return at


async def test_a_claim_hands_out_what_is_to_be_sent(
    admin: Connection, service_login: Connection
) -> None:
    await write(admin, "ann")
    await admin.execute("SELECT credits._remember_address('ann', 'ann@example.org', now())")
    given = await call(service_login, CLAIM)
    row = await notice(admin)
    assert dict(given) == {
        "id": row["id"],
        "user_id": "ann",
        "kind": "sync_paused",
        "data": {"price": 30},
        "recipient": "ann@example.org",
        "attempts": 1,
        "created_at": row["created_at"],
    }
    assert (row["attempts"], row["recipient"], row["state"]) == (1, "ann@example.org", "pending")


async def test_without_an_address_there_is_no_recipient(
    admin: Connection, service_login: Connection
) -> None:
    await write(admin, "ann")
    assert (await call(service_login, CLAIM))["recipient"] is None


async def test_a_claim_takes_the_longest_waiting_first_up_to_its_limit(
    admin: Connection, service_login: Connection
) -> None:
    await write(admin, "zoe", "yan", "ann")
    assert await claimed(service_login, limit=2) == ["yan", "zoe"]
    assert await claimed(service_login, limit=2) == ["ann"]
    assert await claimed(service_login) == []


async def test_a_lease_keeps_others_away_until_it_ends(
    admin: Connection, service_login: Connection
) -> None:
    await write(admin, "ann")
    before = await now(admin)
    assert await claimed(service_login, lease_seconds=120) == ["ann"]
    ends = (await notice(admin))["next_attempt_at"]
    assert before <= ends - timedelta(seconds=120) <= await now(admin)
    assert await claimed(service_login) == []
    # A sender that died loses nothing: another has it after the lease.
    await admin.execute("UPDATE credits.notices SET next_attempt_at = clock_timestamp()")
    assert (await call(service_login, CLAIM))["attempts"] == 2


async def test_two_claimers_at_once_pass_each_other_over(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    await write(admin, "ann", "bob", "cat")
    other = await connect(database.service_url)
    try:
        async with service_login.transaction():
            assert await claimed(service_login, limit=2) == ["ann", "bob"]
            assert await claimed(other) == ["cat"]
        assert await claimed(other) == []
    finally:
        await other.close()


async def test_an_end_is_final(admin: Connection, service_login: Connection) -> None:
    for state in ("delivered", "undeliverable", "failed"):
        await admin.execute("DELETE FROM credits.notices")
        await write(admin, "ann")
        given = await call(service_login, CLAIM, lease_seconds=0)
        settled = {"user_id": "ann", "id": given["id"]}
        error = None if state == "delivered" else "x" * 1001
        first = await call(service_login, SETTLE, state=state, error=error, **settled)
        row = await notice(admin)
        assert (first["settle_notice"], row["state"], row["next_attempt_at"]) == (True, state, None)
        assert (row["delivered_at"] is not None) is (state == "delivered")
        assert row["last_error"] == (None if error is None else error[:1000])
        assert await claimed(service_login) == []
        # A sender that comes back late changes nothing any more.
        for late in ("delivered", "failed", "pending"):
            again = await call(
                service_login, SETTLE, state=late, error="late", retry_in_seconds=0, **settled
            )
            assert again["settle_notice"] is False
        assert await notice(admin) == row


async def test_what_could_not_be_sent_is_tried_again_later(
    admin: Connection, service_login: Connection
) -> None:
    await write(admin, "ann")
    given = await call(service_login, CLAIM)
    settled = {"user_id": "ann", "id": given["id"], "state": "pending", "error": "503"}
    refused = await refusal(service_login, SETTLE, **settled)
    assert (refused.sqlstate, refused.field) == ("MC001", "retryInSeconds")
    before = await now(admin)
    await call(service_login, SETTLE, retry_in_seconds=3600.0, **settled)
    assert await claimed(service_login) == []
    row = await notice(admin)
    assert before <= row["next_attempt_at"] - timedelta(hours=1) <= await now(admin)
    assert (row["last_error"], row["attempts"]) == ("503", 1)
    await call(service_login, SETTLE, retry_in_seconds=0.0, **settled)
    assert (await call(service_login, CLAIM))["attempts"] == 2


async def test_what_was_not_tried_does_not_count(
    admin: Connection, service_login: Connection
) -> None:
    await write(admin, "ann")
    for _ in range(2):
        given = await call(service_login, CLAIM)
        assert given["attempts"] == 1
        await call(
            service_login,
            SETTLE,
            user_id="ann",
            id=given["id"],
            state="pending",
            retry_in_seconds=0.0,
        )
        assert (await notice(admin))["attempts"] == 0


async def test_a_notice_is_settled_by_its_user_and_id(
    admin: Connection, service_login: Connection
) -> None:
    await write(admin, "ann")
    given = await call(service_login, CLAIM)
    other = await call(service_login, SETTLE, user_id="bob", id=given["id"], state="delivered")
    assert other["settle_notice"] is False
    assert (await notice(admin))["state"] == "pending"


async def test_whoever_listens_is_woken_when_the_notice_is_there(
    admin: Connection, service_login: Connection
) -> None:
    woken = asyncio.Event()
    await service_login.add_listener("mana_credits_notices", lambda *_: woken.set())
    await grant(admin, "ann", 30)
    await subscribe(admin, "ann", at=utc("2024-01-31 12:00"))
    await charge(admin, utc("2024-02-29 12:00"))
    await asyncio.wait_for(woken.wait(), 60)
    assert await claimed(service_login) == ["ann"]


async def coming(admin: Connection, user: str, days: float, credits: int) -> None:
    """A subscription whose next charge comes in so many days, with so many credits left."""
    await grant(admin, user, 30 + credits)
    await admin.execute("SELECT * FROM credits.activate_sync($1)", user)
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET next_charge_at = clock_timestamp() + $2::interval"
        " WHERE user_id = $1",
        user,
        timedelta(days=days),
    )


async def announced(admin: Connection) -> list[str]:
    """Who was told of a charge, once per notice."""
    found = await admin.fetch(
        "SELECT user_id FROM credits.notices WHERE kind = 'charge_coming' ORDER BY user_id"
    )
    return [row["user_id"] for row in found]


async def test_a_charge_within_three_days_that_is_not_covered_is_announced(
    admin: Connection,
) -> None:
    await coming(admin, "ann", 2.9, 29)
    await coming(admin, "bob", 2.9, 30)
    await coming(admin, "cat", 3.1, 0)
    await coming(admin, "dan", -0.1, 0)
    await coming(admin, "eve", 1, 30)
    await call(admin, "credits.reserve_credits", user_id="eve", amount=1, reason="x")
    await coming(admin, "fay", 1, 0)
    await admin.execute("SELECT * FROM credits.gift_sync('fay')")
    await admin.execute("CALL credits.run_charge_notices()")
    assert await announced(admin) == ["ann", "eve"]
    assert (await last_run(admin, "charge-notices"))["did"] == {"announced": 2}
    row = await admin.fetchrow("SELECT * FROM credits.notices WHERE user_id = 'ann'")
    assert row is not None
    due = (await call(admin, "credits.get_sync_status", user_id="ann"))["next_charge_at"]
    assert row["data"] == {
        "interval": "monthly",
        "price": 30,
        "available": 29,
        "dueAt": due.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }


async def test_a_charge_is_announced_once(admin: Connection) -> None:
    await coming(admin, "ann", 2, 0)
    for _ in range(2):
        await admin.execute("CALL credits.run_charge_notices()")
    assert await announced(admin) == ["ann"]
    # The charge after it is another one.
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET next_charge_at = next_charge_at + interval '1 hour'"
    )
    await admin.execute("CALL credits.run_charge_notices()")
    assert await announced(admin) == ["ann", "ann"]


async def test_whoever_spends_his_credits_later_is_told_then(admin: Connection) -> None:
    await coming(admin, "ann", 2, 30)
    await admin.execute("CALL credits.run_charge_notices()")
    assert await announced(admin) == []
    await debit(admin, "ann", 1)
    await admin.execute("CALL credits.run_charge_notices()")
    assert await announced(admin) == ["ann"]


async def test_announcing_goes_on_behind_each_batch(admin: Connection) -> None:
    # Those in between are covered, so that a batch can have nobody to tell.
    for place in range(7):
        await coming(admin, f"user{place}", 1 + place / 100, 0 if place % 3 == 0 else 30)
    await admin.execute("CALL credits.run_charge_notices(2)")
    assert await announced(admin) == ["user0", "user3", "user6"]


async def test_who_was_frozen_beyond_his_lease_settles_nothing(
    admin: Connection, service_login: Connection
) -> None:
    await write(admin, "ann")
    frozen = await call(service_login, CLAIM)
    await admin.execute("UPDATE credits.notices SET next_attempt_at = clock_timestamp()")
    current = await call(service_login, CLAIM)
    assert (frozen["attempts"], current["attempts"]) == (1, 2)

    async def settled(attempt: int) -> bool:
        row = await call(
            service_login,
            SETTLE,
            user_id="ann",
            id=frozen["id"],
            state="failed",
            error="x",
            attempt=attempt,
        )
        done: bool = row["settle_notice"]
        return done

    assert await settled(1) is False
    assert (await notice(admin))["state"] == "pending"
    assert await settled(2) is True
    assert (await notice(admin))["state"] == "failed"


async def test_what_was_given_up_is_sent_again_when_a_person_says_so(
    admin: Connection, service_login: Connection
) -> None:
    await write(admin, "ann", "bob", "cat", "dan")
    for given, state in zip(
        await rows(service_login, CLAIM),
        ("failed", "undeliverable", "failed", "delivered"),
        strict=True,
    ):
        await call(
            service_login,
            SETTLE,
            user_id=given["user_id"],
            id=given["id"],
            state=state,
            error=None if state == "delivered" else "x",
        )
    problems = await admin.fetch("SELECT credits.list_problems() AS problem")
    assert "2 notices failed and wait for a person (retry_notices)" in [
        row["problem"] for row in problems
    ]
    assert await claimed(service_login) == []

    async def retried(**more: Any) -> int:
        row = await call(service_login, "credits.retry_notices", **more)
        count: int = row["retry_notices"]
        return count

    first = await admin.fetchval("SELECT id FROM credits.notices WHERE state = 'failed' LIMIT 1")
    assert await retried(ids=[first]) == 1
    assert await retried(ids=[first]) == 0
    again = await call(service_login, CLAIM)
    assert (again["id"], again["attempts"]) == (first, 1)
    assert await retried() == 2
    assert len(await claimed(service_login)) == 2
    assert await retried() == 0
