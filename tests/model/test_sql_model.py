"""The SQL functions against the model, as the service's login calls them."""

import asyncio

import pytest

from tests.model.drivers import BatchDriver, SqlDriver, stock
from tests.model.rules import Machine, run
from tests.support.databases import Clone, connect
from tests.support.paths import PATHS


@pytest.mark.parametrize("path", PATHS)
def test_the_functions_do_what_the_model_does(database: Clone, path: str) -> None:
    with asyncio.Runner() as runner:
        admin = runner.run(connect(database.admin_url))
        login = runner.run(connect(database.service_url))
        try:
            packages = runner.run(stock(admin))
            driver = (BatchDriver if path == "batched" else SqlDriver)(runner, admin, login)
            # The paths share the examples, each with others.
            examples, seed = 40 // len(PATHS), 1 + 2 * (path == "batched")
            run(lambda: Machine(driver, packages), examples=examples, steps=30, seed=seed)
        finally:
            runner.run(login.close())
            runner.run(admin.close())
