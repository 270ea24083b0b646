"""Typed keys of what the application and a request carry."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from service.auth import Authenticator
    from service.db import Database
    from service.draining import Drain
    from service.logs import WriteRequests
    from service.metrics import Metrics
    from service.pages import Page
    from service.settings import Settings
    from service.stripe_gateway import StripeGateway


@dataclass(frozen=True, slots=True)
class Caller:
    """The user a token speaks for."""

    user_id: str
    email: str | None
    email_verified: bool
    """Not false in the token: absent counts as verified, by the contract."""
    name: str | None
    """As the token has it; what is shown of it is cleaned where it is shown."""
    role: str


@dataclass(frozen=True, slots=True)
class ServiceCaller:
    """A service that knows the service key."""

    app_id: str | None
    """The name it gives itself in `X-App-Id`; not proven by anything."""


SETTINGS: "Final[web.AppKey[Settings]]" = web.AppKey("settings")
DB: "Final[web.AppKey[Database]]" = web.AppKey("db")
AUTHENTICATOR: "Final[web.AppKey[Authenticator]]" = web.AppKey("authenticator")
DRAIN: "Final[web.AppKey[Drain]]" = web.AppKey("drain")
METRICS: "Final[web.AppKey[Metrics]]" = web.AppKey("metrics")
PAGES: "Final[web.AppKey[Mapping[str, Page]]]" = web.AppKey("pages")
REQUEST_LOG: "Final[web.AppKey[WriteRequests]]" = web.AppKey("request_log")
STRIPE: "Final[web.AppKey[StripeGateway | None]]" = web.AppKey("stripe")
"""None where Stripe is not configured."""

CALLER: Final = web.RequestKey("caller", Caller)
SERVICE_CALLER: Final = web.RequestKey("service_caller", ServiceCaller)
