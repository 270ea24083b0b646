"""The application's own table of routes, so that no test has to remember a new one."""

from service.app import create_app
from service.settings import Settings
from service.wire import ROUTES, Auth


def declared_routes() -> dict[tuple[str, str], Auth]:
    """Method and path of every route, with what it declares; HEAD goes with its GET."""
    table = create_app(Settings.from_env({"MANA_ENV": "development"}))[ROUTES]
    return {(route.method, route.path): route.auth for route in table.values()}
