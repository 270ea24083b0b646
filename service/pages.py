"""What is served as it is: the OpenAPI document and the page that shows it. Made once, at start."""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec

from service.openapi import make_document
from service.paths import WEB
from service.settings import Settings
from service.wire import Route

OPENAPI: Final = "openapi.json"
FILES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "docs.html": "text/html; charset=utf-8",
        "docs.css": "text/css; charset=utf-8",
        "docs.js": "text/javascript; charset=utf-8",
    }
)
"""Every file that is served, with its type: a request cannot name another."""


@dataclass(frozen=True, slots=True)
class Page:
    """A body with its type and its strong ETag, without the quotes."""

    body: bytes
    type: str
    etag: str

    @classmethod
    def of(cls, body: bytes, type_: str) -> "Page":
        """The ETag follows from the body, so that every process says the same."""
        return cls(body, type_, hashlib.sha256(body).hexdigest()[:32])


def make_pages(routes: Sequence[Route], settings: Settings) -> Mapping[str, Page]:
    """The pages by name."""
    document = make_document(
        routes,
        base_url=settings.base_url,
        version=importlib.metadata.version("mana-credits"),
    )
    pages = {name: Page.of((WEB / name).read_bytes(), type_) for name, type_ in FILES.items()}
    pages[OPENAPI] = Page.of(msgspec.json.encode(document), "application/json")
    return MappingProxyType(pages)
