"""The application's own table of routes, so that no test has to remember a new one."""

import re

from service.app import create_app
from service.middleware import DECLARED
from service.settings import Settings
from service.wire import Auth


def declared_routes() -> dict[tuple[str, str], Auth]:
    """Method and path of every route, with what it declares; HEAD goes with its GET."""
    table = create_app(Settings.from_env({"MANA_ENV": "development"}))[DECLARED]
    return {
        (route.method, re.sub(r"\{(\w+)[^}]*\}", r"{\1}", route.resource.canonical)): auth
        for route, auth in table.items()
        if route.resource is not None and route.method != "HEAD"
    }
