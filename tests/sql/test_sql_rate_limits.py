"""Turns: exact over any minute, whoever asks, and at once or not."""

import asyncio
from datetime import timedelta

from tests.support.calls import call, refusal
from tests.support.databases import Clone, Connection, connect
from tests.support.races import blocked

TURN = "credits.take_turn"


async def turn(connection: Connection, **allowed: int) -> float:
    row = await call(connection, TURN, subjects=[*allowed], allowed=[*allowed.values()], seconds=60)
    wait: float = row["take_turn"]
    return wait


async def passes(admin: Connection, seconds: float) -> None:
    """Time passes for all turns that were taken."""
    await admin.execute(
        "UPDATE credits.rate_limits SET kept_until = kept_until - $1::interval,"
        " taken = array(SELECT a - $1::interval FROM unnest(taken) AS a ORDER BY a)",
        timedelta(seconds=seconds),
    )


async def test_so_many_and_no_more_until_the_first_is_a_minute_old(
    admin: Connection, service_login: Connection
) -> None:
    assert await turn(service_login, ann=3) == 0
    await passes(admin, 20)
    assert [await turn(service_login, ann=3) for _ in range(2)] == [0, 0]
    wait = await turn(service_login, ann=3)
    assert 0 < wait <= 40
    assert await turn(service_login, bob=3) == 0
    # Those who go on calling wait no longer for it.
    assert 0 < await turn(service_login, ann=3) <= wait
    await passes(admin, wait)
    assert await turn(service_login, ann=3) == 0
    # The two others still count.
    assert await turn(service_login, ann=3) > 0
    await passes(admin, 60)
    assert [await turn(service_login, ann=3) for _ in range(3)] == [0, 0, 0]


async def test_all_limits_hold_and_a_refused_call_counts_for_none(
    admin: Connection, service_login: Connection
) -> None:
    assert await turn(service_login, ann=1, here=3) == 0
    assert await turn(service_login, ann=1, here=3) > 0
    assert await turn(service_login, bob=9, here=3) == 0
    assert await turn(service_login, bob=9, here=3) == 0
    assert await turn(service_login, bob=9, here=3) > 0
    taken = await admin.fetch("SELECT subject, cardinality(taken) AS n FROM credits.rate_limits")
    assert {row["subject"]: row["n"] for row in taken} == {"ann": 1, "bob": 2, "here": 3}


async def test_callers_at_once_get_no_turn_twice(
    database: Clone, admin: Connection, service_login: Connection
) -> None:
    several = [await connect(database.service_url) for _ in range(8)]
    try:

        async def ask(connection: Connection, place: int) -> list[float]:
            # In both orders, since whoever locks two rows could wait in a circle.
            names = ["a", "b"] if place % 2 else ["b", "a"]
            return [await turn(connection, **dict.fromkeys(names, 10)) for _ in range(5)]

        waits = await asyncio.gather(*(ask(one, place) for place, one in enumerate(several)))
    finally:
        for one in several:
            await one.close()
    assert sum(wait == 0 for waited in waits for wait in waited) == 10
    assert await admin.fetchval("SELECT cardinality(taken) FROM credits.rate_limits LIMIT 1") == 10


async def test_a_turn_is_counted_though_its_old_row_is_just_being_deleted(
    database: Clone, admin: Connection, service_login: Connection
) -> None:
    assert await turn(service_login, ann=1) == 0
    await passes(admin, 61)
    pruner = await connect(database.admin_url)
    try:
        await pruner.execute("BEGIN")
        await pruner.execute("SELECT FROM credits.rate_limits FOR UPDATE")
        waiting = asyncio.ensure_future(turn(service_login, ann=1))
        try:
            await blocked(admin, service_login, waiting)
            await pruner.execute("DELETE FROM credits.rate_limits; COMMIT")
            assert await waiting == 0
        finally:
            waiting.cancel()
    finally:
        await pruner.close()
    assert await turn(service_login, ann=1) > 0


async def test_what_counts_no_more_is_deleted(admin: Connection, service_login: Connection) -> None:
    for name in ("ann", "user0", "user1", "user2"):
        assert await turn(service_login, **{name: 1}) == 0
    # Only now, and no turn from here on: each may prune as well.
    await admin.execute(
        "UPDATE credits.rate_limits SET kept_until = clock_timestamp() WHERE subject <> 'ann'"
    )
    # More than a batch, and by the job, since after the last call nobody else does it.
    await admin.execute("CALL credits.run_pruning(2)")
    did = await admin.fetchval("SELECT did FROM credits.job_runs WHERE job = 'pruning'")
    assert did["rateLimits"] == 3
    found = await admin.fetch("SELECT subject FROM credits.rate_limits")
    assert [row["subject"] for row in found] == ["ann"]


async def test_subjects_without_limits_are_refused(service_login: Connection) -> None:
    for subjects, allowed in [([], []), (["a"], []), (["a"], [0]), (["a"], [None])]:
        refused = await refusal(service_login, TURN, subjects=subjects, allowed=allowed, seconds=60)
        assert refused.sqlstate == "MC001"
