"""The processes that are measured, and what they are held against, and an issuer of tokens."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from service.dev import issuer
from service.dev.issuer import SigningKey
from service.dev.ports import accepts_connections, free_port
from service.dev.postgres import Cluster
from tests.bench.wrk import Caller
from tests.support.processes import bare_environment

SERVICE_KEY: Final = "a-service-key-of-the-benchmark"
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 45.0
_AS_IN_PRODUCTION: Final = (
    "import runpy, sys\n"
    # structlog loads them where they are, which takes 4 MB; linters and Playwright bring them.
    "sys.modules['rich'] = sys.modules['greenlet'] = None\n"
    "runpy.run_module('service', run_name='__main__', alter_sys=True)"
)
HISTORY_ROWS: Final = 90_100
"""Of user-deep: 1,802 pages."""
PAGE: Final = 50
DEEP_PAGE: Final = 1_800


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def forget_log(self) -> None:
        """Empty its log, which has a line a request."""
        os.truncate(self.log, 0)


@contextlib.contextmanager
def _serving(
    command: Sequence[str], port: int, log: Path, env: Mapping[str, str]
) -> Iterator[Server]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=log.parent,
            env={**bare_environment(), **env},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            # Ctrl-C in the terminal is for us, and we stop it.
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not accepts_connections(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} does not serve: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield Server(process, port, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


@dataclass(frozen=True, slots=True)
class Tokens:
    """An issuer that serves its key set, and where the tokens are."""

    url: str
    file: Path


@contextlib.contextmanager
def tokens(folder: Path, users: Sequence[str]) -> Iterator[Tokens]:
    """Serve an issuer; its tokens are for user-deep and then for these, valid for a day."""
    port = free_port()
    key_file = folder / "signing-key.json"
    key = SigningKey.load_or_create(key_file)
    url = f"http://localhost:{port}"
    file = folder / "tokens"
    with file.open("w") as lines:
        for user in ("user-deep", *users):
            lines.write(issuer.mint(key, sub=user, issuer=url, expires_in=86_400) + "\n")
    command = ["-m", "service.dev.issuer", "--port", str(port), "--key-file", str(key_file)]
    with _serving([*command, "--exit-with-parent"], port, folder / "issuer.log", {}):
        yield Tokens(url, file)


@contextlib.contextmanager
def service(
    cluster: Cluster,
    database: str,
    folder: Path,
    signed: Tokens,
    *,
    watch: Path | None = None,
    **env: str,
) -> Iterator[Server]:
    """Serve a database as in production; with `watch`, the event loop is watched (served.py)."""
    port = free_port()
    settings = {
        "MANA_ENV": "production",
        "LOG_LEVEL": "info",
        "PORT": str(port),
        "DATABASE_URL": cluster.service_url(database),
        "MANA_AUTH_URL": signed.url,
        "MANA_SERVICE_KEY": SERVICE_KEY,
        # It sells, which takes memory; nobody answers there.
        "STRIPE_SECRET_KEY": "sk_test_of_the_benchmark",
        "STRIPE_WEBHOOK_SECRET": "whsec_of_the_benchmark",
        "STRIPE_API_BASE": "https://127.0.0.1:1",
        **env,
    }
    command = ["-c", _AS_IN_PRODUCTION, "serve"]
    if watch is not None:
        command = ["-m", "tests.bench.served", str(watch)]
    with _serving(command, port, folder / f"{database}-{port}.log", settings) as server:
        yield server


def caller(server: Server, signed: Tokens, users: int) -> Caller:
    """Who calls a service whose users are user-1 to user-`users`."""
    before = HISTORY_ROWS - (DEEP_PAGE - 1) * PAGE + 1
    return Caller(server.port, users, SERVICE_KEY, signed.file, before)


@contextlib.contextmanager
def floor(
    cluster: Cluster, folder: Path, sizes: Sequence[int], usual: Sequence[int] = ()
) -> Iterator[Server]:
    """Serve the floor, with a pool of each of these sizes, and of each as asyncpg makes it."""
    port = free_port()
    url = cluster.admin_url("postgres")
    pools = [*(f"one:{size}" for size in sizes), *(f"usual:{size}" for size in usual)]
    command = ["-m", "tests.bench.floor", str(port), url, *pools]
    with _serving(command, port, folder / f"floor-{port}.log", {}) as server:
        yield server


@contextlib.contextmanager
def bare(cluster: Cluster, database: str, folder: Path) -> Iterator[Server]:
    """Serve a database with batches and nothing else (bare.py)."""
    port = free_port()
    command = ["-m", "tests.bench.bare", str(port), cluster.service_url(database)]
    with _serving(command, port, folder / f"bare-{port}.log", {}) as server:
        yield server


def watched(file: Path) -> dict[str, Any]:
    """What served.py wrote when it ended."""
    told: dict[str, Any] = json.loads(file.read_text())
    return told
