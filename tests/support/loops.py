"""How long the service's event loop is held up, by what: `python -m tests.support.loops`.

It serves in this process's main thread, asks from another one, and tells of each request the
longest turn of the loop, in milliseconds of this thread's own CPU and of the clock. The CPU's are
the service's; the clock's are also those of whatever else this machine does. A turn beyond the
bound is told with where it was. `--only TEXT` asks for some alone, `--rows N` is how long one
user's ledger is. With wrk (a package of Debian's) it asks for some of it under load as well.
"""

import argparse
import asyncio
import contextlib
import gc
import http.client
import json
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from aiohttp.test_utils import TestServer

from service import logs
from service.app import create_app
from service.dev import issuer
from service.dev.issuer import SigningKey
from service.dev.postgres import Cluster, temporary_cluster
from service.migrate import migrate
from service.settings import Settings
from tests.support.databases import Connection, as_settings, connect
from tests.support.running import AsServed

BOUND_SECONDS = 0.050
LOOK_SECONDS = 0.002
DATABASE = "loops"
BESIDE_LOAD = ("/metrics", "/openapi.json", "history of carl", "export of carl", "notices")


@dataclass
class Turns:
    """The longest turns since the last reset, in seconds."""

    cpu: float = 0.0
    wall: float = 0.0
    began: float | None = None
    """When the turn began that is under way."""
    seen: list[str] = field(default_factory=list)
    """Where the loop was, each time it was looked at beyond the bound."""

    def reset(self) -> None:
        """Begin anew."""
        self.cpu = self.wall = 0.0
        self.seen.clear()


@contextlib.contextmanager
def watched() -> Iterator[Turns]:
    """Measure every callback that an event loop of this thread runs."""
    turns = Turns()
    thread = threading.get_ident()
    original: Callable[[asyncio.Handle], None] = vars(asyncio.Handle)["_run"]

    def run(handle: asyncio.Handle) -> None:
        if threading.get_ident() != thread:
            original(handle)
            return
        cpu, wall = time.thread_time(), time.perf_counter()
        turns.began = wall
        try:
            original(handle)
        finally:
            turns.began = None
            turns.cpu = max(turns.cpu, time.thread_time() - cpu)
            turns.wall = max(turns.wall, time.perf_counter() - wall)

    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            began = turns.began
            if began is not None and time.perf_counter() - began > BOUND_SECONDS:
                frame = sys._current_frames().get(thread)
                stack = traceback.extract_stack(frame)[-4:]
                where = " < ".join(f"{each.name}:{each.lineno}" for each in reversed(stack))
                if where not in turns.seen:
                    turns.seen.append(where)

    watcher = threading.Thread(target=look, daemon=True)
    setattr(asyncio.Handle, "_run", run)  # noqa: B010 - there is no other way to see every turn
    watcher.start()
    try:
        yield turns
    finally:
        over.set()
        watcher.join()
        setattr(asyncio.Handle, "_run", original)  # noqa: B010


@dataclass(frozen=True)
class Asked:
    """One request of the list."""

    name: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


def ask(url: str, asked: Asked) -> tuple[int, int]:
    """Ask, in a thread; the status, and how many bytes came."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
    try:
        connection.request(asked.method, asked.path, asked.body, dict(asked.headers))
        answer = connection.getresponse()
        size = 0
        while chunk := answer.read(1 << 20):
            size += len(chunk)
        return answer.status, size
    finally:
        connection.close()


async def fill(admin: Connection, rows: int) -> None:
    """Give users what is long: ann `rows` moves, bob 600 with all the metadata there can be."""
    await admin.execute("SELECT FROM credits.grant_credits($1, 900000000, 'loops', 'r')", "ann")
    await admin.execute("SELECT FROM credits.grant_credits($1, 900000000, 'loops', 'r')", "bob")
    await admin.execute("SELECT FROM credits.grant_credits($1, 900000000, 'loops', 'r')", "carl")
    use = (
        "SELECT count(*) FROM generate_series(1, $1) AS n CROSS JOIN LATERAL"
        " credits.use_credits(p_user_id => $2, p_amount => 1, p_app_id => 'app',"
        " p_description => 'A long conversation, the ' || n, p_id => gen_random_uuid(),"
        " p_metadata => $3) AS m"
    )
    # Few at once: each finds the balance among the versions that the others of its statement left.
    for _ in range(rows // 500):
        await admin.execute(use, 500, "ann", {"model": "large", "tokens": 1234})
    many = {f"k{number:04}": number for number in range(1200)}
    await admin.execute(use, 600, "bob", many)
    await admin.execute(use, 600, "carl", {"text": "x" * 16_000})
    await admin.execute(
        "INSERT INTO credits.notices (user_id, id, kind, state, data, next_attempt_at, created_at)"
        " SELECT 'ann', gen_random_uuid(), 'charge_coming', 'failed',"
        ' \'{"price": 30, "available": 3}\', NULL, now() FROM generate_series(1, 600)'
    )


def requests(settings: Settings, key: SigningKey) -> Iterator[Asked]:
    """What is asked."""

    def user(name: str, /, **claims: Any) -> dict[str, str]:
        token = issuer.mint(key, sub=name, issuer=settings.auth_url, **claims)
        return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    service = {"X-Service-Key": settings.service_keys[0], "Content-Type": "application/json"}
    admin = user("root", role="admin", name="Root")
    for path in ("/", "/docs", "/openapi.json", "/metrics", "/health/ready"):
        yield Asked(path, "GET", path, service)
        yield Asked(f"{path} gzip", "GET", path, {**service, "Accept-Encoding": "gzip"})
    yield Asked("first token", "GET", "/api/v1/credits/balance", user("ann"))
    yield Asked("debit", "POST", "/api/v1/credits/use", user("ann"), _debit({"model": "x"}))
    for name in ("ann", "bob", "carl"):
        path = "/api/v1/credits/transactions?limit=500"
        yield Asked(f"history of {name}", "GET", path, user(name))
        path = f"/api/v1/admin/users/{name}/transactions?limit=500"
        yield Asked(f"support's history of {name}", "GET", path, admin)
    yield Asked("notices", "GET", "/api/v1/admin/notices?limit=500", admin)
    yield Asked("overview", "GET", "/api/v1/admin/overview?days=366", admin)
    yield Asked("usage", "GET", "/api/v1/credits/usage?days=366", user("ann"))
    size = 64 * 1024 - 200
    bodies = {
        "numbers": b'{"a":[' + b",".join([b"0"] * (size // 2)) + b"]}",
        "texts": b'{"a":[' + b",".join([b'""'] * (size // 3)) + b"]}",
        "lists": b'{"a":[' + b",".join([b"[]"] * (size // 3)) + b"]}",
        "names": b"{" + b",".join(b'"%x":0' % n for n in range(size // 8)) + b"}",
        "one text": b'{"a":"' + b"x" * size + b'"}',
        "a surrogate": b'{"a":"' + b"\\ud800" + b"x" * size + b'"}',
    }
    for kind, metadata in bodies.items():
        path = "/api/v1/credits/use"
        yield Asked(f"body of {kind}", "POST", path, user("ann"), _with_metadata(metadata))
    wide = b"{" + b",".join(b'"%x":0' % n for n in range(size // 8)) + b"}"
    yield Asked("unknown fields", "POST", "/api/v1/credits/use", user("ann"), wide)
    ids = json.dumps({"ids": [str(uuid4()) for _ in range(500)]}).encode()
    yield Asked("500 ids", "POST", "/api/v1/admin/notices/retry", admin, ids)
    yield Asked("check of the ledger", "GET", "/api/v1/admin/overview", admin)
    for name in ("ann", "bob", "carl"):
        yield Asked(f"export of {name}", "GET", f"/api/v1/internal/users/{name}/export", service)
    yield Asked("charge", "POST", "/api/v1/internal/sync/charge-recurring", service, b"{}")
    for name in ("ann", "bob"):
        yield Asked(f"erase {name}", "DELETE", f"/api/v1/internal/users/{name}", service)


def _debit(metadata: object) -> bytes:
    return _with_metadata(json.dumps(metadata).encode())


def _with_metadata(metadata: bytes) -> bytes:
    return b'{"amount":1,"appId":"app","description":"x","metadata":' + metadata + b"}"


async def measure(cluster: Cluster, rows: int, only: str, times: int) -> bool:
    """Print a line for each request; whether none was beyond the bound."""
    key = SigningKey.generate()
    admin = await connect(cluster.admin_url(DATABASE))
    await fill(admin, rows)
    await admin.execute("VACUUM ANALYZE")
    await admin.close()
    well = True
    wrk = shutil.which("wrk")
    async with TestServer(issuer.create_app(key)) as auth:
        url = str(auth.make_url("")).rstrip("/")
        settings = replace(
            as_settings(cluster, DATABASE), auth_url=url, jwks_url=f"{url}/api/auth/jwks"
        )
        with watched() as turns:
            async with AsServed(create_app(settings)) as server:
                address = str(server.make_url("")).rstrip("/")
                gc.collect()
                gc.freeze()  # as `serve` does
                for asked in requests(settings, key):
                    if only not in asked.name:
                        continue
                    found: list[tuple[float, float]] = []
                    where: list[str] = []
                    for _ in range(times):
                        gc.collect()
                        await asyncio.sleep(0)  # a turn of our own ends
                        turns.reset()
                        status, size = await asyncio.to_thread(ask, address, asked)
                        found.append((turns.cpu, turns.wall))
                        where += [each for each in turns.seen if each not in where]
                    # The quickest of several: what others did meanwhile is not the service's.
                    cpu, wall = min(cpu for cpu, _ in found), min(wall for _, wall in found)
                    well = well and cpu <= BOUND_SECONDS
                    mark = "  beyond the bound" if cpu > BOUND_SECONDS else ""
                    print(
                        f"{asked.name:32} cpu {cpu * 1e3:7.1f}  wall {wall * 1e3:7.1f}"
                        f"  {status} {size / 1e6:8.2f} MB{mark}"
                    )
                    if mark:
                        for each in where[:8]:
                            print(f"    {each}")
                if wrk is not None and only in "load":
                    well = await under_load(address, turns, settings, key, wrk) and well
    return well


async def under_load(
    address: str, turns: Turns, settings: Settings, key: SigningKey, wrk: str
) -> bool:
    """Ask for what is long while 32 connections read balances, with a garbage collector at work."""
    turns.reset()
    header = f"X-Service-Key: {settings.service_keys[0]}"
    path = f"{address}/api/v1/internal/credits/balance/carl"
    loading = await asyncio.create_subprocess_exec(
        *(wrk, "--threads=1", "--connections=32", "--duration=10s", f"--header={header}", path),
        stdout=asyncio.subprocess.PIPE,
    )
    long = [each for each in requests(settings, key) if each.name in BESIDE_LOAD]
    while loading.returncode is None:
        for asked in long:
            await asyncio.to_thread(ask, address, asked)
        await asyncio.sleep(0.05)
    told, _ = await loading.communicate()
    (rate,) = [line.split()[1] for line in told.decode().splitlines() if "Requests/sec" in line]
    cpu, wall = turns.cpu, turns.wall
    print(f"{'load':32} cpu {cpu * 1e3:7.1f}  wall {wall * 1e3:7.1f}  {rate} balances a second")
    if cpu > BOUND_SECONDS:
        for each in turns.seen[:8]:
            print(f"    {each}")
    return cpu <= BOUND_SECONDS


def main() -> int:
    """0 where no turn took more of the CPU than the bound."""
    parser = argparse.ArgumentParser(description="How long the event loop is held up.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--only", default="")
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    # As in production, but for the lines themselves.
    logs.configure(replace(Settings.from_env({"MANA_ENV": "development"}), log_level="critical"))
    with temporary_cluster() as cluster:
        cluster.ensure_database(DATABASE)
        migrate(as_settings(cluster, DATABASE))
        return 0 if asyncio.run(measure(cluster, args.rows, args.only, args.times)) else 1


if __name__ == "__main__":
    sys.exit(main())
