"""Frozen settings, read from the environment once at the start.

The names, defaults and rules are those of the README's table. An empty value counts as not
set, because compose files pass unset variables on as empty ones.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

DEVELOPMENT_SERVICE_KEY: Final = "dev-service-key"
DEVELOPMENT_DATABASE_URL: Final = "postgresql://mana:devpassword@localhost:5432/mana_credits"

POOL: Final = 10
POOL_MIN: Final = 4
"""Of one process among many: so that a charge run and the background tasks hold up no debit."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


class SettingsError(Exception):
    """A setting is missing or malformed: one line that names it, without its value."""


@dataclass(frozen=True, slots=True)
class StripeSettings:
    """What talking to Stripe needs; there are either both secrets or no Stripe at all."""

    secret_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    api_base: str | None
    """Another address than Stripe's own, for a local Stripe."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the environment decides. What holds a secret is left out of `repr`."""

    env: Literal["development", "production"]
    port: int
    database_url: str = field(repr=False)
    admin_database_url: str | None = field(repr=False)
    listen_database_url: str = field(repr=False)
    cron_database: str
    database_pool_max: int
    database_statement_cache: int | None
    """None: as many as `service.db` keeps by itself, which are none behind a pooler."""
    database_batch_min: int
    database_batch_max: int
    auth_url: str
    jwks_url: str
    service_keys: tuple[str, ...] = field(repr=False)
    notify_url: str | None
    base_url: str
    stripe: StripeSettings | None
    cors_origins: tuple[str, ...]
    trusted_proxies: tuple[Network, ...]
    log_level: str
    metrics_port: int | None
    login_url: str | None

    @property
    def production(self) -> bool:
        """Whether the rules for production hold."""
        return self.env == "production"

    @property
    def base_origin(self) -> str:
        """The origin of `BASE_URL`: scheme, host and port, as browsers write it."""
        return _origin_of(urlsplit(self.base_url))

    @property
    def connections(self) -> int:
        """Connections of one process at most: its pool, and one for each channel it listens on."""
        return self.database_pool_max + (1 if self.stripe is None else 2)

    def require_admin_database_url(self) -> str:
        """`ADMIN_DATABASE_URL`; raises SettingsError where it is needed and missing."""
        if self.admin_database_url is None:
            raise SettingsError("ADMIN_DATABASE_URL is required for this command")
        return self.admin_database_url

    def secrets(self) -> tuple[str, ...]:
        """Every value that must never appear in a log: keys, and the passwords in the addresses."""
        found = [*self.service_keys]
        if self.stripe is not None:
            found += [self.stripe.secret_key, self.stripe.webhook_secret]
        for url in (self.database_url, self.admin_database_url, self.listen_database_url):
            if url is None:
                continue
            parts = urlsplit(url)
            for password in (parts.password, *parse_qs(parts.query).get("password", ())):
                if password:
                    found += [password, unquote(password)]
        return tuple(dict.fromkeys(found))

    @classmethod
    def from_env(cls, env: Mapping[str, str], *, workers: int = 1) -> "Settings":
        """Read the settings; raises SettingsError for the first that is missing or malformed.

        `workers`: how many processes share the port, by which the size of a pool is chosen.
        """
        read = _Reader(env)
        mode = read.text("MANA_ENV") or "production"
        if mode not in ("development", "production"):
            raise SettingsError("MANA_ENV must be development or production")
        production = mode == "production"

        database_url = read.database("DATABASE_URL")
        if database_url is None:
            if production:
                raise SettingsError("DATABASE_URL is required in production")
            database_url = DEVELOPMENT_DATABASE_URL
        admin_database_url = read.database("ADMIN_DATABASE_URL")
        if admin_database_url is None and not production:
            admin_database_url = database_url

        auth_url = read.url("MANA_AUTH_URL")
        if auth_url is None:
            if production:
                raise SettingsError("MANA_AUTH_URL is required in production")
            auth_url = "http://localhost:3001"

        port = read.number("PORT", 3061, 1, 65535)
        metrics_port = read.number("METRICS_PORT", 0, 1, 65535) or None
        if metrics_port == port:
            raise SettingsError("METRICS_PORT must be another port than PORT")

        return cls(
            env="production" if production else "development",
            port=port,
            database_url=database_url,
            admin_database_url=admin_database_url,
            listen_database_url=read.database("LISTEN_DATABASE_URL") or database_url,
            cron_database=read.text("CRON_DATABASE") or "postgres",
            database_pool_max=read.number("DATABASE_POOL_MAX", pool_share(workers), 1, 1000),
            database_statement_cache=(
                None
                if read.text("DATABASE_STATEMENT_CACHE") is None
                else read.number("DATABASE_STATEMENT_CACHE", 0, 0, 10_000)
            ),
            database_batch_min=read.number("DATABASE_BATCH_MIN", 2, 1, 64),
            database_batch_max=read.number("DATABASE_BATCH_MAX", 64, 1, 64),
            auth_url=auth_url,
            jwks_url=read.url("JWKS_URL") or f"{auth_url.rstrip('/')}/api/auth/jwks",
            service_keys=read.service_keys(production),
            notify_url=_without_slash(read.url("MANA_NOTIFY_URL")),
            base_url=_without_slash(read.url("BASE_URL")) or "http://localhost:3061",
            stripe=read.stripe(),
            cors_origins=read.origins(
                "CORS_ORIGINS", ("http://localhost:5173", "http://localhost:5180")
            ),
            trusted_proxies=read.networks("TRUSTED_PROXIES"),
            log_level=read.log_level("LOG_LEVEL"),
            metrics_port=metrics_port,
            login_url=read.url("MANA_LOGIN_URL"),
        )


def pool_share(workers: int) -> int:
    """The pool of each of several processes on one machine, where none was chosen.

    Together they get little more than one process: the database has no more cores for it.
    """
    return POOL if workers == 1 else max(2 * POOL // workers, POOL_MIN)


class _Reader:
    """The environment, one parser a kind of value; errors name the setting, never its value."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def text(self, name: str) -> str | None:
        value = self._env.get(name, "").strip()
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise SettingsError(f"{name} must not contain control characters")
        return value or None

    def items(self, name: str) -> list[str]:
        return [item.strip() for item in (self.text(name) or "").split(",") if item.strip()]

    def number(self, name: str, default: int, low: int, high: int) -> int:
        value = self.text(name)
        if value is None:
            return default
        if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
            raise SettingsError(f"{name} must be a whole number from {low} to {high}")
        return int(value)

    def url(self, name: str) -> str | None:
        value = self.text(name)
        if value is None:
            return None
        parts = _split(value)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(f"{name} must be an http or https address")
        if parts.query or parts.fragment or re.search(r"\s", value):
            raise SettingsError(f"{name} must be an address without a query")
        if parts.username is not None:
            raise SettingsError(f"{name} must not contain a user or a password")
        return value

    def database(self, name: str) -> str | None:
        value = self.text(name)
        if value is None:
            return None
        parts = _split(value)
        if parts is None or parts.scheme not in ("postgresql", "postgres"):
            raise SettingsError(
                f"{name} must be an address like postgresql://user:…@host:5432/name"
            )
        return value

    def service_keys(self, production: bool) -> tuple[str, ...]:
        keys = self.items("MANA_SERVICE_KEY")
        if not keys:
            if self.text("MANA_SERVICE_KEY") is not None:
                raise SettingsError("MANA_SERVICE_KEY must hold at least one key")
            if production:
                raise SettingsError("MANA_SERVICE_KEY is required in production")
            keys = [DEVELOPMENT_SERVICE_KEY]
        # A header carries nothing else, so another key could never be matched.
        if not all(re.fullmatch(r"[\x21-\x7e]+", key) for key in keys):
            raise SettingsError("MANA_SERVICE_KEY must be printable ASCII without white space")
        if production and DEVELOPMENT_SERVICE_KEY in keys:
            raise SettingsError("MANA_SERVICE_KEY must not be the development key in production")
        return tuple(keys)

    def stripe(self) -> StripeSettings | None:
        secret_key, webhook_secret = (
            self.text("STRIPE_SECRET_KEY"),
            self.text("STRIPE_WEBHOOK_SECRET"),
        )
        api_base = _without_slash(self.url("STRIPE_API_BASE"))
        if secret_key is None and webhook_secret is None:
            return None
        # With only one of them, buyers could pay and never be credited.
        if secret_key is None:
            raise SettingsError("STRIPE_SECRET_KEY is required beside STRIPE_WEBHOOK_SECRET")
        if webhook_secret is None:
            raise SettingsError("STRIPE_WEBHOOK_SECRET is required beside STRIPE_SECRET_KEY")
        return StripeSettings(secret_key, webhook_secret, api_base)

    def origins(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        items = self.items(name)
        if not items:
            return default
        found: list[str] = []
        for item in items:
            if item == "*":
                raise SettingsError(f"{name} must name each origin: * is refused")
            match = _ORIGIN.fullmatch(item.lower())
            if match is None or int(match["port"] or 1) not in range(1, 65536):
                raise SettingsError(f"{name} must be origins like https://app.example.org")
            found.append(_origin_of(urlsplit(item.lower())))
        return tuple(dict.fromkeys(found))

    def networks(self, name: str) -> tuple[Network, ...]:
        try:
            return tuple(ipaddress.ip_network(item) for item in self.items(name))
        except ValueError:
            raise SettingsError(
                f"{name} must be networks like 10.0.0.0/8, separated by commas"
            ) from None

    def log_level(self, name: str) -> str:
        value = (self.text(name) or "info").lower()
        if value not in _LOG_LEVELS:
            raise SettingsError(f"{name} must be one of {', '.join(_LOG_LEVELS)}")
        return value


def _split(value: str) -> SplitResult | None:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        return None
    return parts


def _without_slash(value: str | None) -> str | None:
    return None if value is None else value.rstrip("/")


def _origin_of(parts: SplitResult) -> str:
    # Browsers leave a scheme's own port out of the Origin header.
    port = "" if parts.port is None else str(parts.port)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    shown = "" if port in ("", _DEFAULT_PORTS.get(parts.scheme)) else f":{port}"
    return f"{parts.scheme}://{host}{shown}"
