"""Databases of the tests, and connections to them."""

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from service.db import set_json_codecs
from service.dev.postgres import Cluster
from service.settings import Settings
from tests.support.paths import ENVIRONMENT, PATH
from tests.support.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:  # asyncpg's classes take no parameters when they run
    Connection = asyncpg.Connection


@dataclass(frozen=True, slots=True)
class Clone:
    """A database that belongs to one test."""

    name: str
    admin_url: str
    service_url: str


def as_environment(cluster: Cluster, name: str, **env: str) -> dict[str, str]:
    """The environment of a service on a database of the cluster, and what `env` adds to it."""
    return {
        "MANA_ENV": "development",
        "DATABASE_URL": cluster.service_url(name),
        "ADMIN_DATABASE_URL": cluster.admin_url(name),
        # So that each call can come from an address of its own; see Running.call.
        "TRUSTED_PROXIES": "127.0.0.0/8",
        **ENVIRONMENT[PATH],
        **env,
    }


def as_settings(cluster: Cluster, name: str, **env: str) -> Settings:
    """Settings for a database of the cluster; `env` adds to the environment they are read from."""
    return Settings.from_env(as_environment(cluster, name, **env))


async def connect(url: str, **server_settings: str) -> Connection:
    """A connection with jsonb as Python values; `server_settings` such as timezone."""
    connection: Connection = await asyncpg.connect(
        url, server_settings=server_settings, command_timeout=PATIENCE_SECONDS
    )
    await set_json_codecs(connection)
    return connection


def detail(error: asyncpg.PostgresError) -> dict[str, Any]:
    """The facts in an error of class MC."""
    facts: dict[str, Any] = json.loads(error.detail or "{}")
    return facts


def quick_verifier(password: str) -> str:
    """What `ALTER ROLE … PASSWORD` keeps of a password, of one round instead of 4,096 (RFC 5802).

    The rounds make a connection take twice as long, and a run of the tests makes thousands. What
    the passwords guard is a database of the tests, on loopback.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations=1)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    said = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return "SCRAM-SHA-256$1:{}${}:{}".format(*said)
