"""The database goes away under load, also in the middle of commits, and comes back."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.dev.postgres import Cluster
from tests.support.crashes import DATABASE, POOL, rich
from tests.support.databases import Connection, as_settings, connect
from tests.support.load import Load, require_exactly_once, require_told_well
from tests.support.paths import ENVIRONMENT, PATH, PATHS
from tests.support.races import at_once, blocked_by, outcomes, until
from tests.support.running import Answer, Running, running_service

CALLERS = 20
AWAY_SECONDS = 10.0
CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'mana-credits'
"""


async def are_stuck(admin: Connection, number: int) -> bool:
    """Whether so many commits of the service, or of a probe alone, wait for a standby."""
    stuck: int = await admin.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        " AND (application_name = 'mana-credits' OR $1 = 1)",
        number,
    )
    return stuck >= number


@contextlib.asynccontextmanager
async def stuck_commits(
    admin: Connection, number: int, probe: Connection | None = None
) -> AsyncIterator[None]:
    """Let commits be written and not be told, and wait for that many of them.

    Of a probe, one of its own is made for this, again and again until it is stuck.

    Afterwards they are told again from the next start or reload on.
    """

    async def commit() -> None:
        assert probe is not None
        while True:
            await probe.execute("SELECT FROM credits.init_balance(gen_random_uuid()::text)")

    probing = None
    # A standby that does not exist: every commit waits for it, with all its locks.
    await admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    try:
        await admin.execute("SELECT pg_reload_conf()")
        if probe is not None:
            probing = asyncio.create_task(commit())
        await until(functools.partial(are_stuck, admin, number), "commits that wait for a standby")
        yield
    except BaseException:
        await admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await admin.execute("SELECT pg_reload_conf()")
        raise
    finally:
        if probing is not None:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
    await admin.execute("ALTER SYSTEM RESET synchronous_standby_names")


async def test_ten_seconds_without_a_database_lose_nothing_and_double_nothing(
    crashing: Running, durable: Cluster
) -> None:
    load = Load(crashing, await rich(crashing, "away"))
    load.start(CALLERS)
    await load.more(200)

    admin = await connect(durable.admin_url(DATABASE))
    try:
        # One a user at most; the other connections wait for those users' locks.
        async with stuck_commits(admin, 2):
            pass
    finally:
        admin.terminate()
    await asyncio.to_thread(durable.stop, "immediate")
    gone = time.monotonic()
    # The outage itself: longer than the service tries to settle a move.
    await asyncio.sleep(AWAY_SECONDS)
    back = time.monotonic()
    await asyncio.to_thread(durable.start)
    await load.more(200)
    for _ in range(3):
        await asyncio.to_thread(durable.stop, "immediate")
        await asyncio.to_thread(durable.start)
        await load.more(50)
    await load.stop()

    require_told_well(load.told)
    meanwhile = [told for told in load.told if told.began > gone and told.ended < back]
    assert len(meanwhile) >= CALLERS
    assert {told.answer.status for told in meanwhile} == {503}
    # Those whose moves were under way, or stuck in their commits, when it went away.
    assert load.words()["outcome_unknown"] >= POOL
    admin = await connect(durable.admin_url(DATABASE))
    try:
        await require_exactly_once(load, admin)
    finally:
        await admin.close()


async def test_connections_cut_again_and_again_lose_nothing_and_double_nothing(
    crashing: Running, durable: Cluster
) -> None:
    load = Load(crashing, await rich(crashing, "cut"))
    load.start(CALLERS)
    admin = await connect(durable.admin_url(DATABASE))
    try:
        for _ in range(15):
            await load.more(20)
            assert await admin.execute(CUT) != "SELECT 0"
        await load.more(20)
        await load.stop()
        require_told_well(load.told)
        await require_exactly_once(load, admin)
    finally:
        await admin.close()


async def prepared(service: Running, when: str) -> list[tuple[str, str, str | None, Any]]:
    """A call of each kind that moves something, each by a user of its own: none has a key."""

    async def made(path: str, body: Any, user: str | None = None) -> Any:
        answer = await service.call("POST", path, user=user, internal=user is None, json=body)
        assert answer.status in (200, 201), answer.body
        return answer.body

    async def hold(user: str) -> Any:
        body = {"userId": user, "amount": 5, "reason": "chat:held"}
        return (await made("/internal/credits/reserve", body))["reservationId"]

    users = {name: f"{name}-{when}" for name in LEFT}
    for user in users.values():
        await service.grant(user, 100)
    debit = {"amount": 7, "appId": "chat", "description": "a debit"}
    gift = await made("/gifts", {"totalCredits": 10}, "giver")
    own = await made("/gifts", {"totalCredits": 10}, users["cancel"])
    await made("/sync/activate", {}, users["deactivate"])
    return [
        ("POST", "/credits/use", users["use"], debit),
        ("POST", "/internal/credits/use", None, {"userId": users["serve"], **debit}),
        (
            "POST",
            "/internal/credits/grant",
            None,
            {"userId": users["grant"], "amount": 7, "reason": "x", "referenceId": "quest"},
        ),
        (
            "POST",
            "/internal/credits/refund",
            None,
            {"userId": users["refund"], "amount": 7, "description": "x"},
        ),
        (
            "POST",
            "/internal/credits/reserve",
            None,
            {"userId": users["reserve"], "amount": 7, "reason": "chat:x"},
        ),
        (
            "POST",
            "/internal/credits/commit",
            None,
            {"reservationId": await hold(users["commit"]), "amount": 3},
        ),
        (
            "POST",
            "/internal/credits/refund-reservation",
            None,
            {"reservationId": await hold(users["release"])},
        ),
        ("POST", "/gifts", users["give"], {"totalCredits": 7}),
        ("POST", f"/gifts/{gift['code']}/redeem", users["redeem"], {}),
        ("DELETE", f"/gifts/{own['id']}", users["cancel"], None),
        ("POST", "/sync/activate", users["activate"], {}),
        ("POST", "/sync/deactivate", users["deactivate"], {}),
    ]


LEFT = {
    "use": 93,
    "serve": 93,
    "grant": 107,
    "refund": 107,
    "reserve": 93,
    "commit": 97,
    "release": 100,
    "give": 93,
    "redeem": 110,
    "cancel": 100,
    "activate": 70,
    "deactivate": 70,
}
"""What each of those users can spend after his call, if it was done once."""


@pytest.mark.parametrize(
    ("when", "path"),
    # In between, some go alone and some together; see tests/README.md.
    [*(("before", path) for path in PATHS), ("after", PATH)],
)
async def test_a_move_whose_connection_breaks_around_its_commit_is_done_once(
    durable: Cluster, when: str, path: str
) -> None:
    """Before: it waits for a lock, and nothing is there. After: it is there, and was not told."""
    settings = as_settings(durable, DATABASE, DATABASE_POOL_MAX="24", **ENVIRONMENT[path])
    name_of = f"{when}-{path}"
    async with running_service(settings) as service:
        await service.grant("giver", 100, name_of)
        calls = await prepared(service, name_of)
        users = {name: f"{name}-{name_of}" for name in LEFT}
        admin = await connect(durable.admin_url(DATABASE))
        holder = await connect(durable.admin_url(DATABASE))
        try:
            if when == "before":
                await holder.execute("BEGIN")
                await holder.execute(
                    "SELECT FROM credits.balances WHERE user_id = ANY ($1) FOR UPDATE",
                    list(users.values()),
                )
                await holder.execute(
                    "SELECT FROM credits.sync_subscriptions WHERE user_id = ANY ($1) FOR UPDATE",
                    list(users.values()),
                )

            def call() -> asyncio.Task[list[Answer]]:
                return asyncio.create_task(
                    at_once(
                        service.call(method, path, user=user, internal=user is None, json=body)
                        for method, path, user, body in calls
                    )
                )

            if when == "before":
                answering = call()
                await blocked_by(admin, holder, len(calls))
                await admin.execute(CUT)
                await holder.execute("COMMIT")
            else:
                # Only once a commit is stuck: one that is quicker than the reload would be told.
                async with stuck_commits(admin, 1, probe=holder):
                    answering = call()
                    await until(
                        functools.partial(are_stuck, admin, len(calls)),
                        "commits that wait for a standby",
                    )
                    await admin.execute(CUT)
                await admin.execute("SELECT pg_reload_conf()")
            answers = await answering
        finally:
            await holder.close()
            await admin.close()

        told = outcomes(answers)
        assert told["201"] == 1
        assert told["200"] + told["200 replayed"] == len(calls) - 1
        left = {name: await service.balance(user) for name, user in users.items()}
        assert left == LEFT
