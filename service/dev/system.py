"""The whole system on one machine: PostgreSQL, a local Stripe, a token issuer, the service."""

import contextlib
import fcntl
import os
import secrets
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import psycopg

from service.dev.issuer import SigningKey, mint
from service.dev.login import DEMO_USERS, is_same_site, origin_of
from service.dev.ports import accepts_connections, free_port, is_free
from service.dev.postgres import SERVICE_LOGIN, SUPERUSER, Cluster, PostgresError
from service.dev.watchdog import Watchdog
from service.settings import Settings

DATABASE = "mana_credits"
STRIPE_KEY = "sk_test_local"
TOKEN_SECONDS = 7 * 86_400

_READY_SECONDS = 90
# The service lets requests in flight end, which takes it 25 s at most, and then its own tasks.
_STOP_SECONDS = 45
_PACKAGES = (
    ("00000000-0000-4000-8000-000000000500", "Starter", "For a first try", 500, 500),
    ("00000000-0000-4000-8000-000000001000", "Standard", "What most people take", 1000, 1000),
    ("00000000-0000-4000-8000-000000002500", "Plus", "4 % off", 2500, 2400),
    ("00000000-0000-4000-8000-000000005000", "Max", "10 % off", 5000, 4500),
)


class SystemFailedError(RuntimeError):
    """The system cannot be brought up, or a part of it ended; the message is one line."""


class StopRequestedError(Exception):
    """Somebody asked to stop while the system was on its way up."""


class Running(msgspec.Struct, frozen=True, rename="camel"):
    """A system that is up: its addresses, and what opens them. All of it is for development."""

    pid: int
    base_url: str
    local_url: str
    """The service under the issuer's host: sessions are known there, whatever BASE_URL says."""
    issuer_url: str
    stripe_url: str
    mailbox_url: str
    database_url: str
    admin_database_url: str
    cron_database_url: str
    """The superuser's, in the database that holds pg_cron."""
    service_key: str
    stripe_key: str
    webhook_secret: str
    pids: dict[str, int]

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of the service's own pages, the one that people sign in to first."""
        return tuple(dict.fromkeys((self.local_url, origin_of(self.base_url) or self.base_url)))

    @property
    def signs_in_at_base_url(self) -> bool:
        """Whether a page under BASE_URL gets to know who signed in at the issuer."""
        return is_same_site(self.base_url, self.issuer_url)

    def token(self, data_dir: Path, sub: str, **claims: Any) -> str:
        """Sign a token for the user `sub`, as the issuer would, valid for a week."""
        key = SigningKey.load_or_create(_issuer_key_file(data_dir))
        return mint(key, sub=sub, issuer=self.issuer_url, expires_in=TOKEN_SECONDS, **claims)


@dataclass(frozen=True)
class _Part:
    """A child process that belongs to the system."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None
    watchdog: Watchdog | None = None

    def stop(self) -> None:
        if self.watchdog is not None:
            self.watchdog.disarm()
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def how_it_ended(self) -> str:
        status = self.process.returncode
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"{self.name} ended ({how}){_see(self.log)}"


def default_data_dir(env: Mapping[str, str] = os.environ) -> Path:
    """Return where the system's data are: MANA_DATA_DIR, else `.local` in the checkout."""
    if wanted := env.get("MANA_DATA_DIR"):
        return Path(wanted).absolute()
    checkout = Path(__file__).resolve().parents[2]
    return (checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()) / ".local"


def find_running(data_dir: Path) -> Running | None:
    """Return the system that is up in `data_dir`, if there is one."""
    try:
        running = msgspec.json.decode((data_dir / "system.json").read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None
    up = Path(f"/proc/{running.pid}").is_dir() and _answers(f"{running.base_url}/health")
    return running if up else None


class System:
    """Everything of `mana-credits run`.

    `say` gets one line a step. start() and wait() belong in one thread; request_stop() may come
    from a signal handler or another thread at any time.
    """

    def __init__(self, settings: Settings, data_dir: Path, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._data_dir = data_dir
        self._say_line = say
        self._stop = threading.Event()
        self._parts: list[_Part] = []
        self._cluster: Cluster | None = None
        self._lock: IO[str] | None = None
        self._began = time.monotonic()

    def __enter__(self) -> "System":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def request_stop(self) -> None:
        """Make start() or wait() return soon."""
        self._stop.set()

    def start(self) -> Running:
        """Bring everything up.

        Raises SystemFailedError when a part does not come up, and StopRequestedError after
        request_stop(). Either way stop() has to follow, which leaving the context does.
        """
        self._began = time.monotonic()
        self._prepare_data_dir()
        port = self._settings.port
        if not is_free(port, "0.0.0.0"):
            raise SystemFailedError(
                f"port {port} is taken: choose another one, as in PORT={port + 1}"
            )
        ports = _Ports(self._data_dir / "ports.json")
        issuer_port, stripe_port = ports.take("issuer"), ports.take("stripe")
        mailbox_port = ports.take("mailbox")
        ports.keep()

        webhook_secret = f"whsec_{secrets.token_hex(16)}"
        local_url = f"http://localhost:{port}"
        base_url = (os.environ.get("BASE_URL") or local_url).rstrip("/")
        local_stripe = self._start_stripe(stripe_port, webhook_secret)
        mailbox = self._start_mailbox(mailbox_port)

        cluster = self._start_cluster()
        running = Running(
            pid=os.getpid(),
            base_url=base_url,
            local_url=local_url,
            issuer_url=f"http://localhost:{issuer_port}",
            stripe_url=f"http://localhost:{stripe_port}",
            mailbox_url=f"http://localhost:{mailbox_port}",
            database_url=cluster.service_url(DATABASE),
            admin_database_url=cluster.admin_url(DATABASE),
            cron_database_url=cluster.admin_url(),
            service_key=self._settings.service_keys[0],
            stripe_key=STRIPE_KEY,
            webhook_secret=webhook_secret,
            pids={},
        )
        issuer = self._start_issuer(issuer_port, running.origins)
        environment = self._environment(running)
        created = cluster.ensure_database(DATABASE)
        self._run("migrate", "migrate", environment=environment)
        self._say(f"the database is {'created and ' if created else ''}up to date")
        # Hourly is the rule; here somebody watches.
        often = ("--every-minute", "recurring-charge")
        self._run("cron", "cron", "install", *often, environment=environment)
        _add_packages(running.admin_database_url)
        _add_people(running.admin_database_url)
        self._say("the jobs are scheduled, the packages and the demo users are there")

        self._wait_for(issuer, lambda: accepts_connections(issuer_port))
        self._wait_for(local_stripe, lambda: accepts_connections(stripe_port))
        self._wait_for(mailbox, lambda: accepts_connections(mailbox_port))
        self._say(f"the token issuer is up on port {issuer_port}, Stripe on port {stripe_port}")
        service = self._start_service(environment)
        self._wait_for(service, lambda: _answers(f"http://127.0.0.1:{port}/health"))
        self._say(f"the service is up on port {port}")

        pids = {part.name: part.process.pid for part in self._parts}
        if cluster.pid is not None:
            pids["PostgreSQL"] = cluster.pid
        running = msgspec.structs.replace(running, pids=pids)
        _write_private(self._data_dir / "pgpass", self._pgpass(cluster))
        _write_private(self._system_file, msgspec.json.encode(running).decode())
        return running

    def wait(self) -> None:
        """Wait for request_stop(); raises SystemFailedError when a part ends before that."""
        while not self._stop.wait(0.5):
            for part in self._parts:
                if part.process.poll() is not None:
                    raise SystemFailedError(part.how_it_ended())
            if self._cluster is not None and self._cluster.pid is None:
                raise SystemFailedError(f"PostgreSQL ended{_see(self._cluster.log_file)}")

    def stop(self) -> None:
        """Stop everything that was started, the last part first."""
        if self._lock is None:
            return
        self._system_file.unlink(missing_ok=True)
        while self._parts:
            self._parts.pop().stop()
        if self._cluster is not None:
            self._cluster.stop()
            self._cluster = None
        self._lock.close()
        self._lock = None

    @property
    def _system_file(self) -> Path:
        return self._data_dir / "system.json"

    @property
    def _logs(self) -> Path:
        return self._data_dir / "logs"

    def _say(self, line: str) -> None:
        self._say_line(f"{time.monotonic() - self._began:5.1f} s  {line}")

    def _prepare_data_dir(self) -> None:
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            # PostgreSQL's account passes through to its own folder, and sees nothing else.
            self._data_dir.chmod(0o711)
            lock = (self._data_dir / "lock").open("a+")
        except OSError as error:
            raise SystemFailedError(f"cannot use the folder {self._data_dir}: {error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            running = find_running(self._data_dir)
            where = f" at {running.base_url}" if running else ""
            raise SystemFailedError(
                f"the system in {self._data_dir} is already up{where}"
            ) from None
        self._lock = lock
        self._system_file.unlink(missing_ok=True)

    def _start_cluster(self) -> Cluster:
        self._check_stop()
        cluster = self._cluster = Cluster(self._data_dir / "postgres", say=self._say)
        try:
            cluster.ensure_started()
        except PostgresError as error:
            raise SystemFailedError(str(error)) from error
        self._check_stop()
        self._say(f"PostgreSQL {cluster.programs.version} is up on port {cluster.port}")
        return cluster

    def _start_issuer(self, port: int, origins: Sequence[str]) -> _Part:
        arguments = ["--key-file", str(_issuer_key_file(self._data_dir))]
        for origin in (*origins, *self._settings.cors_origins):
            arguments += ["--origin", origin]
        return self._start_helper("issuer", ["service.dev.issuer", *arguments], port)

    def _start_stripe(self, port: int, webhook_secret: str) -> _Part:
        webhook_url = f"http://127.0.0.1:{self._settings.port}/api/v1/webhooks/stripe"
        arguments = ["--data", str(self._data_dir / "stripe.data")]
        arguments += ["--webhook-url", webhook_url, "--webhook-secret", webhook_secret]
        return self._start_helper("stripe", ["service.dev.local_stripe", *arguments], port)

    def _start_mailbox(self, port: int) -> _Part:
        key = self._settings.service_keys[0]
        return self._start_helper("mailbox", ["service.dev.mailbox", "--service-key", key], port)

    def _start_helper(self, name: str, command: Sequence[str], port: int) -> _Part:
        """Start one of our own servers, which ends when its standard input does."""
        log = self._logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *command, "--port", str(port), "--exit-with-parent"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        part = _Part(f"the {'local Stripe' if name == 'stripe' else name}", process, log)
        self._parts.append(part)
        return part

    def _start_service(self, environment: Mapping[str, str]) -> _Part:
        self._check_stop()
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            env=environment,
            start_new_session=True,
        )
        # The service knows nothing of us, so somebody else has to see to it that it ends with us.
        watchdog = Watchdog(["/bin/sh", "-c", f"kill -TERM {process.pid}"])
        part = _Part("the service", process, None, watchdog)
        self._parts.append(part)
        return part

    def _environment(self, running: Running) -> dict[str, str]:
        # Everything that leads somewhere is set, so that neither the caller's environment nor a
        # .env file can lead this system to another database, or to the real Stripe.
        assert self._cluster is not None
        return {
            **os.environ,
            # `cron` needs psql, which is not on everybody's path.
            "PATH": f"{os.environ.get('PATH', os.defpath)}:{self._cluster.programs.bindir}",
            "MANA_ENV": "development",
            "PORT": str(self._settings.port),
            "BASE_URL": running.base_url,
            "DATABASE_URL": running.database_url,
            "ADMIN_DATABASE_URL": running.admin_database_url,
            "LISTEN_DATABASE_URL": running.database_url,
            "CRON_DATABASE": "postgres",
            "MANA_AUTH_URL": running.issuer_url,
            "JWKS_URL": f"{running.issuer_url}/api/auth/jwks",
            "MANA_LOGIN_URL": f"{running.issuer_url}/login",
            # A page under another host than BASE_URL's leads buyers back to where they were.
            "CORS_ORIGINS": ",".join((*self._settings.cors_origins, *running.origins)),
            "MANA_NOTIFY_URL": running.mailbox_url,
            "STRIPE_SECRET_KEY": running.stripe_key,
            "STRIPE_WEBHOOK_SECRET": running.webhook_secret,
            "STRIPE_API_BASE": running.stripe_url,
        }

    def _run(self, name: str, *arguments: str, environment: Mapping[str, str]) -> None:
        """Run one of the service's own commands to its end."""
        self._check_stop()
        log = self._logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "service", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        part = _Part(name, process, log)
        self._parts.append(part)
        while process.poll() is None:
            self._check_stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        self._parts.remove(part)
        if process.returncode != 0:
            lines = log.read_text(errors="replace").strip().splitlines()
            reason = lines[-1].strip() if lines else "no reason given"
            raise SystemFailedError(f"{name} failed: {reason}{_see(log)}")

    def _wait_for(self, part: _Part, is_up: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not is_up():
            self._check_stop()
            if part.process.poll() is not None:
                raise SystemFailedError(part.how_it_ended())
            if time.monotonic() > deadline:
                raise SystemFailedError(f"{part.name} does not come up{_see(part.log)}")
            time.sleep(0.05)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise StopRequestedError

    def _pgpass(self, cluster: Cluster) -> str:
        return "".join(
            f"127.0.0.1:{cluster.port}:*:{login}:{cluster.password(login)}\n"
            for login in (SUPERUSER, SERVICE_LOGIN)
        )


class _Ports:
    """The ports that were chosen earlier, so that a restart finds the same ones if it can."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ports: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            self._ports = msgspec.json.decode(path.read_bytes(), type=dict[str, int])

    def take(self, name: str) -> int:
        self._ports[name] = free_port(self._ports.get(name))
        return self._ports[name]

    def keep(self) -> None:
        self._path.write_bytes(msgspec.json.encode(self._ports))


def _issuer_key_file(data_dir: Path) -> Path:
    return data_dir / "issuer.json"


def _add_packages(admin_url: str) -> None:
    with psycopg.connect(admin_url) as connection:
        connection.execute("SET ROLE mana_credits_owner")
        connection.cursor().executemany(
            """
            INSERT INTO credits.packages
                (id, name, description, credits, price_euro_cents, sort_order)
            VALUES (%s, %s, %s, %s, %s, %s)
            ON CONFLICT (id) DO NOTHING
            """,
            [(*package, order) for order, package in enumerate(_PACKAGES, start=1)],
        )


def _add_people(admin_url: str) -> None:
    """Give the demo users what they begin with; once, whatever they have done with it since."""
    with psycopg.connect(admin_url) as connection:
        connection.execute("SET ROLE mana_credits_owner")
        connection.cursor().executemany(
            """
            SELECT FROM credits.grant_credits(
                p_user_id => %s, p_amount => %s, p_reason => 'demo', p_reference_id => 'demo',
                p_description => 'To begin with'
            )
            """,
            [(user.person.sub, user.credits) for user in DEMO_USERS if user.credits],
        )


def demo_package_ids() -> Iterator[str]:
    """Yield the ids of the packages that a system has from the start, the smallest first."""
    return (package[0] for package in _PACKAGES)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _write_private(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    unfinished.replace(path)


def _see(log: Path | None) -> str:
    return f": see {log}" if log is not None else ""
