import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.dev.ports import free_port
from service.dev.postgres import Cluster
from service.dev.system import Running, find_running

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ground:
    """A folder and a port for a system of this test's own."""

    data_dir: Path
    port: int

    def run(self, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "service", "run"],
            cwd=ROOT,
            env={
                **os.environ,
                "MANA_DATA_DIR": str(self.data_dir),
                "PORT": str(self.port),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_up(self, process: "subprocess.Popen[str]") -> Running:
        def is_up() -> bool:
            assert process.poll() is None, process.communicate()
            return find_running(self.data_dir) is not None

        wait_for(is_up)
        running = find_running(self.data_dir)
        assert running is not None
        return running


@pytest.fixture
def ground() -> Iterator[Ground]:
    folder = Path(tempfile.mkdtemp(prefix="mana-credits-run-"))
    # Run by root, the cluster runs under another account, which has to get there.
    folder.chmod(0o711)
    ground = Ground(folder / "data", free_port())
    yield ground
    if (ground.data_dir / "postgres").exists():
        Cluster(ground.data_dir / "postgres").destroy()
    shutil.rmtree(folder)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, be it that nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def call(url: str, data: object = None, **headers: str) -> Any:
    request = urllib.request.Request(
        url,
        data=None if data is None else json.dumps(data).encode(),
        headers={"Content-Type": "application/json", **headers},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def grant(running: Running, user: str) -> Any:
    body = {"userId": user, "amount": 100, "reason": "welcome", "referenceId": "welcome"}
    url = f"{running.base_url}/api/v1/internal/credits/grant"
    return call(url, body, **{"X-Service-Key": running.service_key})


def balance(running: Running, user: str) -> int:
    token = call(f"{running.issuer_url}/api/auth/dev-token", {"sub": user})["token"]
    url = f"{running.base_url}/api/v1/credits/balance"
    return int(call(url, Authorization=f"Bearer {token}")["balance"])


def test_the_life_of_a_system(ground: Ground) -> None:
    process = ground.run()
    with process:
        running = ground.wait_until_up(process)
        assert (ground.data_dir / "system.json").stat().st_mode & 0o077 == 0
        grant(running, "user-1")
        assert balance(running, "user-1") == 100
        assert len(call(f"{running.base_url}/api/v1/credits/packages")) == 4
        assert (balance(running, "ann"), balance(running, "nora")) == (500, 0)

        with ground.run() as second:
            _, complaint = second.communicate(timeout=120)
            assert second.returncode == 1
            assert complaint.splitlines() == [
                f"mana-credits: the system in {ground.data_dir} is already up at {running.base_url}"
            ]
        with ground.run(MANA_DATA_DIR=str(ground.data_dir.parent / "other")) as neighbour:
            _, complaint = neighbour.communicate(timeout=120)
            assert neighbour.returncode == 1
            assert complaint.startswith(f"mana-credits: port {ground.port} is taken")
            assert len(complaint.splitlines()) == 1

        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert all(is_gone(pid) for pid in running.pids.values())
    assert find_running(ground.data_dir) is None

    process = ground.run()
    with process:
        again = ground.wait_until_up(process)
        assert (again.stripe_url, again.issuer_url) == (running.stripe_url, running.issuer_url)
        assert balance(again, "user-1") == 100
        assert grant(again, "user-1")["alreadyGranted"]
        assert balance(again, "ann") == 500

        os.kill(again.pids["the service"], signal.SIGKILL)
        _, complaint = process.communicate(timeout=120)
        assert process.returncode == 1
        assert complaint.splitlines()[-1] == "mana-credits: the service ended (signal 9)"
    assert all(is_gone(pid) for pid in again.pids.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_start_can_be_interrupted(ground: Ground, number: signal.Signals) -> None:
    with ground.run() as process:
        assert process.stdout is not None
        assert "PostgreSQL" in process.stdout.readline()
        process.send_signal(number)
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert Cluster(ground.data_dir / "postgres").pid is None


def test_everything_ends_with_a_killed_run(ground: Ground) -> None:
    with ground.run() as process:
        running = ground.wait_until_up(process)
        process.kill()
        process.communicate(timeout=120)
    wait_for(lambda: all(is_gone(pid) for pid in running.pids.values()))


def enter(running: Running, back_to: str) -> tuple[int, str | None]:
    """Sign in as Ann; the status, and where it leads."""
    connection = http.client.HTTPConnection(running.issuer_url.removeprefix("http://"), timeout=30)
    form = urllib.parse.urlencode({"person": "ann", "redirectTo": back_to})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    with contextlib.closing(connection):
        connection.request("POST", "/login", form, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Location")


def test_people_sign_in_under_the_host_of_the_issuer(ground: Ground) -> None:
    with ground.run(BASE_URL=f"http://127.0.0.1:{ground.port}/") as process:
        running = ground.wait_until_up(process)
        pages = f"http://localhost:{ground.port}"
        assert enter(running, f"{pages}/gifts") == (303, f"{pages}/gifts")
        assert enter(running, f"{running.base_url}/gifts") == (400, None)

        token = call(f"{running.issuer_url}/api/auth/dev-token", {"sub": "ann"})["token"]
        package = call(f"{running.base_url}/api/v1/credits/packages")[0]["id"]
        begun = call(
            f"{running.base_url}/api/v1/credits/purchase",
            {"packageId": package, "successUrl": f"{pages}/", "cancelUrl": f"{pages}/"},
            Authorization=f"Bearer {token}",
        )
        assert begun["checkoutUrl"].startswith(running.stripe_url)

        process.send_signal(signal.SIGINT)
        welcome, _ = process.communicate(timeout=120)
    assert f"Open {pages}/ and choose who you are." in welcome
    assert f"Under BASE_URL, {running.base_url}, nobody can sign in" in welcome
