"""One service and one database for the tests of a file, and users of its own for each test.

A test here may look at its own users alone. Whatever changes what all share (prices, jobs,
privileges) has a database of its own, outside this folder. When a file is through, the money
rules must hold in its database.
"""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from service.dev.postgres import Cluster
from tests.support.clones import shared_clone
from tests.support.databases import Clone, Connection, as_settings, connect
from tests.support.running import Running, running_service

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of a file share its event loop, in which its service runs."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(cluster: Cluster, template: str) -> AsyncIterator[Clone]:
    """The database of a file."""
    async with shared_clone(cluster, template) as clone:
        yield clone


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(database: Clone) -> AsyncIterator[Connection]:
    """A connection as superuser, to set things up and to look."""
    connection = await connect(database.admin_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(cluster: Cluster, database: Clone) -> AsyncIterator[Running]:
    """The whole service over HTTP on loopback, with an issuer, without Stripe."""
    async with running_service(as_settings(cluster, database.name)) as running:
        yield running


@pytest.fixture
def ann() -> str:
    """A user nobody has seen yet."""
    return f"ann-{next(_numbers)}"


@pytest.fixture
def bob() -> str:
    """Another one."""
    return f"bob-{next(_numbers)}"


@pytest.fixture
def zoe() -> str:
    """A third one, whose address is ours: see `address`."""
    return f"zoe-{next(_numbers)}"
