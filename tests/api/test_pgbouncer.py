"""The service behind PgBouncer in transaction mode: it works, and says what is set wrongly."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
import structlog.testing

import service.notices
from service.db import Database
from service.dev.postgres import Cluster
from service.errors import UnavailableError
from service.queries import connections
from tests.support.databases import Clone, Connection, as_environment, as_settings
from tests.support.doctors import check
from tests.support.notify import Notify, notified
from tests.support.poolers import Pooler, pooled
from tests.support.races import make_due, outcomes
from tests.support.running import Answer, Running, running_service
from tests.support.waiting import until

CALLERS = 8
EMAIL = {"email": "someone@example.org"}


@pytest.fixture(params=["0", ""], ids=["chosen", "found out"])
def statement_cache(request: pytest.FixtureRequest) -> str:
    """DATABASE_STATEMENT_CACHE as the README says, and not set at all."""
    chosen: str = request.param
    return chosen


@pytest.fixture
def pooler(cluster: Cluster, database: Clone) -> Iterator[Pooler]:
    """It ends before the database is dropped, since it holds connections to it."""
    with pooled(cluster) as pooler:
        yield pooler


@pytest.fixture
async def notify() -> AsyncIterator[Notify]:
    async with notified() as notify:
        yield notify


@pytest.fixture
async def behind(
    cluster: Cluster,
    database: Clone,
    pooler: Pooler,
    notify: Notify,
    statement_cache: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Running]:
    """The service behind the pooler, which would look for notices in an hour."""
    monkeypatch.setattr(service.notices, "POLL_SECONDS", 3600.0)
    settings = as_settings(
        cluster,
        database.name,
        DATABASE_URL=pooler.through(database.service_url),
        LISTEN_DATABASE_URL=database.service_url,
        DATABASE_STATEMENT_CACHE=statement_cache,
        MANA_NOTIFY_URL=notify.url,
    )
    async with running_service(settings) as running:
        yield running


async def done(call: Any) -> Any:
    answer: Answer = await call
    assert answer.status in (200, 201), answer.body
    return answer.body


async def spend(service: Running, user: str) -> None:
    """Everything that one user does, whose credits are 1000 and end as 909."""
    await service.grant(user, 1000)
    body = {"amount": 5, "appId": "chat", "description": "x"}
    await done(service.call("POST", "/credits/use", user=user, json=body))
    keyed = {**body, "idempotencyKey": "once"}
    answers = await asyncio.gather(
        *(service.call("POST", "/credits/use", user=user, json=keyed) for _ in range(4))
    )
    assert outcomes(answers) == {"200": 1, "200 replayed": 3}

    held = {"userId": user, "amount": 20, "reason": "chat:x"}
    hold = await done(service.call("POST", "/internal/credits/reserve", internal=True, json=held))
    commit = {"reservationId": hold["reservationId"], "amount": 15}
    await done(service.call("POST", "/internal/credits/commit", internal=True, json=commit))
    hold = await done(service.call("POST", "/internal/credits/reserve", internal=True, json=held))
    release = {"reservationId": hold["reservationId"]}
    path = "/internal/credits/refund-reservation"
    await done(service.call("POST", path, internal=True, json=release))

    gift = await done(service.call("POST", "/gifts", user=user, json={"totalCredits": 36}))
    redeemed = f"{user}-friend"
    await done(service.call("POST", f"/gifts/{gift['code']}/redeem", user=redeemed, json={}))
    assert await service.balance(redeemed) == 36

    await done(service.call("POST", "/sync/activate", user=user, json={}))
    assert (await done(service.call("GET", "/sync/status", user=user)))["active"]


async def history(service: Running, user: str) -> list[int]:
    """The amounts of a user's moves by pages of two, the oldest first."""
    amounts: list[int] = []
    for offset in itertools.count(0, 2):
        path = f"/credits/transactions?limit=2&offset={offset}"
        page = await done(service.call("GET", path, user=user))
        amounts += [row["amount"] for row in page]
        if not page:
            return amounts[::-1]
    raise AssertionError("unreachable")


async def test_a_slice_of_everything_at_once(
    behind: Running, pooler: Pooler, admin: Connection, notify: Notify
) -> None:
    users = [f"user-{number}" for number in range(CALLERS)]
    await asyncio.gather(*(spend(behind, user) for user in users))

    moved = await asyncio.gather(*(history(behind, user) for user in users))
    assert moved == [[1000, -5, -5, -15, -36, -30]] * CALLERS
    balances = await asyncio.gather(*(behind.balance(user) for user in users))
    assert balances == [909] * CALLERS

    await make_due(admin, users)
    ran = await done(behind.call("POST", "/internal/sync/charge-recurring", internal=True))
    assert (ran["charged"], ran["paused"]) == (CALLERS, 0)
    ready = await done(behind.call("GET", "/health/ready", base=""))
    assert ready["status"] in ("ok", "degraded")
    headers = {"X-Service-Key": behind.settings.service_keys[0]}
    async with behind.session.get(f"{behind.url}/metrics", headers=headers) as answer:
        assert "mana_credits_database_up 1.0" in await answer.text()

    # All of it went through the pooler's few connections.
    serving = await admin.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'mana-credits' AND query NOT LIKE 'LISTEN%'"
    )
    assert 1 <= serving <= 3
    assert notify.ids == []


async def test_notices_are_told_past_it(behind: Running, admin: Connection, notify: Notify) -> None:
    # It looks once when it starts, and when it listens; what it then sends, it was woken for.
    for number in range(3):
        user = f"user-{number}"
        await behind.grant(user, 40)
        await done(behind.call("POST", "/sync/activate", user=user, claims=EMAIL, json={}))
        await make_due(admin, [user])
        ran = await done(behind.call("POST", "/internal/sync/charge-recurring", internal=True))
        assert ran["paused"] == 1
        await until(lambda number=number: len(notify.ids) == number + 1)  # type: ignore[misc]
    assert {letter["data"]["kind"] for letter in notify.letters} == {"sync_paused"}


KEPT = "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"


async def test_what_is_between_is_found_out(
    cluster: Cluster, database: Clone, pooler: Pooler
) -> None:
    through = pooler.through(database.service_url)
    for url, is_pooled in ((database.service_url, False), (through, True)):
        db = Database(url)
        await db.open()
        try:
            # Several connections begin at once, before any of them knows.
            counts = await asyncio.gather(*(db.value(KEPT) for _ in range(12)))
            assert {count == 0 for count in counts} == {is_pooled}
            assert db.pooled is is_pooled
            kept = await db.value(KEPT)
            assert (kept == 0) is is_pooled
            # What PostgreSQL would give says nothing of what the pooler gives.
            assert (await connections.room(db) is None) is is_pooled
        finally:
            await db.close()


async def test_a_lost_statement_is_said_by_the_setting_and_moves_nothing(
    cluster: Cluster, database: Clone, admin: Connection
) -> None:
    grant = "SELECT seq FROM credits.grant_credits('ann', 5, 'test', $1)"
    with pooled(cluster, size=1) as narrow:
        address = narrow.through(database.service_url)
        db = Database(address, statement_cache=100)
        await db.open()
        try:
            await db.move(grant, "first")
            # For the pooler's next caller that is a server on which nothing is prepared.
            other = await asyncpg.connect(address, statement_cache_size=0)
            await other.execute("DEALLOCATE ALL")
            await other.close()
            with structlog.testing.capture_logs() as logs, pytest.raises(UnavailableError):
                await db.move(grant, "second")
        finally:
            await db.close()
    (said,) = [line for line in logs if line["log_level"] == "error"]
    assert "DATABASE_STATEMENT_CACHE" in said["event"]
    assert await admin.fetchval("SELECT balance FROM credits.balances") == 5


async def checked(
    cluster: Cluster, database: Clone, url: str, **env: str
) -> dict[str, tuple[str, str]]:
    """What the doctor says of connections and listening."""
    env = as_environment(cluster, database.name, DATABASE_URL=url, **env)
    _, report = await check(env, "--workers", "64")
    return {what: report[what] for what in ("connections", "listening") if what in report}


async def test_the_doctor_knows_it(cluster: Cluster, database: Clone, pooler: Pooler) -> None:
    through = pooler.through(database.service_url)
    right = {"LISTEN_DATABASE_URL": database.service_url}
    for statement_cache in ("", "0"):
        found = await checked(
            cluster, database, through, DATABASE_STATEMENT_CACHE=statement_cache, **right
        )
        # Of sixty-four processes' pools nothing is said: it is the pooler that bounds them.
        assert {what: state for what, (state, _) in found.items()} == {"connections": "ok"}
    found = await checked(cluster, database, through, DATABASE_STATEMENT_CACHE="100")
    assert {what: state for what, (state, _) in found.items()} == {
        "connections": "fail",
        "listening": "warn",
    }
    assert "DATABASE_STATEMENT_CACHE" in found["connections"][1]
    assert "LISTEN_DATABASE_URL" in found["listening"][1]
    found = await checked(cluster, database, database.service_url)
    assert found["connections"][0] == "fail"
    assert "max_connections" in found["connections"][1]


async def test_the_doctor_is_not_sure_of_one_that_keeps_connections_apart(
    cluster: Cluster, database: Clone
) -> None:
    with pooled(cluster, mode="session") as apart:
        through = apart.through(database.service_url)
        found = await checked(cluster, database, through, DATABASE_STATEMENT_CACHE="100")
    assert {state for state, _ in found.values()} == {"warn"}
