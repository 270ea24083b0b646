"""PgBouncer in front of a cluster, whose connections callers share."""

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from service.dev.ports import accepts_connections, free_port
from service.dev.postgres import Cluster
from service.dev.watchdog import Watchdog
from tests.support.waiting import PATIENCE_SECONDS

CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 500
server_login_retry = 1
"""
# Newer ones keep them apart, which is not how all of them are set.
STATEMENTS = "max_prepared_statements = 0\n"


@dataclass
class Pooler:
    """A PgBouncer whose address stays the same, however often it is started."""

    port: int
    _folder: Path
    _account: dict[str, Any]
    _process: subprocess.Popen[bytes] | None = None
    _watchdogs: list[Watchdog] = field(default_factory=list)

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return (self._folder / "pgbouncer.log").read_text()

    def through(self, url: str) -> str:
        """An address of a database, by way of the pooler."""
        parts = urlsplit(url)
        credentials = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}"))

    @property
    def program(self) -> str:
        """Where PgBouncer is: Debian has it among the programs of the administrator."""
        found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        assert found is not None, "PgBouncer is not installed (service/dev/packages.sh test)"
        return found

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        with (self._folder / "pgbouncer.log").open("ab") as log:
            process = self._process = subprocess.Popen(
                [self.program, str(self._folder / "pgbouncer.ini")],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._account,
            )
        self._watchdogs.append(Watchdog(["kill", "-KILL", str(process.pid)]))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not accepts_connections(self.port):
            assert process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as `kill -9` does, with every connection through it."""
        if self._process is not None:
            # While we have not waited for it, its number is nobody else's.
            while self._watchdogs:
                self._watchdogs.pop().disarm()
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def pooled(cluster: Cluster, *, mode: str = "transaction", size: int = 3) -> Iterator[Pooler]:
    """Run one in front of a cluster, with so many connections a database and login to it."""
    account: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="mana-credits-pgbouncer-"))
    port = free_port()
    users = folder / "users.txt"
    logins = [urlsplit(url) for url in (cluster.admin_url(), cluster.service_url("postgres"))]
    users.write_text("".join(f'"{each.username}" "{each.password}"\n' for each in logins))
    pooler = Pooler(port, folder, account)
    version = subprocess.run(
        [pooler.program, "--version"], check=True, capture_output=True, text=True
    ).stdout
    has_statements = tuple(int(n) for n in re.findall(r"\d+", version)[:2]) >= (1, 21)
    (folder / "pgbouncer.ini").write_text(
        CONFIGURATION.format(server_port=cluster.port, port=port, users=users, mode=mode, size=size)
        + (STATEMENTS if has_statements else "")
    )
    if os.geteuid() == 0:
        # It refuses to run as root, as PostgreSQL does.
        entry = pwd.getpwnam("postgres")
        account.update(user=entry.pw_uid, group=entry.pw_gid, extra_groups=[])
        for path in (folder, users, folder / "pgbouncer.ini"):
            os.chown(path, entry.pw_uid, entry.pw_gid)
    try:
        pooler.start()
        yield pooler
    finally:
        pooler.kill()
        shutil.rmtree(folder)
