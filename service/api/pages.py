"""The pages for people, the files they are made of, and the contract for programs."""

import re
from typing import Any, Final

from aiohttp import web

from service import pages
from service.errors import not_found
from service.keys import PAGES, SETTINGS
from service.pages import HTML, OPENAPI
from service.wire import Auth, Declared, Media, Routes

routes = Routes()

CACHE_CONTROL: Final = "public, max-age=60"
"""A new release is seen within a minute; until then, and after, the ETag saves the transfer."""
_NO_WEIGHT: Final = re.compile(r"\s*q=0(\.0*)?\s*")
# A page shows nothing by itself: what it shows, its script asks the API for, with a token.
_PAGE: Final[Declared] = {"answer": Media(HTML), "others": {304: None}, "database": False}
_FILE: Final[Declared] = {"answer": Media("*/*"), "others": {304: None}, "database": False}


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


@routes.get("/docs", auth=Auth.PUBLIC, **_PAGE)
async def get_docs(request: web.Request) -> web.Response:
    """The page that shows this document."""
    return _serve(request, "docs")


@routes.get("/", auth=Auth.PUBLIC, **_PAGE)
async def show_account(request: web.Request) -> web.Response:
    """The page with balance, history, usage and top-up."""
    return _serve(request, pages.ACCOUNT)


@routes.get("/purchases/{purchaseId}", auth=Auth.PUBLIC, **_PAGE)
async def show_purchase(request: web.Request) -> web.Response:
    """The page that follows a purchase until it is done; any id is shown, and then looked up."""
    return _serve(request, pages.PURCHASE)


@routes.get("/settings/sync", auth=Auth.PUBLIC, **_PAGE)
async def show_sync(request: web.Request) -> web.Response:
    """The page with the settings of Cloud Sync."""
    return _serve(request, pages.SYNC)


@routes.get("/gifts", auth=Auth.PUBLIC, **_PAGE)
async def show_gifts(request: web.Request) -> web.Response:
    """The page to give credits and to redeem codes."""
    return _serve(request, pages.GIFTS)


@routes.get("/g/{code}", auth=Auth.PUBLIC, **_PAGE)
async def show_gift(request: web.Request) -> web.Response:
    """The page that a gift link opens; any code is shown, and then looked up."""
    return _serve(request, pages.GIFT)


@routes.get("/admin", auth=Auth.PUBLIC, **_PAGE)
async def show_support(request: web.Request) -> web.Response:
    """The page for support: how billing is doing, and the search for a user."""
    return _serve(request, pages.SUPPORT)


@routes.get("/admin/users/{userId}", auth=Auth.PUBLIC, **_PAGE)
async def show_support_user(request: web.Request) -> web.Response:
    """The page for support about one user; any id is shown, and then looked up."""
    return _serve(request, pages.SUPPORT)


@routes.get("/assets/{file}", auth=Auth.PUBLIC, **_FILE)
async def get_asset(request: web.Request) -> web.Response:
    """A style, script or picture of the pages."""
    return _serve(request, f"assets/{request.match_info['file']}")


@routes.get("/client/{file}", auth=Auth.PUBLIC, **_FILE)
async def get_client_module(request: web.Request) -> web.Response:
    """A module for the apps, to be imported by browsers from the origins of `CORS_ORIGINS`."""
    return _serve(request, f"client/{request.match_info['file']}")


def _serve(request: web.Request, name: str) -> web.Response:
    page = request.app[PAGES].get(name)
    if page is None:
        raise not_found()
    gzipped = _takes_gzip(request)
    etag = f"{page.etag}-gzip" if gzipped else page.etag
    headers = {
        "ETag": f'"{etag}"',
        "Vary": "Accept-Encoding",
        "Cache-Control": CACHE_CONTROL,
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": pages.policy(request.app[SETTINGS]),
        # Gift codes and user ids stand in addresses.
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    known = request.if_none_match or ()
    if any(seen.value in (etag, "*") for seen in known):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = page.type
    if gzipped:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=page.gzipped if gzipped else page.body, headers=headers)


def _takes_gzip(request: web.Request) -> bool:
    """Whether it is named, and not with a weight of 0 (RFC 9110, 12.5.3)."""
    for coding in request.headers.get("Accept-Encoding", "").split(","):
        name, _, weight = coding.partition(";")
        if name.strip().lower() == "gzip":
            return _NO_WEIGHT.fullmatch(weight) is None
    return False
