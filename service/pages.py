"""What is served as it is: the pages, their files, the OpenAPI document. Made once, at start.

A page is the shell of page.html with a script of its own, which fills it over the same REST API
as everybody's; nothing in it depends on who asks.
"""

import functools
import gzip
import hashlib
import html
import importlib.metadata
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

import msgspec

from service.openapi import make_document
from service.paths import WEB
from service.settings import Settings
from service.wire import Route

HTML: Final = "text/html; charset=utf-8"
SCRIPT: Final = "text/javascript; charset=utf-8"
OPENAPI: Final = "openapi.json"
TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        ".css": "text/css; charset=utf-8",
        ".js": SCRIPT,
        ".png": "image/png",
        ".svg": "image/svg+xml",
    }
)
"""By suffix, what is served from `assets/` and `client/`; nothing else there is."""

_IMPORT: Final = re.compile(r'^(?:import|export)\b[^;"]*"(\.{1,2}/[\w./-]+\.js)";', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Shown:
    """A page for people: the script that fills it, and what a search or a shared link shows.

    `path` is the page's one address. None: its addresses name something, and are neither said
    again by the page nor to be found by a search.
    """

    script: str
    title: str
    description: str
    path: str | None = None
    image: str | None = None


ACCOUNT: Final = "account"
PURCHASE: Final = "purchase"
SYNC: Final = "sync"
GIFTS: Final = "gifts"
GIFT: Final = "gift"
SUPPORT: Final = "support"

PAGES: Final[Mapping[str, Shown]] = MappingProxyType(
    {
        ACCOUNT: Shown("account.js", "Your credits", "Balance, history and top-up.", "/"),
        PURCHASE: Shown("purchase.js", "Your purchase", "How a purchase of credits stands."),
        SYNC: Shown("sync.js", "Cloud Sync", "Cloud Sync, paid with credits.", "/settings/sync"),
        GIFTS: Shown("gifts.js", "Gifts", "Give credits, and redeem gift codes.", "/gifts"),
        # Nothing of the gift itself: whoever fetches previews must not learn what it says.
        GIFT: Shown(
            "gift.js",
            "A gift of credits",
            "Somebody gives you credits. Open it.",
            image="gift.png",
        ),
        SUPPORT: Shown("support.js", "Support", "Accounts, and how billing is doing."),
    }
)


@dataclass(frozen=True, slots=True)
class Page:
    """A body, as it is and compressed, with its type and its ETag, without the quotes."""

    body: bytes
    gzipped: bytes
    type: str
    etag: str

    @classmethod
    def of(cls, body: bytes, type_: str) -> "Page":
        """All follows from the body, so that every process says the same."""
        etag = hashlib.sha256(body).hexdigest()[:32]
        return cls(body, gzip.compress(body, 9, mtime=0), type_, etag)


def make_pages(routes: Sequence[Route], settings: Settings) -> Mapping[str, Page]:
    """Everything by its name: `openapi.json`, `docs`, those of PAGES, `assets/…`, `client/…`."""
    document = make_document(
        routes,
        base_url=settings.base_url,
        version=importlib.metadata.version("mana-credits"),
    )
    made = {
        OPENAPI: Page.of(msgspec.json.encode(document), "application/json"),
        "docs": Page.of((WEB / "docs.html").read_bytes(), HTML),
    }
    for file in web_files():
        made[file.relative_to(WEB).as_posix()] = Page.of(file.read_bytes(), TYPES[file.suffix])
    shell = string.Template((WEB / "page.html").read_text())
    for name, shown in PAGES.items():
        made[name] = Page.of(_fill(shell, shown, settings).encode(), HTML)
    return MappingProxyType(made)


def web_files() -> Iterator[Path]:
    """Every file that is served under its own name."""
    for folder in ("assets", "client"):
        for file in sorted((WEB / folder).iterdir()):
            if file.suffix in TYPES:
                yield file


def policy(settings: Settings) -> str:
    """The Content-Security-Policy: nothing but our own files, our API and the auth service."""
    auth = urlsplit(settings.auth_url)
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self' {auth.scheme}://{auth.netloc}; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _fill(shell: string.Template, shown: Shown, settings: Settings) -> str:
    base = urlsplit(settings.base_url).path
    preloads = "\n".join(
        f'  <link rel="modulepreload" href="{base}/{name}">' for name in _imports(shown.script)
    )
    return shell.substitute(
        {
            "base": html.escape(base),
            "auth_url": html.escape(settings.auth_url.rstrip("/")),
            "login_url": html.escape(settings.login_url or ""),
            "title": html.escape(shown.title),
            "description": html.escape(shown.description),
            "preview": _preview(shown, settings.base_url),
            "script": shown.script,
            "preloads": preloads,
        }
    )


def _preview(shown: Shown, base_url: str) -> str:
    """What of a shared link's preview has an address, which has to be whole there."""
    said = {"twitter:card": "summary"}
    if shown.path is None:
        said["robots"] = "noindex"
    else:
        said["og:url"] = base_url + shown.path
    if shown.image is not None:
        said |= {
            "og:image": f"{base_url}/assets/{shown.image}",
            "og:image:type": TYPES[Path(shown.image).suffix],
            "og:image:width": "1200",
            "og:image:height": "630",
            "og:image:alt": shown.title,
            "twitter:card": "summary_large_image",
        }
    return "\n".join(
        f'  <meta {"property" if name.startswith("og:") else "name"}="{name}"'
        f' content="{html.escape(value)}">'
        for name, value in said.items()
    )


@functools.cache
def _imports(script: str) -> Sequence[str]:
    """Every module that a script needs before it begins, so that they are fetched side by side."""
    found: dict[Path, None] = {}
    waiting = [WEB / "assets" / script]
    while waiting:
        file = waiting.pop(0)
        for path in _IMPORT.findall(file.read_text()):
            imported = (file.parent / path).resolve()
            if imported not in found:
                found[imported] = None
                waiting.append(imported)
    return tuple(file.relative_to(WEB).as_posix() for file in found)
