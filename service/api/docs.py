"""The contract itself: for programs, and as a page for people."""

from typing import Any, Final

from aiohttp import web

from service.keys import PAGES
from service.pages import FILES, OPENAPI
from service.wire import Auth, Media, Routes

routes = Routes()

CACHE_CONTROL: Final = "public, max-age=60"
"""A new release is seen within a minute; until then, and after, the ETag saves the transfer."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@routes.get(
    "/openapi.json",
    auth=Auth.PUBLIC,
    answer=dict[str, Any],
    others={304: None},
    database=False,
)
async def get_openapi(request: web.Request) -> web.Response:
    """This document."""
    return _serve(request, OPENAPI)


@routes.get(
    "/docs",
    auth=Auth.PUBLIC,
    answer=Media(FILES["docs.html"]),
    others={304: None},
    database=False,
)
async def get_docs(request: web.Request) -> web.Response:
    """The page that shows this document."""
    return _serve(request, "docs.html")


@routes.get(
    "/docs/docs.css",
    auth=Auth.PUBLIC,
    answer=Media(FILES["docs.css"]),
    others={304: None},
    database=False,
)
async def get_docs_style(request: web.Request) -> web.Response:
    """How the page looks."""
    return _serve(request, "docs.css")


@routes.get(
    "/docs/docs.js",
    auth=Auth.PUBLIC,
    answer=Media(FILES["docs.js"]),
    others={304: None},
    database=False,
)
async def get_docs_script(request: web.Request) -> web.Response:
    """What fills the page."""
    return _serve(request, "docs.js")


def _serve(request: web.Request, name: str) -> web.Response:
    page = request.app[PAGES][name]
    headers = {
        "ETag": f'"{page.etag}"',
        "Cache-Control": CACHE_CONTROL,
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": POLICY,
        "Referrer-Policy": "no-referrer",
    }
    known = request.if_none_match or ()
    if any(etag.value in (page.etag, "*") for etag in known):
        return web.Response(status=304, headers=headers)
    return web.Response(body=page.body, headers={**headers, "Content-Type": page.type})
