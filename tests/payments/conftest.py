"""A shop for each test; one local Stripe for all."""

from collections.abc import AsyncIterator, Iterator

import pytest

from service.dev.postgres import Cluster
from service.reconcile import Reconciler
from tests.support.databases import Clone, Connection, as_settings
from tests.support.running import Running, running_service
from tests.support.stripe import (
    SECRET_KEY,
    WEBHOOK_SECRET,
    Line,
    Shop,
    local_stripe,
    opened,
)


@pytest.fixture(scope="session")
def stripe_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a local Stripe."""
    with local_stripe(tmp_path_factory.mktemp("stripe") / "data") as url:
        yield url


@pytest.fixture
async def line(stripe_url: str) -> AsyncIterator[Line]:
    """The line from this test's service to Stripe."""
    made = Line(stripe_url)
    await made.connect()
    yield made
    await made.cut()


@pytest.fixture
async def selling(database: Clone, cluster: Cluster, line: Line) -> AsyncIterator[Running]:
    """A service that has Stripe's keys."""
    settings = as_settings(
        cluster,
        database.name,
        STRIPE_SECRET_KEY=SECRET_KEY,
        STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET,
        STRIPE_API_BASE=line.url,
        BASE_URL="https://credits.example.org",
        CORS_ORIGINS="http://localhost:5173,https://app.example.org",
    )
    async with running_service(settings) as running:
        yield running


@pytest.fixture
async def shop(
    selling: Running, line: Line, stripe_url: str, admin: Connection
) -> AsyncIterator[Shop]:
    """A shop with packages on the shelf."""
    async with opened(selling, line, stripe_url, admin) as shop:
        yield shop


@pytest.fixture
def silent_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """No service asks Stripe but for its callers; to be named before the shop."""

    async def nothing(_reconciler: Reconciler) -> None:
        pass

    monkeypatch.setattr(Reconciler, "reconcile", nothing)
