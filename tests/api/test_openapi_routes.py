"""The OpenAPI document has the routes that the service has, both ways."""

import re

from tests.support.routes import declared_routes
from tests.support.running import Running

METHODS = {"get", "post", "delete", "put", "patch"}


async def test_the_document_and_the_routes_are_the_same(service: Running) -> None:
    async with service.session.get(f"{service.url}/openapi.json") as answer:
        assert answer.status == 200
        document = await answer.json()
    told = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method in METHODS
    }
    assert told == set(declared_routes())
    # Every parameter of a path is described.
    for path, item in document["paths"].items():
        for method in METHODS & item.keys():
            described = {
                parameter["name"]
                for parameter in [*item.get("parameters", ()), *item[method].get("parameters", ())]
                if parameter["in"] == "path"
            }
            assert described == set(re.findall(r"\{(\w+)\}", path)), (method, path)
