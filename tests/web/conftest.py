"""A shop with pages for each test, and one browser for all tests of a worker."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from service.dev.postgres import Cluster
from tests.support.databases import Clone, Connection, as_settings, connect
from tests.support.running import Running, running_service
from tests.support.stripe import (
    SECRET_KEY,
    WEBHOOK_SECRET,
    Line,
    Shop,
    local_stripe,
    opened,
    webhooks,
)
from tests.web.support import People, gathered, open_browser

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run these tests in one event loop, since the browser belongs to the loop it began in.

    So whatever they use has to be made in that loop too: fixtures here say `loop_scope`.
    """
    for item in items:
        if item.path.is_relative_to(_HERE) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium."""
    async with open_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def stripe_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a local Stripe, whose debits are under way until a test lets them arrive."""
    with local_stripe(tmp_path_factory.mktemp("stripe") / "data", sepa_delay=3600) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="session")
async def admin(database: Clone) -> AsyncIterator[Connection]:
    """A connection as superuser, to set things up and to look."""
    connection = await connect(database.admin_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture(loop_scope="session")
async def line(stripe_url: str) -> AsyncIterator[Line]:
    """The line from this test's service to Stripe."""
    made = Line(stripe_url)
    await made.connect()
    yield made
    await made.cut()


@pytest_asyncio.fixture(loop_scope="session")
async def service(database: Clone, cluster: Cluster, line: Line) -> AsyncIterator[Running]:
    """A service that has Stripe's keys, and where people can sign in."""
    settings = as_settings(
        cluster,
        database.name,
        STRIPE_SECRET_KEY=SECRET_KEY,
        STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET,
        STRIPE_API_BASE=line.url,
    )
    async with running_service(settings, for_browsers=True) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def shop(
    service: Running, line: Line, stripe_url: str, admin: Connection
) -> AsyncIterator[Shop]:
    """A shop with packages on the shelf, to which Stripe sends its events."""
    async with opened(service, line, stripe_url, admin) as shop, webhooks(shop):
        yield shop


@pytest_asyncio.fixture(loop_scope="session")
async def people(browser: Browser, shop: Shop, stripe_url: str) -> AsyncIterator[People]:
    """Everybody who uses the shop's pages."""
    async with gathered(browser, shop.service, stripe_url) as people:
        yield people
