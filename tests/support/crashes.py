"""A PostgreSQL to crash, which unlike the one of the other tests keeps what it acknowledged."""

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg

from service.dev.postgres import Cluster
from service.migrate import migrate
from tests.support.databases import Connection, as_settings, connect
from tests.support.running import Running
from tests.support.waiting import until

DATABASE = "crashing"
POOL = 10
"""Connections of the service to it."""


@contextlib.contextmanager
def durable_cluster() -> Iterator[Cluster]:
    """Run one with a migrated database."""
    folder = Path(tempfile.mkdtemp(prefix="mana-credits-"))
    cluster = Cluster(folder, durable=True)
    try:
        cluster.ensure_started()
        cluster.ensure_database(DATABASE)
        migrate(as_settings(cluster, DATABASE))
        yield cluster
    finally:
        cluster.destroy()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def back_again(cluster: Cluster, before: Connection) -> AsyncIterator[Connection]:
    """Wait until the server has gone down under a connection and is back; a new connection."""
    made: list[Connection] = []

    async def connects() -> bool:
        try:
            made.append(await connect(cluster.admin_url(DATABASE)))
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    await until(before.is_closed)
    await until(connects)
    yield made[0]
    await made[0].close()


async def rich(service: Running, prefix: str) -> list[str]:
    """Five users who do not run out of credits, so that callers meet at each."""
    users = [f"{prefix}-{number}" for number in range(5)]
    for user in users:
        await service.grant(user, 1_000_000)
    return users
