"""The outbox: what is claimed, leased and settled, and the notices of charges to come."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.support.calls import call, charge, debit, grant, last_run, refusal, rows, subscribe, utc
from tests.support.databases import Clone, Connection, connect
from tests.support.races import blocked

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
    async with asyncio.timeout(60):
        await woken.wait()
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
    assert (await last_run(admin, "charge-notices"))["did"] == {"announced": 2, "errors": 0}
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


async def test_one_balance_that_is_held_keeps_nobody_elses_notice(
    admin: Connection, service_login: Connection
) -> None:
    """The batch is done again one by one, and ends without the lock that is not to be had."""
    for user in ("ann", "bob", "cat"):
        await coming(admin, user, 2, 29)
    async with service_login.transaction():
        await debit(service_login, "bob", 1)
        await admin.execute("CALL credits.run_charge_notices()")
        assert (await last_run(admin, "charge-notices"))["did"] == {"announced": 2, "errors": 1}
        assert await announced(admin) == ["ann", "cat"]
    # Nothing of his is lost: the next run tells him.
    await admin.execute("CALL credits.run_charge_notices()")
    assert (await last_run(admin, "charge-notices"))["did"] == {"announced": 1, "errors": 0}
    assert await announced(admin) == ["ann", "bob", "cat"]


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


async def test_an_unknown_notice_is_not_sent_again_and_nor_are_those_named_with_it(
    admin: Connection, service_login: Connection
) -> None:
    await write(admin, "ann")
    await give_up(admin, "failed")
    known, unknown = (await notice(admin))["id"], "0192f0c1-0000-7000-8000-000000000009"
    for ids in ([known, unknown], [unknown]):
        refused = await refusal(service_login, "credits.retry_notices", ids=ids)
        assert (refused.sqlstate, refused.facts) == ("MC004", {"resource": "notice"})
    assert (await notice(admin))["state"] == "failed"
    # The same one twice is one, and none are none.
    for ids, number in (([], 0), ([known, known], 1)):
        row = await call(service_login, "credits.retry_notices", ids=ids)
        assert row["retry_notices"] == number


async def test_whoever_listens_is_woken_by_a_retry(
    admin: Connection, service_login: Connection
) -> None:
    await write(admin, "ann")
    await give_up(admin, "failed")
    woken = asyncio.Event()
    await service_login.add_listener("mana_credits_notices", lambda *_: woken.set())
    await call(admin, "credits.retry_notices")
    async with asyncio.timeout(60):
        await woken.wait()
    assert await claimed(service_login) == ["ann"]


async def test_operators_see_what_had_no_address_for_a_week(
    admin: Connection, service_login: Connection
) -> None:
    await write(admin, "ann", "bob")
    await give_up(admin, "undeliverable")
    expected = "2 notices of the last 7 days could not be sent: no address is known"
    assert [row[0] for row in await rows(service_login, "credits.list_problems")] == [expected]
    await admin.execute("UPDATE credits.notices SET created_at = created_at - interval '7 days'")
    assert await rows(service_login, "credits.list_problems") == []


async def give_up(admin: Connection, state: str) -> None:
    """Every notice was given up, undeliverable or failed."""
    await admin.execute(
        "UPDATE credits.notices SET state = $1::text::credits.notice_state,"
        " next_attempt_at = NULL, attempts = 3, last_error = 'x'",
        state,
    )


async def learn(admin: Connection, user: str = "ann") -> str:
    """A user's address becomes known; the state of his one notice then."""
    async with admin.transaction():
        await admin.execute("SELECT credits._lock_balance($1)", user)
        await admin.execute(
            "SELECT credits._remember_address($1, $1 || '@example.org', clock_timestamp())", user
        )
    state: str = (await notice(admin))["state"]
    return state


@pytest.mark.parametrize(
    ("kind", "due_in", "paused", "age", "state"),
    [
        ("gift_expired", 0, False, 6.9, "pending"),
        ("gift_expired", 0, False, 7.1, "undeliverable"),
        ("sync_paused", -1, True, 6.9, "pending"),
        ("sync_paused", -1, True, 7.1, "undeliverable"),
        # It was deactivated, or is on again: there is nothing to tell any more.
        ("sync_paused", -1, False, 1, "undeliverable"),
        ("charge_coming", 1, False, 1, "pending"),
        # The charge is over, and what it did was told.
        ("charge_coming", -1, False, 1, "undeliverable"),
    ],
)
async def test_an_address_that_is_learned_gets_what_still_holds(
    admin: Connection, kind: str, due_in: float, paused: bool, age: float, state: str
) -> None:
    await grant(admin, "ann", 30)
    await subscribe(admin, "ann", at=utc("2024-01-31 12:00"))
    if paused:
        await charge(admin, utc("2024-02-29 12:00"))
        await admin.execute("DELETE FROM credits.notices")
    at = await now(admin)
    await admin.execute(
        "SELECT credits._write_notice('ann', $1::text::credits.notice_kind,"
        " jsonb_build_object('dueAt', credits._utc_text($2)), $3)",
        kind,
        at + timedelta(days=due_in),
        at - timedelta(days=age),
    )
    await give_up(admin, "undeliverable")
    assert await learn(admin) == state
    assert (await notice(admin))["attempts"] == (0 if state == "pending" else 3)


async def test_only_a_new_address_sends_what_had_none(admin: Connection) -> None:
    await write(admin, "ann")
    await admin.execute("UPDATE credits.notices SET kind = 'gift_expired'")
    await learn(admin)
    for state in ("failed", "undeliverable"):
        await give_up(admin, state)
        assert await learn(admin) == state
    # Nor does another user's.
    await admin.execute("DELETE FROM credits.contacts")
    await admin.execute("SELECT * FROM credits.init_balance('bob')")
    assert await learn(admin, "bob") == "undeliverable"
    assert await learn(admin) == "pending"


async def test_an_activation_that_brings_an_address_sends_no_notice_of_the_pause_it_ends(
    admin: Connection,
) -> None:
    await grant(admin, "ann", 60)
    await subscribe(admin, "ann", at=utc("2024-01-31 12:00"))
    await debit(admin, "ann", 1)
    await charge(admin, utc("2024-02-29 12:00"))
    await admin.execute("UPDATE credits.notices SET created_at = clock_timestamp()")
    await give_up(admin, "undeliverable")
    await grant(admin, "ann", 30, reference="more")
    await call(admin, "credits.activate_sync", user_id="ann", email="ann@example.org")
    assert (await notice(admin))["state"] == "undeliverable"
    assert await admin.fetchval("SELECT email FROM credits.contacts") == "ann@example.org"


async def test_an_address_learned_while_a_notice_is_found_undeliverable_is_not_missed(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    await write(admin, "ann")
    await admin.execute("UPDATE credits.notices SET kind = 'gift_expired'")
    given = await call(service_login, CLAIM)
    assert given["recipient"] is None
    settling = {
        "user_id": "ann",
        "id": given["id"],
        "state": "undeliverable",
        "error": "no address is known",
        "attempt": 1,
    }
    learning = await connect(database.admin_url)
    try:
        # The address is written, and sees the notice pending; the sender waits to see it.
        transaction = learning.transaction()
        await transaction.start()
        assert await learn(learning) == "pending"
        task = asyncio.create_task(call(service_login, SETTLE, **settling))
        await blocked(admin, service_login, task)
        await transaction.commit()
        assert (await task)["settle_notice"] is True
    finally:
        await learning.close()
    row = await notice(admin)
    assert (row["state"], row["attempts"], row["last_error"]) == ("pending", 0, None)
    again = await call(service_login, CLAIM)
    assert (again["recipient"], again["attempts"]) == ("ann@example.org", 1)


async def test_a_pause_without_its_notice_does_not_happen(admin: Connection) -> None:
    await grant(admin, "ann", 30)
    await subscribe(admin, "ann", at=utc("2024-01-31 12:00"))
    await admin.execute(
        "ALTER TABLE credits.notices ADD CONSTRAINT none_of_ann CHECK (user_id <> 'ann')"
    )
    due = utc("2024-02-29 12:00")
    result = await charge(admin, due)
    assert (result["paused"], result["errors"]) == (0, 1)
    row = await admin.fetchrow("SELECT active, paused_at, retry_at FROM credits.sync_subscriptions")
    assert row is not None
    assert (row["active"], row["paused_at"]) == (True, None)
    # Once it can be told, it is paused, and told once.
    await admin.execute("ALTER TABLE credits.notices DROP CONSTRAINT none_of_ann")
    assert (await charge(admin, row["retry_at"]))["paused"] == 1
    assert (await notice(admin))["kind"] == "sync_paused"
