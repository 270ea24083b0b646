"""Databases that several tests share, or that a test takes away and gives back."""

import contextlib
import itertools
import os
from collections.abc import AsyncIterator

from service.dev.postgres import Cluster
from tests.support.databases import Clone, connect
from tests.support.waiting import until

_numbers = itertools.count(1)


@contextlib.asynccontextmanager
async def shared_clone(cluster: Cluster, template: str) -> AsyncIterator[Clone]:
    """A migrated database for the tests of a module; at the end the money rules must hold in it."""
    name = f"shared_{os.getpid()}_{next(_numbers)}"
    server = await connect(cluster.admin_url())
    try:
        await server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            clone = Clone(name, cluster.admin_url(name), cluster.service_url(name))
            yield clone
            admin = await connect(clone.admin_url)
            try:
                found = await admin.fetch("SELECT * FROM credits.check_ledger()")
            finally:
                await admin.close()
            assert [dict(violation) for violation in found] == [], found
        finally:
            await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await server.close()


async def take_away(cluster: Cluster, name: str) -> None:
    """Refuse connections to a database from now on, and break those of the service."""
    server = await connect(cluster.admin_url())
    try:
        await server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = $1 AND application_name = 'mana-credits'",
            name,
        )

        async def gone() -> bool:
            left = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name = $2"
            )
            return bool(await server.fetchval(left, name, "mana-credits") == 0)

        await until(gone)
    finally:
        await server.close()


async def give_back(cluster: Cluster, name: str) -> None:
    """Take connections to the database again."""
    server = await connect(cluster.admin_url())
    try:
        await server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def away(cluster: Cluster, name: str) -> AsyncIterator[None]:
    """The database is away as long as the context lasts."""
    await take_away(cluster, name)
    try:
        yield
    finally:
        await give_back(cluster, name)
