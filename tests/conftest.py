"""One cluster and one migrated template for the run, and a clone of it for each test."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg import sql
from pytest_postgresql.janitor import DatabaseJanitor

from service.db import Database
from service.dev.postgres import SERVICE_LOGIN, SUPERUSER, Cluster, temporary_cluster
from service.migrate import migrate
from tests.support.databases import Clone, Connection, as_settings, connect, quick_verifier
from tests.support.running import Running, running_service

TEMPLATE = "mana_template"
SLOWEST_FIRST = ("web", "model", "concurrency", "dev", "jobs", "payments", "fuzz")
"""The folders whose files take longest: left to the end, one of them would keep a worker alone."""
_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest files first; within a file nothing changes."""
    rank = {name: place for place, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(rank)))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL with pg_cron of this run's own."""
    with temporary_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def server(cluster: Cluster) -> Iterator[psycopg.Connection]:
    """A connection as superuser to no test's database, to make and drop those."""
    with psycopg.connect(cluster.admin_url(), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def template(cluster: Cluster, server: psycopg.Connection) -> str:
    """The name of a migrated database to clone; nobody connects to it."""
    cluster.ensure_database(TEMPLATE)
    migrate(as_settings(cluster, TEMPLATE))
    for login in (SUPERUSER, SERVICE_LOGIN):
        quick = sql.Literal(quick_verifier(cluster.password(login)))
        server.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login), quick))
    return TEMPLATE


class _Janitor(DatabaseJanitor):
    """The library's, with one connection for all: to connect takes as long as to clone."""

    def __init__(self, server: psycopg.Connection, name: str, template: str) -> None:
        admin = server.info
        super().__init__(
            user=admin.user,
            password=admin.password,
            host=admin.host,
            port=admin.port,
            dbname=name,
            template_dbname=template,
        )
        self._server = server

    @contextlib.contextmanager
    def cursor(self, dbname: str | None = None) -> Iterator[psycopg.Cursor]:
        """A cursor on the kept connection; what makes and drops a database names no other one."""
        assert dbname in (None, self.maintenance_dbname)
        with self._server.cursor() as cursor:
            yield cursor


@pytest.fixture
def database(
    cluster: Cluster, server: psycopg.Connection, template: str, request: pytest.FixtureRequest
) -> Iterator[Clone]:
    """A migrated database of this test's own; afterwards the money rules must hold in it.

    A test that plants damage says so with the marker `unsound`.
    """
    name = f"test_{os.getpid()}_{next(_numbers)}"
    janitor = _Janitor(server, name, template)
    janitor.init()
    clone = Clone(
        name=name, admin_url=cluster.admin_url(name), service_url=cluster.service_url(name)
    )
    try:
        yield clone
        if "unsound" not in request.keywords:
            asyncio.run(_require_sound(clone))
    finally:
        janitor.drop()


async def _require_sound(clone: Clone) -> None:
    admin = await connect(clone.admin_url)
    try:
        violations = await admin.fetch("SELECT * FROM credits.check_ledger()")
    finally:
        await admin.close()
    assert [dict(violation) for violation in violations] == []


@pytest.fixture
async def admin(database: Clone) -> AsyncIterator[Connection]:
    """A connection as superuser, to set things up and to look."""
    connection = await connect(database.admin_url)
    yield connection
    await connection.close()


@pytest.fixture
async def service_login(database: Clone) -> AsyncIterator[Connection]:
    """A connection as the service's login, with no more than its privileges."""
    connection = await connect(database.service_url)
    yield connection
    await connection.close()


@pytest.fixture
async def db(database: Clone) -> AsyncIterator[Database]:
    """The service's pool on this test's database."""
    opened = Database(database.service_url, pool_max=8)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def service(database: Clone, cluster: Cluster) -> AsyncIterator[Running]:
    """The whole service over HTTP on loopback, with an issuer, without Stripe."""
    async with running_service(as_settings(cluster, database.name)) as running:
        yield running
