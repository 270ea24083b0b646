"""The HTTP API against the model: users, services, an administrator and Stripe call it."""

import asyncio
import contextlib

import pytest
from aiohttp.test_utils import TestServer

from service.dev.postgres import Cluster
from tests.model.drivers import HttpDriver, StripeDouble, stock
from tests.model.rules import Machine, run
from tests.support.databases import Clone, as_settings, connect
from tests.support.paths import ENVIRONMENT, PATHS
from tests.support.running import running_service
from tests.support.stripe import SECRET_KEY, WEBHOOK_SECRET


@pytest.mark.parametrize("path", PATHS)
def test_the_api_does_what_the_model_does(database: Clone, cluster: Cluster, path: str) -> None:
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        try:
            stripe = runner.run(stack.enter_async_context(TestServer(StripeDouble().app)))
            settings = as_settings(
                cluster,
                database.name,
                STRIPE_SECRET_KEY=SECRET_KEY,
                STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET,
                STRIPE_API_BASE=str(stripe.make_url("")).rstrip("/"),
                # What a failure prints is long enough.
                LOG_LEVEL="error",
                **ENVIRONMENT[path],
            )
            service = runner.run(stack.enter_async_context(running_service(settings)))
            admin = runner.run(connect(database.admin_url))
            stack.push_async_callback(admin.close)
            packages = runner.run(stock(admin))
            driver = HttpDriver(runner, admin, service)
            # The paths share the examples, each with others.
            examples, seed = 20 // len(PATHS), 2 + 2 * (path == "batched")
            run(lambda: Machine(driver, packages), examples=examples, steps=30, seed=seed)
        finally:
            runner.run(stack.aclose())
