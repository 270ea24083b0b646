"""The jobs: what they record, what they prune, and what an operator is told."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.support.calls import available, call, grant, last_run, refusal, rows
from tests.support.databases import Clone, Connection, connect

JOBS = [
    "charge-notices",
    "gift-expiry",
    "ledger-check",
    "pruning",
    "recurring-charge",
    "reservation-expiry",
]
PROCEDURES = {
    "charge-notices": "run_charge_notices",
    "gift-expiry": "run_gift_expiry",
    "ledger-check": "run_ledger_check",
    "pruning": "run_pruning",
    "recurring-charge": "run_recurring_charge",
    "reservation-expiry": "run_reservation_expiry",
}


async def problems(connection: Connection) -> list[str]:
    """What an operator should look at."""
    return [row["list_problems"] for row in await rows(connection, "credits.list_problems")]


async def test_the_owner_runs_every_job_and_each_run_is_recorded(
    admin: Connection, database: Clone
) -> None:
    owner = await connect(database.admin_url, role="mana_credits_owner")
    try:
        for procedure in PROCEDURES.values():
            await owner.execute(f"CALL credits.{procedure}()")
    finally:
        await owner.close()
    runs = await admin.fetch("SELECT * FROM credits.job_runs ORDER BY job")
    assert [(run["job"], run["did"], run["error"]) for run in runs] == [
        ("charge-notices", {"announced": 0, "errors": 0}, None),
        ("gift-expiry", {"expired": 0, "errors": 0}, None),
        ("ledger-check", {"violations": 0, "first": []}, None),
        ("pruning", {"payloads": 0, "rateLimits": 0, "jobRuns": 0}, None),
        ("recurring-charge", {"charged": 0, "paused": 0, "errors": 0}, None),
        ("reservation-expiry", {"expired": 0, "errors": 0}, None),
    ]
    assert all(run["started_at"] <= run["ended_at"] for run in runs)


async def test_the_jobs_that_are_expected_are_those_that_there_are(admin: Connection) -> None:
    expected = await admin.fetch("SELECT job FROM credits.jobs ORDER BY job")
    assert [row["job"] for row in expected] == JOBS
    procedures = await admin.fetch(
        "SELECT proname FROM pg_proc WHERE prokind = 'p' AND pronamespace = 'credits'::regnamespace"
    )
    assert {row["proname"] for row in procedures} == set(PROCEDURES.values())


async def test_a_job_that_fails_records_its_error_and_ends(admin: Connection) -> None:
    needed = {
        "recurring-charge": "credits.charge_due_subscriptions",
        "gift-expiry": "gifts.expire_gifts",
        "reservation-expiry": "credits.expire_reservations",
        "charge-notices": "credits.announce_charges",
        "ledger-check": "credits.check_ledger",
        "pruning": "credits.prune_stripe_payloads",
    }
    assert sorted(needed) == JOBS
    for job, function in needed.items():
        schema, _, name = function.partition(".")
        await admin.execute(f"ALTER FUNCTION {function} RENAME TO gone")
        await admin.execute(f"CALL credits.{PROCEDURES[job]}()")
        run = await last_run(admin, job)
        assert run["error"].startswith("42883 ")
        assert run["ended_at"] is not None
        assert await problems(admin) == [f"job {job} failed: {run['error']}"]
        await admin.execute(f"ALTER FUNCTION {schema}.gone RENAME TO {name}")
        await admin.execute(f"CALL credits.{PROCEDURES[job]}()")
        assert await problems(admin) == []


async def test_a_run_of_no_known_job_is_refused(service_login: Connection) -> None:
    refused = await refusal(service_login, "credits.begin_job_run", job="tea")
    assert (refused.sqlstate, refused.facts) == ("MC004", {"resource": "job"})


async def test_reservations_that_cannot_go_back_do_not_stop_the_others(
    admin: Connection,
) -> None:
    for user, days in [("ann", 3), ("bob", 2), ("cat", 1)]:
        await grant(admin, user, 20)
        await call(admin, "credits.reserve_credits", user_id=user, amount=5, reason="x")
        await admin.execute(
            "UPDATE credits.reservations"
            " SET expires_at = clock_timestamp() - make_interval(days => $2) WHERE user_id = $1",
            user,
            days,
        )
    # Ann's balance holds less than her reservation, so that nothing can be given back.
    await admin.execute("UPDATE credits.balances SET reserved = 4 WHERE user_id = 'ann'")
    await admin.execute("CALL credits.run_reservation_expiry(1)")
    run = await last_run(admin, "reservation-expiry")
    assert (run["did"], run["error"]) == ({"expired": 2, "errors": 1}, None)
    # Also when they are all in one batch.
    await admin.execute("CALL credits.run_reservation_expiry(10)")
    assert (await last_run(admin, "reservation-expiry"))["did"] == {"expired": 0, "errors": 1}
    statuses = await admin.fetch("SELECT user_id, status FROM credits.reservations ORDER BY 1")
    assert [tuple(row) for row in statuses] == [
        ("ann", "open"),
        ("bob", "expired"),
        ("cat", "expired"),
    ]
    await admin.execute("UPDATE credits.balances SET reserved = 5 WHERE user_id = 'ann'")
    await admin.execute("CALL credits.run_reservation_expiry(10)")
    assert await available(admin, "ann") == 20


async def test_expired_holds_of_one_user_go_back_together(admin: Connection) -> None:
    await grant(admin, "ann", 20)
    for amount in (1, 2, 3, 4, 5):
        await call(admin, "credits.reserve_credits", user_id="ann", amount=amount, reason="x")
    # All at the same moment, so that a batch ends between rows of one time.
    await admin.execute(
        "UPDATE credits.reservations SET expires_at = clock_timestamp() - interval '1 day'"
    )
    await admin.execute("CALL credits.run_reservation_expiry(2)")
    assert (await last_run(admin, "reservation-expiry"))["did"] == {"expired": 5, "errors": 0}
    assert await available(admin, "ann") == 20


@pytest.mark.unsound
async def test_the_ledger_check_records_what_it_found(admin: Connection) -> None:
    for place in range(120):
        await admin.execute("SELECT * FROM credits.init_balance($1)", f"user{place:03}")
    await admin.execute("UPDATE credits.balances SET last_seq = 1")
    await admin.execute("CALL credits.run_ledger_check()")
    run = await last_run(admin, "ledger-check")
    assert run["error"] is None
    assert run["did"]["violations"] == 120
    # All are counted, and the first hundred kept.
    assert len(run["did"]["first"]) == 100
    assert run["did"]["first"][0]["rule"] == "balance"
    assert run["did"]["first"][0]["user_id"] == "user000"
    assert await problems(admin) == ["the last ledger check found 120 violations"]
    await admin.execute("UPDATE credits.balances SET last_seq = 0")
    await admin.execute("CALL credits.run_ledger_check()")
    assert await problems(admin) == []


async def test_a_job_without_a_success_in_its_time_is_late(
    admin: Connection, service_login: Connection
) -> None:
    assert await problems(service_login) == []
    await admin.execute("UPDATE credits.jobs SET since = since - late_after - interval '1 hour'")
    assert await problems(service_login) == [
        f"job {job} is late: its last success was never" for job in JOBS
    ]
    await admin.execute("CALL credits.run_gift_expiry()")
    assert [line for line in await problems(service_login) if "gift-expiry" in line] == []
    # What began and never ended, or failed, is no success.
    started = await admin.fetchval(
        """
        UPDATE credits.job_runs AS r SET started_at = r.started_at - j.late_after
        FROM credits.jobs AS j WHERE j.job = r.job
        RETURNING credits._utc_text(r.started_at)
        """
    )
    await call(service_login, "credits.begin_job_run", job="gift-expiry")
    await plant_run(admin, "gift-expiry", timedelta(minutes=1), "failed")
    late = f"job gift-expiry is late: its last success was {started}"
    failed = "job gift-expiry failed: x"
    assert [line for line in await problems(service_login) if "gift-expiry" in line] == [
        late,
        failed,
    ]


async def plant_run(admin: Connection, job: str, age: timedelta, end: str) -> Any:
    """A run of some time ago that succeeded, failed, or never ended."""
    return await admin.fetchval(
        """
        INSERT INTO credits.job_runs (id, job, started_at, ended_at, error)
        SELECT gen_random_uuid(), $1, s.at, CASE WHEN $3 <> 'unended' THEN s.at END,
            CASE WHEN $3 = 'failed' THEN 'x' END
        FROM (SELECT clock_timestamp() - $2::interval AS at) AS s
        RETURNING id
        """,
        job,
        age,
        end,
    )


async def test_a_run_that_never_ended_is_closed_by_a_later_one(admin: Connection) -> None:
    recent = await plant_run(admin, "gift-expiry", timedelta(minutes=59), "unended")
    cut_off = await plant_run(admin, "gift-expiry", timedelta(minutes=61), "unended")
    others = await plant_run(admin, "pruning", timedelta(minutes=61), "unended")
    await admin.execute("CALL credits.run_gift_expiry()")
    found = await admin.fetch("SELECT id, error FROM credits.job_runs WHERE ended_at IS NOT NULL")
    assert {row["id"]: row["error"] for row in found} == {
        cut_off: "cut off: it never said that it ended",
        (await last_run(admin, "gift-expiry"))["id"]: None,
    }
    assert await problems(admin) == []

    # It lived, and says so: nothing is left of the suspicion.
    for ended in (False, True):
        await admin.execute(
            "SELECT credits.update_job_run($1, '{}', p_ended => $2)", cut_off, ended
        )
        row = await admin.fetchrow("SELECT * FROM credits.job_runs WHERE id = $1", cut_off)
        assert row is not None
        assert (row["error"], row["ended_at"] is not None) == (None, ended)
    left = await admin.fetch("SELECT id FROM credits.job_runs WHERE ended_at IS NULL")
    assert {row["id"] for row in left} == {recent, others}


async def test_old_runs_are_pruned_but_never_the_last_run_and_the_last_success(
    admin: Connection,
) -> None:
    days = [timedelta(days=number) for number in (90, 80, 70, 60, 29)]
    pruned = [await plant_run(admin, "pruning", days[0], "succeeded")]
    kept = [await plant_run(admin, "gift-expiry", days[4], "succeeded")]
    pruned += [
        await plant_run(admin, "gift-expiry", days[0], "succeeded"),
        await plant_run(admin, "gift-expiry", days[3], "failed"),
    ]
    # A job that does not run any more.
    pruned += [
        await plant_run(admin, "charge-notices", days[0], "succeeded"),
        await plant_run(admin, "charge-notices", days[2], "failed"),
    ]
    kept += [
        await plant_run(admin, "charge-notices", days[1], "succeeded"),
        await plant_run(admin, "charge-notices", days[3], "unended"),
    ]
    await admin.execute("CALL credits.run_ledger_check()")
    await admin.execute("CALL credits.run_pruning()")
    left = await admin.fetch("SELECT id FROM credits.job_runs WHERE id = ANY ($1)", pruned + kept)
    # The last success of the job itself is pruned by its next run, which has one behind it.
    assert {row["id"] for row in left} == {*kept, pruned[0]}
    await admin.execute("CALL credits.run_pruning()")
    left = await admin.fetch("SELECT id FROM credits.job_runs WHERE id = ANY ($1)", pruned)
    assert left == []
    assert (await last_run(admin, "pruning"))["did"] == {
        "payloads": 0,
        "rateLimits": 0,
        "jobRuns": 1,
    }


async def test_payloads_of_old_events_are_cleared_and_their_ids_stay(
    admin: Connection, service_login: Connection
) -> None:
    old = timedelta(days=91)
    for name, state, age in [
        ("evt_applied", "applied", old),
        ("evt_ignored", "ignored", old),
        ("evt_ignored2", "ignored", old),
        ("evt_failed", "failed", old),
        ("evt_received", "received", old),
        ("evt_young", "applied", timedelta(days=89)),
    ]:
        await admin.execute(
            """
            INSERT INTO credits.stripe_events
            (id, type, state, error, payload, created_at, received_at)
            SELECT
                $1, 'x', $2::credits.stripe_event_state, CASE $2 WHEN 'failed' THEN 'x' END,
                '{}', s.at, s.at
            FROM (SELECT clock_timestamp() - $3::interval AS at) AS s
            """,
            name,
            state,
            age,
        )
    await admin.execute("CALL credits.run_pruning(2)")
    assert (await last_run(admin, "pruning"))["did"] == {
        "payloads": 3,
        "rateLimits": 0,
        "jobRuns": 0,
    }
    found = await admin.fetch(
        "SELECT id FROM credits.stripe_events WHERE payload IS NOT NULL ORDER BY id"
    )
    # What failed may be replayed, for which its payload is needed.
    assert [row["id"] for row in found] == ["evt_failed", "evt_received", "evt_young"]
    # A late repeat is still known.
    again: asyncpg.Record = await call(
        service_login,
        "credits.apply_stripe_event",
        id="evt_applied",
        type="x",
        created_at=await admin.fetchval("SELECT clock_timestamp()"),
        payload={},
    )
    assert (again["state"], again["repeated"]) == ("applied", True)


@pytest.mark.parametrize(
    ("function", "table"),
    [
        ("gifts._expire_gifts", "gifts.gift_codes"),
        ("credits._expire_reservations", "credits.reservations"),
    ],
)
async def test_what_cannot_expire_is_passed_over_by_the_batches_behind_it(
    admin: Connection, function: str, table: str
) -> None:
    """Of the same moment, so that nothing but their ids tells where a batch has ended."""
    await grant(admin, "ann", 15)
    for _ in range(3):
        if table == "gifts.gift_codes":
            await call(admin, "gifts.create_gift", user_id="ann", credits=5)
        else:
            await call(admin, "credits.reserve_credits", user_id="ann", amount=5, reason="x")
    await admin.execute(f"UPDATE {table} SET expires_at = now() + interval '1 day'")
    await admin.execute(
        f"""
        CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN RAISE EXCEPTION ''not this one''; END';
        CREATE TRIGGER refuse BEFORE UPDATE ON {table}
        FOR EACH ROW EXECUTE FUNCTION pg_temp.refuse()
        """
    )
    batches = []
    last_at, last_key, more = datetime(1970, 1, 1, tzinfo=UTC), "", True
    while more:
        batch = await call(
            admin,
            function,
            now=datetime.now(UTC) + timedelta(days=2),
            batch_size=2,
            after=last_at,
            after_key=last_key,
        )
        batches.append((batch["done"], batch["errors"]))
        last_at, last_key, more = batch["last_at"], batch["last_key"], batch["more"]
    assert batches == [(0, 2), (0, 1)]


@pytest.mark.parametrize(
    ("function", "table"),
    [
        ("gifts._expire_gifts", "gifts.gift_codes"),
        ("credits._expire_reservations", "credits.reservations"),
    ],
)
async def test_a_balance_that_is_not_to_be_had_keeps_back_its_users_things_alone(
    admin: Connection, function: str, table: str
) -> None:
    """And it is waited for once, however many of them there are."""
    for user, number in (("ann", 1), ("bob", 2), ("cleo", 2)):
        await grant(admin, user, 5 * number)
        for _ in range(number):
            if table == "gifts.gift_codes":
                await call(admin, "gifts.create_gift", user_id=user, credits=5)
            else:
                await call(admin, "credits.reserve_credits", user_id=user, amount=5, reason="x")
    await admin.execute(f"UPDATE {table} SET expires_at = now() + interval '1 day'")
    await admin.execute(
        """
        CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN RAISE lock_not_available; END';
        CREATE TRIGGER refuse BEFORE UPDATE ON credits.balances
        FOR EACH ROW WHEN (new.user_id = 'bob') EXECUTE FUNCTION pg_temp.refuse()
        """
    )
    batch = await call(
        admin,
        function,
        now=datetime.now(UTC) + timedelta(days=2),
        batch_size=10,
        after=datetime(1970, 1, 1, tzinfo=UTC),
        after_key="",
    )
    assert (batch["done"], batch["errors"]) == (3, 2)


@pytest.mark.parametrize(
    ("function", "table"),
    [
        ("gifts._expire_gifts", "gifts.gift_codes"),
        ("credits._expire_reservations", "credits.reservations"),
    ],
)
async def test_what_expires_at_this_very_moment_has_expired(
    admin: Connection, function: str, table: str
) -> None:
    await grant(admin, "ann", 5)
    if table == "gifts.gift_codes":
        await call(admin, "gifts.create_gift", user_id="ann", credits=5)
    else:
        await call(admin, "credits.reserve_credits", user_id="ann", amount=5, reason="x")
    ends = await admin.fetchval(f"SELECT expires_at FROM {table}")
    done = []
    for now in (ends - timedelta(microseconds=1), ends):
        batch = await call(
            admin,
            function,
            now=now,
            batch_size=10,
            after=datetime(1970, 1, 1, tzinfo=UTC),
            after_key="",
        )
        done.append(batch["done"])
    assert done == [0, 1]
