import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from service.dev import postgres
from service.dev.postgres import Cluster, PostgresError, Programs, temporary_cluster
from tests.support.processes import ROOT


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with temporary_cluster() as cluster:
        yield cluster


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def ask(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        return row and row[0]


def test_it_is_utf8_and_listens_on_loopback_with_passwords(cluster: Cluster) -> None:
    assert ask(cluster.admin_url(), "SHOW server_encoding") == "UTF8"
    assert ask(cluster.admin_url(), "SHOW listen_addresses") == "127.0.0.1"
    assert ask(cluster.admin_url(), "SHOW unix_socket_directories") == ""
    collation = "SELECT datcollate FROM pg_database WHERE datname = 'template1'"
    assert ask(cluster.admin_url(), collation) == "C.UTF-8"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(f"postgresql://postgres:wrong@127.0.0.1:{cluster.port}/postgres")
    assert (cluster.data_dir / "postgres.password").stat().st_mode & 0o077 == 0


def test_it_has_cron(cluster: Cluster) -> None:
    assert ask(cluster.admin_url(), "SHOW cron.database_name") == "postgres"
    assert ask(cluster.admin_url(), "SHOW cron.use_background_workers") == "on"
    with psycopg.connect(cluster.admin_url(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_cron")


def test_a_database_is_made_once(cluster: Cluster) -> None:
    assert cluster.ensure_database("made once")
    assert not cluster.ensure_database("made once")
    assert ask(cluster.admin_url("made%20once"), "SELECT current_database()") == "made once"


def test_starting_a_started_one_changes_nothing(cluster: Cluster) -> None:
    pid, port = cluster.pid, cluster.port
    cluster.ensure_started()
    assert (cluster.pid, cluster.port) == (pid, port)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_it_keeps_port_and_data_over_a_restart(cluster: Cluster, mode: postgres.StopMode) -> None:
    port = cluster.port
    cluster.ensure_database(f"kept {mode}")
    cluster.stop(mode)
    assert cluster.pid is None
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(cluster.admin_url())
    cluster.start()
    assert cluster.port == port
    assert not cluster.ensure_database(f"kept {mode}")


def test_it_starts_again_after_a_hard_kill(cluster: Cluster) -> None:
    port, pid = cluster.port, cluster.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    cluster.ensure_started()
    assert cluster.port == port
    assert cluster.pid not in (None, pid)
    assert ask(cluster.admin_url(), "SELECT 1") == 1


def test_a_pid_file_that_names_another_process_is_stale(cluster: Cluster) -> None:
    cluster.stop("fast")
    pid_file = cluster.data_dir / "pgdata" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{cluster.data_dir}/pgdata\n1\n{cluster.port}\n")
    cluster.ensure_started()
    assert ask(cluster.admin_url(), "SELECT 1") == 1


def test_another_port_is_chosen_when_somebody_has_taken_ours(cluster: Cluster) -> None:
    port = cluster.port
    cluster.stop("fast")
    with socket.create_server(("127.0.0.1", port)):
        cluster.ensure_started()
    assert cluster.port != port
    assert ask(cluster.admin_url(), "SELECT 1") == 1


def test_a_second_object_adopts_the_running_server(cluster: Cluster) -> None:
    other = Cluster(cluster.data_dir, durable=False)
    other.ensure_started()
    assert (other.pid, other.port) == (cluster.pid, cluster.port)
    other.stop("fast")
    assert cluster.pid is None
    cluster.ensure_started()


def test_the_server_ends_with_the_process_that_started_it(cluster: Cluster) -> None:
    cluster.stop("fast")
    script = (
        "import pathlib, sys; from service.dev.postgres import Cluster;"
        "Cluster(pathlib.Path(sys.argv[1]), durable=False).ensure_started();"
        "print('up', flush=True); sys.stdin.read()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script, str(cluster.data_dir)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"up\n"
        assert cluster.pid is not None
        starter.kill()
    wait_for(lambda: cluster.pid is None)
    cluster.ensure_started()
    assert ask(cluster.admin_url(), "SELECT 1") == 1


def test_an_interrupted_creation_is_begun_again() -> None:
    with temporary_cluster() as first:
        folder = first.data_dir
        first.stop("immediate")
        (folder / "pgdata").rename(folder / "pgdata.new")
        first.ensure_started()
        assert ask(first.admin_url(), "SELECT 1") == 1


def test_a_missing_postgresql_is_named_with_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(*versions: Programs) -> None:
        monkeypatch.setattr(Programs, "_installed", lambda: iter(versions))

    def programs(version: int, has_cron: bool) -> Programs:
        return Programs(version, Path("/nowhere"), has_cron)

    installed()
    with pytest.raises(PostgresError, match=r"postgresql-15 and postgresql-15-cron$"):
        Programs.find()
    installed(programs(14, True))
    with pytest.raises(PostgresError, match=r"postgresql-15 and postgresql-15-cron$"):
        Programs.find()
    installed(programs(16, False))
    with pytest.raises(PostgresError, match=r"postgresql-16-cron$"):
        Programs.find()
    installed(programs(15, True), programs(16, True), programs(17, False))
    assert Programs.find().version == 16
    assert Programs.find(15).version == 15
    with pytest.raises(PostgresError, match=r"^PostgreSQL 18 is not installed"):
        Programs.find(18)


def test_a_folder_that_the_account_cannot_reach_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with temporary_cluster() as stand_in:
        root = stand_in.data_dir / "elsewhere"
        root.mkdir()
        stand_in.data_dir.chmod(0o711)
        monkeypatch.setattr(postgres, "FALLBACK_ROOT", root)
        hidden = tmp_path / "hidden"
        hidden.mkdir(mode=0o700)
        if os.geteuid() != 0:
            # Only root changes to another account; for others nothing is out of reach.
            monkeypatch.setattr(postgres._Account, "reaches", lambda *_: False)
        said: list[str] = []
        cluster = Cluster(hidden / "data", durable=False, say=said.append)
        assert cluster.data_dir.parent == root
        assert cluster.data_dir == Cluster(hidden / "data", say=said.append).data_dir
        assert cluster.data_dir != Cluster(hidden / "other", say=said.append).data_dir
        assert str(cluster.data_dir) in said[0]
