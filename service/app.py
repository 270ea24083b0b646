"""The application: its routes, and what it runs on."""

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator

import aiohttp
from aiohttp import web

from service.api import (
    admin,
    credits,
    gifts,
    health,
    internal,
    metrics,
    pages,
    privacy,
    sync,
    webhooks,
)
from service.auth import Authenticator, KeySet
from service.db import Database
from service.keys import AUTHENTICATOR, DB, METRICS, PAGES, REQUEST_LOG, SETTINGS, STRIPE
from service.logs import RequestLog, write_requests
from service.metrics import Metrics
from service.middleware import application, declared_routes
from service.notices import Sender
from service.pages import make_pages
from service.reconcile import Reconciler
from service.settings import Settings


def create_app(settings: Settings) -> web.Application:
    """The whole service; it starts without a database, and serves once there is one."""
    app = application(
        settings,
        health.routes,
        credits.routes,
        sync.routes,
        gifts.routes,
        admin.routes,
        internal.routes,
        privacy.routes,
        webhooks.routes,
        metrics.routes,
        pages.routes,
    )
    app[REQUEST_LOG] = RequestLog.to_stderr(settings) if settings.production else write_requests
    app[PAGES] = make_pages(declared_routes(app), settings)
    app.cleanup_ctx.extend((_database, _authenticator, _stripe, _notices, _reconciliation))
    return app


async def _database(app: web.Application) -> AsyncIterator[None]:
    settings = app[SETTINGS]
    db = Database(
        settings.database_url,
        pool_max=settings.database_pool_max,
        statement_cache=settings.database_statement_cache,
        batch_min=settings.database_batch_min,
        batch_max=settings.database_batch_max,
    )
    await db.open()
    app[DB] = db
    app[METRICS] = Metrics(db)
    async with app[METRICS].watching():
        yield
    await db.close()


async def _authenticator(app: web.Application) -> AsyncIterator[None]:
    settings = app[SETTINGS]
    async with (
        aiohttp.ClientSession() as session,
        KeySet(session, settings.jwks_url).running() as keys,
    ):
        app[AUTHENTICATOR] = Authenticator(
            keys, issuer=settings.auth_url, service_keys=settings.service_keys
        )
        yield


@contextlib.contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Meanwhile a module that is not loaded yet cannot be."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


async def _stripe(app: web.Application) -> AsyncIterator[None]:
    settings = app[SETTINGS]
    if settings.stripe is None:
        app[STRIPE] = None
        yield
    else:
        # Here, since it takes memory that a service without Stripe does not need. For calls that
        # block, which nobody makes here, Stripe's library loads `requests`: some 5 MB more.
        with _hidden("requests"):
            from service.stripe_gateway import StripeGateway

        async with StripeGateway.connected(settings.stripe) as gateway:
            app[STRIPE] = gateway
            yield


async def _notices(app: web.Application) -> AsyncIterator[None]:
    async with (
        aiohttp.ClientSession() as session,
        Sender(app[DB], session, app[SETTINGS]).running(),
    ):
        yield


async def _reconciliation(app: web.Application) -> AsyncIterator[None]:
    stripe = app[STRIPE]
    if stripe is None:
        yield
    else:
        async with Reconciler(app[DB], stripe, app[SETTINGS], app[METRICS]).running():
            yield


def create_metrics_app(app: web.Application) -> web.Application:
    """The metrics of an application alone, without a key: for METRICS_PORT."""

    async def get_metrics(_request: web.Request) -> web.Response:
        return await metrics.tell_metrics(app)

    made = web.Application()
    made.router.add_get("/metrics", get_metrics)
    return made
