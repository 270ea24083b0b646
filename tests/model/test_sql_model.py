"""The SQL functions against the model, as the service's login calls them."""

import asyncio

from tests.model.drivers import SqlDriver, stock
from tests.model.rules import Machine, run
from tests.support.databases import Clone, connect


def test_the_functions_do_what_the_model_does(database: Clone) -> None:
    with asyncio.Runner() as runner:
        admin = runner.run(connect(database.admin_url))
        login = runner.run(connect(database.service_url))
        try:
            packages = runner.run(stock(admin))
            driver = SqlDriver(runner, admin, login)
            run(lambda: Machine(driver, packages), examples=40, steps=30, seed=1)
        finally:
            runner.run(login.close())
            runner.run(admin.close())
