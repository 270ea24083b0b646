"""A PostgreSQL cluster with pg_cron in a data folder of its own, for development and tests.

It listens on 127.0.0.1 alone, on a port of its own, and ends with the process that started it.
"""

import contextlib
import fcntl
import hashlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql

from service.dev.ports import free_port, is_free
from service.dev.watchdog import Watchdog

OLDEST_VERSION = 15
SUPERUSER = "postgres"
SERVICE_LOGIN = "mana"
# Where a cluster goes when the account it must run under cannot reach the wanted folder.
FALLBACK_ROOT = Path("/var/lib/mana-credits")

StopMode = Literal["smart", "fast", "immediate"]

_DEBIAN_BINARIES = Path("/usr/lib/postgresql")
_MEMORY = "/dev/shm"
_MEMORY_NEEDED = 4 * 1024**3
_START_SECONDS = 120
_STOP_SECONDS = 60


class PostgresError(RuntimeError):
    """The cluster cannot be had; the message is one line for people."""


def _say(line: str) -> None:
    print(line, file=sys.stderr)


@dataclass(frozen=True)
class Programs:
    """One installation of PostgreSQL."""

    version: int
    bindir: Path
    has_cron: bool

    @classmethod
    def find(cls, version: int | None = None) -> "Programs":
        """Find the newest PostgreSQL that has pg_cron, or the one of the major `version`.

        Raises PostgresError naming the Debian packages when there is none.
        """
        found = [p for p in cls._installed() if version is None or p.version == version]
        usable = [p for p in found if p.version >= OLDEST_VERSION and p.has_cron]
        if usable:
            return max(usable, key=lambda p: p.version)
        newest = max((p.version for p in found if p.version >= OLDEST_VERSION), default=None)
        if newest is not None:
            raise PostgresError(
                f"PostgreSQL {newest} has no pg_cron: install the package postgresql-{newest}-cron"
            )
        wanted = version or OLDEST_VERSION
        which = f"PostgreSQL {version}" if version else f"PostgreSQL {OLDEST_VERSION} or newer"
        raise PostgresError(
            f"{which} is not installed: "
            f"install the packages postgresql-{wanted} and postgresql-{wanted}-cron"
        )

    @classmethod
    def _installed(cls) -> Iterator["Programs"]:
        bindirs = sorted(_DEBIAN_BINARIES.glob("*/bin"))
        if on_path := shutil.which("pg_config"):
            bindirs.append(Path(_output(on_path, "--bindir")))
        for bindir in dict.fromkeys(bindirs):
            if not (bindir / "postgres").is_file() or not (bindir / "pg_config").is_file():
                continue
            version = re.search(r"(\d+)", _output(bindir / "postgres", "--version"))
            sharedir = Path(_output(bindir / "pg_config", "--sharedir"))
            if version:
                yield cls(
                    version=int(version[1]),
                    bindir=bindir,
                    has_cron=(sharedir / "extension" / "pg_cron.control").is_file(),
                )


@dataclass(frozen=True)
class _Account:
    """The operating system's account the server runs under; None means the current one."""

    uid: int | None
    gid: int | None
    groups: Sequence[int]

    @classmethod
    def choose(cls) -> "_Account":
        if os.geteuid() != 0:
            return cls(None, None, ())
        try:
            entry = pwd.getpwnam("postgres")
        except KeyError:
            raise PostgresError(
                "PostgreSQL does not run as root, and there is no account named postgres: "
                f"install the package postgresql-{OLDEST_VERSION}, or run as another user"
            ) from None
        return cls(entry.pw_uid, entry.pw_gid, os.getgrouplist("postgres", entry.pw_gid))

    def popen_arguments(self) -> dict[str, Any]:
        # A session of its own: Ctrl-C in the terminal is for us, and we stop the server.
        arguments: dict[str, Any] = {
            "cwd": "/",
            "env": {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/"},
            "start_new_session": True,
        }
        if self.uid is not None:
            arguments |= {"user": self.uid, "group": self.gid, "extra_groups": self.groups}
        return arguments

    def own(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def reaches(self, folder: Path) -> bool:
        if self.uid is None:
            return True
        # Asked of the system, as that account: modes alone would not know of access lists.
        found = subprocess.run(["test", "-x", str(folder)], check=False, **self.popen_arguments())
        return found.returncode == 0


class Cluster:
    """A PostgreSQL cluster in `data_dir`, made at the first start.

    With `durable=False` it trades safety against power loss for speed, for tests; `settings` of
    PostgreSQL's come before our own. As root, the server runs under the account `postgres`; where
    that cannot reach `data_dir`, the data go to a folder below FALLBACK_ROOT that belongs to this
    `data_dir` alone, and `say` is told.

    The server ends with the process that started it, however that ends. One that is found running
    on this data is taken over. Every method raises PostgresError when it cannot do its work.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        say: Callable[[str], None] = _say,
    ) -> None:
        self._wanted_dir = data_dir.absolute()
        self._durable = durable
        self._settings = dict(settings or {})
        self._say = say
        self._account: _Account | None = None
        self._programs: Programs | None = None
        self._data_dir: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None
        self._port: int | None = None

    @property
    def data_dir(self) -> Path:
        """Where the data really are."""
        self._settle()
        assert self._data_dir is not None
        return self._data_dir

    @property
    def log_file(self) -> Path:
        """The server's own log."""
        return self.data_dir / "server.log"

    @property
    def port(self) -> int:
        """The server's TCP port on 127.0.0.1; known once it was started."""
        if self._port is None:
            raise PostgresError("the PostgreSQL cluster was not started")
        return self._port

    @property
    def programs(self) -> Programs:
        """The installation this cluster runs with."""
        self._settle()
        assert self._programs is not None
        return self._programs

    def admin_url(self, dbname: str = "postgres") -> str:
        """Return the URL with which the superuser reaches `dbname`."""
        return self._url(SUPERUSER, dbname)

    def service_url(self, dbname: str) -> str:
        """Return the URL of the service's login in `dbname`; `migrate` makes that login."""
        return self._url(SERVICE_LOGIN, dbname)

    def password(self, login: str) -> str:
        """Return the password that this cluster keeps for `login`, drawn at the first call."""
        path = self.data_dir / f"{login}.password"
        try:
            return path.read_text()
        except FileNotFoundError:
            password = secrets.token_hex(16)
            _write_private(path, password)
            return password

    def ensure_started(self) -> None:
        """Start the server unless it runs, making the cluster first where there is none."""
        try:
            with self._locked():
                if not (self._pgdata / "PG_VERSION").is_file():
                    self._initdb()
                if not self._adopt():
                    self._start_server()
                self._arm_watchdog()
        except OSError as error:
            raise PostgresError(f"cannot use the folder {self._wanted_dir}: {error}") from error

    def start(self) -> None:
        """Do as ensure_started does: the word that goes with stop()."""
        self.ensure_started()

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server; `immediate` is a crash, after which the next start recovers."""
        self._disarm_watchdog()
        if self.pid is not None:
            self._stop_server(mode)
        if self._server is not None:
            try:
                self._server.wait(5)
            except subprocess.TimeoutExpired:
                # It had not come as far as writing its process number.
                self._server.send_signal(signal.SIGQUIT)
                self._server.wait()
            self._server = None

    def destroy(self) -> None:
        """Stop the server at once and remove its data."""
        self.stop("immediate")
        shutil.rmtree(self.data_dir, ignore_errors=True)

    @property
    def pid(self) -> int | None:
        """The server's process, or None when it does not run."""
        pid = self._pid_in_file()
        return pid if pid is not None and self._is_our_server(pid) else None

    def ensure_database(self, dbname: str) -> bool:
        """Create the database `dbname` unless it exists; tell whether it was created."""
        with psycopg.connect(self.admin_url(), autocommit=True) as connection:
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [dbname])
            if found.fetchone() is not None:
                return False
            try:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(dbname)))
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                return False
            return True

    @property
    def _pgdata(self) -> Path:
        return self.data_dir / "pgdata"

    def _url(self, login: str, dbname: str) -> str:
        return f"postgresql://{login}:{self.password(login)}@127.0.0.1:{self.port}/{dbname}"

    def _settle(self) -> None:
        """Decide, once, on account, folder and programs."""
        if self._data_dir is not None:
            return
        self._account = _Account.choose()
        data_dir = self._wanted_dir
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        if not self._account.reaches(data_dir.parent):
            name = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
            data_dir = FALLBACK_ROOT / name
            FALLBACK_ROOT.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._say(
                f"PostgreSQL runs as the user postgres, who cannot reach {self._wanted_dir}: "
                f"the data are in {data_dir}"
            )
        data_dir.mkdir(mode=0o700, exist_ok=True)
        self._account.own(data_dir)
        made_by = data_dir / "pgdata" / "PG_VERSION"
        version = int(made_by.read_text()) if made_by.is_file() else None
        self._programs = Programs.find(version)
        self._data_dir = data_dir

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep two processes from making or starting the same cluster at once."""
        with (self.data_dir / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert self._account is not None
        return subprocess.run(
            [str(self.programs.bindir / program), *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            **self._account.popen_arguments(),
        )

    def _pg_ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("pg_ctl", "-D", str(self._pgdata), "-s", *arguments)

    def _initdb(self) -> None:
        assert self._account is not None
        # Made aside and renamed when it is whole, so that an interrupted one is never started.
        unfinished = self.data_dir / "pgdata.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        with tempfile.NamedTemporaryFile("w", dir=self.data_dir) as password_file:
            password_file.write(self.password(SUPERUSER))
            password_file.flush()
            self._account.own(Path(password_file.name))
            arguments = [f"--pgdata={unfinished}", f"--username={SUPERUSER}"]
            arguments += ["--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
            arguments += ["--auth=scram-sha-256", f"--pwfile={password_file.name}"]
            if not self._durable:
                arguments.append("--no-sync")
            made = self._run("initdb", *arguments)
        if made.returncode != 0:
            raise PostgresError(f"initdb failed: {_last_line(made.stdout)}")
        with (unfinished / "postgresql.conf").open("a") as configuration:
            configuration.write("\ninclude 'mana-credits.conf'\n")
        unfinished.rename(self._pgdata)

    def _configure(self, port: int) -> None:
        assert self._account is not None
        settings: dict[str, str | int] = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            # No socket: its path has a limit of 107 bytes, which a checkout may exceed.
            "unix_socket_directories": "",
            "max_connections": 200,
            "max_worker_processes": 24,
            "password_encryption": "scram-sha-256",
            "shared_preload_libraries": "pg_cron",
            "cron.database_name": "postgres",
            # Jobs run inside the server, so that their role needs no password.
            "cron.use_background_workers": "on",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %q%u@%d ",
        }
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        settings |= self._settings
        path = self._pgdata / "mana-credits.conf"
        path.write_text("".join(f"{name} = '{value}'\n" for name, value in settings.items()))
        path.chmod(0o600)
        self._account.own(path)

    def _start_server(self) -> None:
        port_file = self.data_dir / "port"
        kept = int(port_file.read_text()) if port_file.is_file() else None
        port = free_port(kept)
        deadline = time.monotonic() + _START_SECONDS
        while (reason := self._try_start(port, deadline)) is not None:
            if time.monotonic() < deadline and not is_free(port):
                port = free_port()
            elif time.monotonic() < deadline and _passes(reason):
                time.sleep(0.1)
            else:
                raise PostgresError(
                    f"PostgreSQL does not start: {_reason(reason)} (see {self.log_file})"
                )
        port_file.write_text(f"{port}\n")
        self._port = port

    def _stop_server(self, mode: StopMode) -> None:
        for how in (mode, "immediate"):
            self._pg_ctl("stop", "-m", how, "-w", "-t", str(_STOP_SECONDS))
            if self.pid is None:
                return
        raise PostgresError(f"PostgreSQL does not stop: see {self.log_file}")

    def _try_start(self, port: int, deadline: float) -> str | None:
        """Start the server and wait until it is ready; return what it says if it is not."""
        assert self._account is not None
        self._reap()
        self._clear_false_pid_file()
        self._configure(port)
        self.log_file.touch(mode=0o600)
        with self.log_file.open("r+", encoding="utf-8", errors="replace") as log:
            log.seek(0, os.SEEK_END)
            start = log.tell()
            # A child of ours, not of pg_ctl, so that it is reaped where nobody else would.
            server = self._server = subprocess.Popen(
                [str(self.programs.bindir / "postgres"), "-D", str(self._pgdata)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **self._account.popen_arguments(),
            )
            while server.poll() is None:
                lines = self._pid_file_lines()
                if lines[:1] == [str(server.pid)] and lines[7:8] == ["ready"]:
                    return None
                if time.monotonic() > deadline:
                    self.stop("immediate")
                time.sleep(0.02)
            self._server = None
            log.seek(start)
            return log.read()

    def _reap(self) -> None:
        if self._server is not None:
            # Found gone a moment ago; the system may still be about to end the process.
            self._server.wait(_STOP_SECONDS)
            self._server = None

    def _adopt(self) -> bool:
        """Take over a server that runs on our data; False when none does, or it is going."""
        deadline = time.monotonic() + _START_SECONDS
        refused: Exception | None = None
        while time.monotonic() < deadline:
            if self.pid is None:
                return False
            # The fourth line is the port. A server that is only starting has not written it yet.
            lines = self._pid_file_lines()
            if len(lines) >= 4 and lines[3].isdigit():
                self._port = int(lines[3])
                try:
                    psycopg.connect(self.admin_url(), connect_timeout=5).close()
                except psycopg.OperationalError as error:
                    # Starting up or shutting down: either ends.
                    refused = error
                else:
                    (self.data_dir / "port").write_text(f"{self._port}\n")
                    return True
            time.sleep(0.1)
        raise PostgresError(f"the PostgreSQL that runs on {self.data_dir} refuses us: {refused}")

    def _arm_watchdog(self) -> None:
        if self._watchdog is None:
            assert self._account is not None
            pg_ctl = [str(self.programs.bindir / "pg_ctl"), "-D", str(self._pgdata), "-s"]
            mode = "fast" if self._durable else "immediate"
            self._watchdog = Watchdog(
                [*pg_ctl, "stop", "-m", mode], **self._account.popen_arguments()
            )

    def _disarm_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.disarm()
            self._watchdog = None

    def _pid_file_lines(self) -> list[str]:
        try:
            return [x.strip() for x in (self._pgdata / "postmaster.pid").read_text().split("\n")]
        except OSError:
            return []

    def _pid_in_file(self) -> int | None:
        lines = self._pid_file_lines()
        return int(lines[0]) if lines and lines[0].isdigit() else None

    def _is_our_server(self, pid: int) -> bool:
        # A server's working directory is its data. The number alone says little: after a reboot
        # it may belong to any other process.
        try:
            return Path(f"/proc/{pid}/cwd").samefile(self._pgdata)
        except OSError:
            return False

    def _clear_false_pid_file(self) -> None:
        pid = self._pid_in_file()
        if pid is not None and _exists(pid) and not self._is_our_server(pid):
            # PostgreSQL would take that process for a server of ours, and refuse to start. What
            # a killed server leaves behind is known to it by its shared memory all the same.
            (self._pgdata / "postmaster.pid").unlink(missing_ok=True)


def _temporary_folder() -> str:
    """Memory where there is plenty of it: tests clone databases all the time, which is files."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(_MEMORY).free >= _MEMORY_NEEDED:
            return _MEMORY
    return tempfile.gettempdir()


@contextlib.contextmanager
def temporary_cluster(settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Run a cluster that is not durable, in a temporary folder; it is removed afterwards."""
    # Not below pytest's own temporary folder, which other accounts cannot reach.
    folder = Path(tempfile.mkdtemp(prefix="mana-credits-", dir=_temporary_folder()))
    cluster = Cluster(folder, durable=False, settings=settings)
    try:
        cluster.ensure_started()
        yield cluster
    finally:
        cluster.destroy()
        shutil.rmtree(folder, ignore_errors=True)


def _output(program: Path | str, argument: str) -> str:
    done = subprocess.run([str(program), argument], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _write_private(path: Path, text: str) -> None:
    # Whole or not at all: a password of which half was written would lock us out.
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    unfinished.replace(path)


def _exists(pid: int) -> bool:
    """Tell whether the number is taken, be it by a zombie that nobody has waited for."""
    return Path(f"/proc/{pid}").is_dir()


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


def _passes(reason: str) -> bool:
    # A killed server, or what it had started, is still going; that ends by itself.
    return "is still in use" in reason or '"postmaster.pid" already exists' in reason


def _reason(text: str) -> str:
    grave = [line for line in text.splitlines() if "FATAL:" in line or "PANIC:" in line]
    return _last_line("\n".join(grave) or text)
