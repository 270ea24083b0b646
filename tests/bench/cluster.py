"""A PostgreSQL of the benchmark's own, which is as safe as one in production."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from service.dev.postgres import Cluster
from service.migrate import migrate
from tests.support.databases import as_settings

SAFE: Final = ("fsync", "full_page_writes", "synchronous_commit")
SETTINGS: Final = {
    **dict.fromkeys(SAFE, "on"),
    # For a machine of 4 GB and more. No checkpoint falls into a run of some seconds, but the
    # long ones have theirs.
    "shared_buffers": "1GB",
    "effective_cache_size": "3GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "maintenance_work_mem": "256MB",
    "random_page_cost": "1.1",
    "track_functions": "none",
    "jit": "off",
}


@contextlib.contextmanager
def durable_cluster(parent: Path, settings: Mapping[str, str] = SETTINGS) -> Iterator[Cluster]:
    """Run a durable cluster in a new folder below `parent`; both are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="mana-credits-bench-", dir=parent))
    cluster = Cluster(folder, settings=settings)
    try:
        cluster.ensure_started()
        yield cluster
    finally:
        cluster.destroy()
        shutil.rmtree(folder, ignore_errors=True)


def connect(cluster: Cluster, name: str) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection as superuser that commits each statement."""
    return psycopg.connect(cluster.admin_url(name), autocommit=True)


def make_database(cluster: Cluster, name: str) -> None:
    """Make a migrated database."""
    cluster.ensure_database(name)
    migrate(as_settings(cluster, name))


@contextlib.contextmanager
def cloned(cluster: Cluster, template: str, name: str) -> Iterator[str]:
    """A copy of a database to which nobody is connected; it is dropped afterwards."""
    with connect(cluster, "postgres") as server:
        made = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        server.execute(made.format(sql.Identifier(name), sql.Identifier(template)))
        # What the copying has left to write must not fall into what is measured.
        server.execute("CHECKPOINT")
    try:
        yield name
    finally:
        drop(cluster, name)


def drop(cluster: Cluster, name: str) -> None:
    """Drop a database and whoever is connected to it."""
    with connect(cluster, "postgres") as server:
        dropped = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        server.execute(dropped.format(sql.Identifier(name)))


def require_safe(cluster: Cluster) -> dict[str, str]:
    """What the server says of the settings above; raises RuntimeError where one is not on."""
    with connect(cluster, "postgres") as server:
        rows = server.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY (%s)",
            [list(SETTINGS)],
        )
        found: dict[str, str] = dict(rows.fetchall())
        version = server.execute("SHOW server_version").fetchone()
    for name in SAFE:
        if found[name] != "on":
            raise RuntimeError(f"{name} is {found[name]}")
    return {"server_version": str(version[0]) if version else "?", **found}


def connections(cluster: Cluster, name: str) -> int:
    """How many connections of the service the database has now."""
    with connect(cluster, "postgres") as server:
        row = server.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = %s AND application_name = 'mana-credits'",
            [name],
        ).fetchone()
    return int(row[0]) if row else 0
