"""What the machine says of this very process, and processes that are started and stopped."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from service.dev.ports import accepts_connections
from service.dev.postgres import Cluster
from tests.bench import servers
from tests.bench.cluster import require_safe
from tests.bench.machine import (
    Busy,
    children,
    cpu_seconds,
    describe,
    ended_children_seconds,
    memory,
)
from tests.support.databases import Clone
from tests.support.processes import lives


def test_a_process_has_memory_and_has_worked() -> None:
    taken = memory(os.getpid())
    assert 1 < taken.pss <= taken.rss <= taken.peak < 10_000
    busy = Busy(os.getpid())
    before = cpu_seconds(os.getpid())
    while cpu_seconds(os.getpid()) == before:  # the kernel adds it up now and then
        sum(range(1_000))
    assert before > 0
    assert busy.process() > 0
    assert busy.machine() >= 0


def test_a_child_that_ended_is_none_and_what_it_worked_is_known() -> None:
    before, worked = children(os.getpid()), ended_children_seconds(os.getpid())
    code = "import time\nwhile time.process_time() < 0.1: pass\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        assert children(os.getpid()) - before == {child.pid}
        assert ended_children_seconds(os.getpid()) == worked
        child.communicate(b"\n")
    assert children(os.getpid()) == before
    assert ended_children_seconds(os.getpid()) - worked >= 0.08


def test_the_machine_can_be_described() -> None:
    assert any("cores" in line for line in describe(Path("/")))


def test_a_cluster_that_is_not_safe_is_refused(cluster: Cluster) -> None:
    # The tests' own, which trades safety for speed.
    with pytest.raises(RuntimeError, match="fsync is off"):
        require_safe(cluster)


def _get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as answer:
        found: bytes = answer.read()
    return found


def test_an_issuer_serves_and_is_gone(tmp_path: Path) -> None:
    with servers.tokens(tmp_path, ["user-1"]) as signed:
        assert len(signed.file.read_text().splitlines()) == 2
        port = int(signed.url.rpartition(":")[2])
        assert b'"keys"' in _get(port, "api/auth/jwks")
    assert not accepts_connections(port)


def test_the_floor_serves_and_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    with servers.floor(cluster, tmp_path, [1, 2], [2]) as floor:
        assert lives(floor.pid)
        for path in ("nothing", "one/1", "one/2", "usual/2"):
            assert _get(floor.port, path) == b'{"one":1}'
    assert not lives(floor.pid)


def test_a_watched_service_tells_how_long_its_loop_was_held_up(
    cluster: Cluster, database: Clone, tmp_path: Path
) -> None:
    file = tmp_path / "watched.json"
    with (
        servers.tokens(tmp_path, []) as signed,
        servers.service(cluster, database.name, tmp_path, signed, watch=file) as server,
    ):
        assert b"ok" in _get(server.port, "health")
    told = servers.watched(file)
    assert told["ticks"] > 0
    assert 0 <= told["held"] <= told["late"]


def test_a_server_that_does_not_start_says_why(cluster: Cluster, tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="invalid literal"),
        servers.floor(
            cluster,
            tmp_path,
            ["many"],  # type: ignore[list-item]
        ),
    ):
        pass
