"""PgBouncer goes away under load, or the database behind it, and comes back."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator

import pytest

from service.dev.postgres import Cluster
from tests.support.crashes import DATABASE, POOL, rich
from tests.support.databases import as_settings, connect
from tests.support.load import Load, require_exactly_once, require_told_well
from tests.support.poolers import Pooler, pooled
from tests.support.races import require_sound
from tests.support.running import Running, running_service

CALLERS = 10


@pytest.fixture
def pooler(durable: Cluster) -> Iterator[Pooler]:
    with pooled(durable) as pooler:
        yield pooler


@pytest.fixture
async def behind(durable: Cluster, pooler: Pooler) -> AsyncIterator[Running]:
    """The service behind it; afterwards its books must be sound."""
    settings = as_settings(
        durable,
        DATABASE,
        DATABASE_URL=pooler.through(durable.service_url(DATABASE)),
        LISTEN_DATABASE_URL=durable.service_url(DATABASE),
        DATABASE_STATEMENT_CACHE="0",
        DATABASE_POOL_MAX=str(POOL),
    )
    async with running_service(settings) as running:
        yield running
    admin = await connect(durable.admin_url(DATABASE))
    try:
        await require_sound(admin)
    finally:
        await admin.close()


def not_done(load: Load) -> int:
    """How many answers said that a move was not done, or perhaps not."""
    return len(load.told) - load.words()["done"]


async def require_kept(load: Load, durable: Cluster) -> None:
    await load.stop()
    # A pooler lets its callers wait for what is away, each time for all that a statement may take.
    require_told_well(load.told, within=math.inf)
    admin = await connect(durable.admin_url(DATABASE))
    try:
        await require_exactly_once(load, admin)
    finally:
        await admin.close()


async def test_a_pooler_that_is_killed_again_and_again_loses_and_doubles_nothing(
    behind: Running, pooler: Pooler, durable: Cluster
) -> None:
    load = Load(behind, await rich(behind, "pooler-killed"))
    load.start(CALLERS)
    await load.more(50)
    for _ in range(4):
        await asyncio.to_thread(pooler.kill)
        before = not_done(load)

        def has_been_felt(load: Load, before: int = before) -> bool:
            return not_done(load) > before

        await load.until(has_been_felt)
        await asyncio.to_thread(pooler.start)
        await load.more(20)
    await require_kept(load, durable)


async def test_a_database_that_crashes_behind_it_loses_and_doubles_nothing(
    behind: Running, durable: Cluster
) -> None:
    load = Load(behind, await rich(behind, "pooler-stays"))
    load.start(CALLERS)
    await load.more(50)
    for _ in range(2):
        await asyncio.to_thread(durable.stop, "immediate")
        await asyncio.to_thread(durable.start)
        await load.more(20)
    await require_kept(load, durable)
