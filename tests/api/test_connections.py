"""How many connections the database gives, and who says so when that is too few."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service import doctor
from service.db import Database
from service.dev.postgres import Cluster
from service.queries.connections import Room, room
from service.settings import Settings, pool_share
from tests.support.clones import give_back, take_away
from tests.support.databases import Clone, Connection
from tests.support.processes import Process, serving
from tests.support.waiting import until

STRIPE = {"STRIPE_SECRET_KEY": "sk_test_1", "STRIPE_WEBHOOK_SECRET": "whsec_1"}
TOO_FEW = "too few connections"


async def room_at(url: str) -> Room | None:
    db = Database(url)
    await db.open()
    try:
        return await room(db)
    finally:
        await db.close()


@contextlib.asynccontextmanager
async def limited(admin: Connection, what: str, number: int) -> AsyncIterator[None]:
    await admin.execute(f"ALTER {what} CONNECTION LIMIT {number}")
    try:
        yield
    finally:
        await admin.execute(f"ALTER {what} CONNECTION LIMIT -1")


async def test_the_narrowest_limit_counts(database: Clone, admin: Connection) -> None:
    most = int(await admin.fetchval("SHOW max_connections"))
    kept = int(await admin.fetchval("SHOW superuser_reserved_connections"))
    assert kept > 0
    assert await room_at(database.service_url) == Room(most - kept, "max_connections")
    assert await room_at(database.admin_url) == Room(most, "max_connections")
    async with limited(admin, f'DATABASE "{database.name}"', 17):
        of_database = Room(17, "the connection limit of the database")
        assert await room_at(database.service_url) == of_database
        async with limited(admin, "ROLE mana", 16):
            of_login = Room(16, "the connection limit of the login")
            assert await room_at(database.service_url) == of_login
        async with limited(admin, "ROLE mana", 18):
            assert await room_at(database.service_url) == of_database
        # Neither holds for a superuser.
        assert await room_at(database.admin_url) == Room(most, "max_connections")


def test_what_processes_may_want_is_their_pools_and_what_listens() -> None:
    base = {"MANA_ENV": "development"}
    assert Settings.from_env(base).connections == 11
    assert Settings.from_env({**base, **STRIPE}).connections == 12
    assert Settings.from_env({**base, "DATABASE_POOL_MAX": "3"}).connections == 4


@pytest.mark.parametrize(("workers", "pool"), [(1, 10), (2, 10), (3, 6), (4, 5), (5, 4), (64, 4)])
def test_of_several_processes_each_has_a_smaller_pool(workers: int, pool: int) -> None:
    base = {"MANA_ENV": "development"}
    assert pool_share(workers) == pool
    assert Settings.from_env(base, workers=workers).database_pool_max == pool
    chosen = {**base, "DATABASE_POOL_MAX": "7"}
    assert Settings.from_env(chosen, workers=workers).database_pool_max == 7


@pytest.mark.parametrize(("workers", "state"), [(1, "ok"), (8, "ok"), (9, "fail")])
def test_the_doctor_counts_all_processes(workers: int, state: str) -> None:
    settings = Settings.from_env({"MANA_ENV": "development", **STRIPE})
    found = doctor.examine_room(Room(97, "max_connections"), settings, workers)
    assert (found.state, found.what) == (state, "connections")
    assert str(workers * 12) in found.text
    assert "97" in found.text


# Serving


def env_of(database: Clone, **env: str) -> dict[str, str]:
    return {
        "MANA_ENV": "production",
        "DATABASE_URL": database.service_url,
        "MANA_AUTH_URL": "http://127.0.0.1:9",
        "MANA_SERVICE_KEY": "a-service-key",
        **env,
    }


def told(served: Process) -> list[dict[str, Any]]:
    return [line for line in served.lines if TOO_FEW in line["event"]]


def pools(served: Process) -> set[str]:
    """What the workers were told, word for word."""
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in served.children()]
    return {command.replace("\0", " ") for command in commands}


async def test_workers_that_may_want_too_many_say_so_once_and_serve(
    tmp_path: Path, database: Clone, admin: Connection
) -> None:
    env = env_of(database, DATABASE_POOL_MAX="3")
    async with (
        limited(admin, f'DATABASE "{database.name}"', 7),
        serving(tmp_path, "--workers", "2", env=env) as served,
    ):
        await served.listening()
        await until(lambda: told(served) != [])
        await until(lambda: served.written.count('"event":"serving"') == 2)
        served.process.terminate()
        assert await served.ended() == 0
    (line,) = told(served)
    assert (line["level"], line["processes"], line["needed"], line["allowed"]) == (
        *("warning", 2, 8, 7),
    )
    assert line["limit"] == "the connection limit of the database"


async def test_one_that_starts_without_a_database_says_so_when_it_comes(
    tmp_path: Path, cluster: Cluster, database: Clone, admin: Connection
) -> None:
    await admin.execute(f'ALTER DATABASE "{database.name}" CONNECTION LIMIT 7')
    await take_away(cluster, database.name)
    try:
        async with serving(tmp_path, env=env_of(database)) as served:
            await served.listening()
            assert told(served) == []
            await give_back(cluster, database.name)
            await until(lambda: told(served) != [])
            served.process.terminate()
            assert await served.ended() == 0
            assert "Traceback" not in served.written
    finally:
        await give_back(cluster, database.name)
    (line,) = told(served)
    assert (line["processes"], line["needed"], line["allowed"]) == (1, 11, 7)


async def test_workers_that_fit_by_default_say_nothing(tmp_path: Path, database: Clone) -> None:
    async with serving(tmp_path, "--workers", "4", env=env_of(database)) as served:
        await served.listening()
        await until(lambda: served.written.count('"event":"serving"') == 4)
        assert {"--workers=4" in command for command in pools(served)} == {True}
        served.process.terminate()
        assert await served.ended() == 0
    assert told(served) == []
