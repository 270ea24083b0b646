"""The service with room for many moves, without a deadlock, and on a server that crashes."""

import time
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from service.dev.postgres import Cluster
from tests.support.crashes import DATABASE, POOL, durable_cluster
from tests.support.databases import Clone, as_settings, connect
from tests.support.races import WAIT_SECONDS, require_sound
from tests.support.running import Running, running_service

STRIPE_WEBHOOK_SECRET = "whsec_test"


@pytest.fixture
def database(database: Clone) -> Iterator[Clone]:
    """A database of this test's own, in which PostgreSQL must not have found a deadlock."""
    yield database
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        # A connection reports its share at the latest when it ends.
        deadline = time.monotonic() + WAIT_SECONDS
        while connection.execute(
            "SELECT FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        ).fetchone():
            assert time.monotonic() < deadline, "a connection was left open"
            time.sleep(0.01)
        found = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert found == (0,), "row locks are always taken in one order (database.md, rule 5)"


@pytest.fixture
async def service(database: Clone, cluster: Cluster) -> AsyncIterator[Running]:
    """The whole service, whose pool holds up no race of thirty callers."""
    settings = as_settings(
        cluster,
        database.name,
        DATABASE_POOL_MAX="24",
        STRIPE_SECRET_KEY="sk_test_1",
        STRIPE_WEBHOOK_SECRET=STRIPE_WEBHOOK_SECRET,
    )
    async with running_service(settings) as running:
        yield running


@pytest.fixture(scope="session")
def durable() -> Iterator[Cluster]:
    """A cluster to crash."""
    with durable_cluster() as cluster:
        yield cluster


@pytest.fixture
async def crashing(durable: Cluster) -> AsyncIterator[Running]:
    """The service on that cluster; afterwards its books must be sound."""
    settings = as_settings(durable, DATABASE, DATABASE_POOL_MAX=str(POOL))
    async with running_service(settings) as running:
        yield running
    admin = await connect(durable.admin_url(DATABASE))
    try:
        await require_sound(admin)
    finally:
        await admin.close()
