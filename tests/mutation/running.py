"""Run the tests against mutants: a cluster for each worker, a fork of it for each mutant.

A worker has imported pytest and all tests before it forks, and its cluster is there already: what a
mutant costs is a clone of the template, the mutant's function in it, and the tests themselves.
"""

import contextlib
import inspect
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, Literal

import psycopg
import pytest
from _pytest.fixtures import SubRequest
from psycopg import sql
from pytest_postgresql.janitor import DatabaseJanitor

from service.dev.postgres import Cluster, temporary_cluster
from service.migrate import OWNER, migrate
from tests.mutation.tests import DESELECTED, FIXTURES_IGNORED, IGNORED, Seen
from tests.support.databases import as_settings

State = Literal["killed", "timed out", "survived", "refused"]

SOUND = "sound"
TEMPLATE = "mutant"

# A test that takes so much longer than it did has come to hang.
_PATIENCE_SECONDS = 30.0
_PATIENCE_FACTOR = 6.0
_EXIT_SECONDS = 10.0

_forking = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the tests ended for a mutant."""

    state: State
    by: str  # the test that failed, or what PostgreSQL said
    message: str
    tests: int  # that ended
    seconds: float


class _Lent:
    """A pytest plugin: the cluster and template that are there, and the tests that are wanted."""

    def __init__(self, cluster: Cluster, tests: Sequence[str] | None) -> None:
        self._lent: dict[str, object] = {"cluster": cluster, "template": TEMPLATE}
        self._wanted = None if tests is None else {name: n for n, name in enumerate(tests)}

    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: SubRequest
    ) -> object | None:
        """Answer in the place of the fixtures of tests/conftest.py."""
        lent = self._lent.get(fixturedef.argname)
        if lent is not None:
            fixturedef.cached_result = (lent, fixturedef.cache_key(request), None)
        return lent

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the tests that are wanted, in their order."""
        if self._wanted is not None:
            wanted = self._wanted
            items[:] = sorted(
                (item for item in items if item.nodeid in wanted), key=lambda i: wanted[i.nodeid]
            )


class _Told(_Lent):
    """Tells how each test went, and lets none go on for ever."""

    def __init__(
        self, cluster: Cluster, tests: Sequence[str], limits: Mapping[str, float], pipe: Pipe
    ) -> None:
        super().__init__(cluster, tests)
        self._limits = limits
        self._pipe = pipe

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Say that a test begins; the signal's default is the end of the process."""
        self._pipe.send(("began", item.nodeid, ""))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, self._limits[item.nodeid])
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Say that it failed, and how."""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = crash.message if crash else str(report.longrepr)
            self._pipe.send(("failed", report.nodeid, said[:300]))


class _Recorder(_Lent):
    """Writes down how long each test took, and which functions it has called."""

    def __init__(self, cluster: Cluster, tests: Sequence[str]) -> None:
        super().__init__(cluster, tests)
        self._test = ""
        self.failed: dict[str, str] = {}
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.functions: defaultdict[str, set[str]] = defaultdict(set)
        drop = DatabaseJanitor.drop

        def look_and_drop(janitor: DatabaseJanitor) -> None:
            self.functions[self._test] |= _called(cluster, janitor.dbname)
            drop(janitor)

        # In this process alone, which does nothing else.
        setattr(DatabaseJanitor, "drop", look_and_drop)  # noqa: B010

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Know to whom a database belongs that is dropped."""
        self._test = item.nodeid
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up what a test takes."""
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed[report.nodeid] = report.longreprtext[-400:]


def _called(cluster: Cluster, dbname: str) -> set[str]:
    """The functions that were called in a database, once every connection has reported them."""
    with psycopg.connect(cluster.admin_url(dbname), autocommit=True) as connection:
        others = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        deadline = time.monotonic() + _EXIT_SECONDS
        while connection.execute(others).fetchone() and time.monotonic() < deadline:
            time.sleep(0.005)
        rows = connection.execute(
            "SELECT schemaname || '.' || funcname FROM pg_stat_user_functions"
        )
        return {str(row[0]) for row in rows}


def collect(paths: Sequence[str]) -> dict[str, bool]:
    """Import the tests in these paths: their names, and in which of them callers may meet."""
    found: dict[str, bool] = {}

    class Collected:
        def pytest_collection_finish(self, session: pytest.Session) -> None:
            for item in session.items:
                assert isinstance(item, pytest.Function)
                if not FIXTURES_IGNORED.intersection(item.fixturenames):
                    meets = _MEETING.search(inspect.getsource(item.function))
                    found[item.nodeid] = meets is not None

    with _silence():
        status = pytest.main(["--collect-only", *_ARGUMENTS, *paths], plugins=[Collected()])
    assert status == pytest.ExitCode.OK, "the tests cannot be collected"
    return found


# Somebody waits, goes on beside another, or keeps a transaction open.
_MEETING = re.compile(
    r"blocked|gather|create_task|ensure_future|TaskGroup|transaction|BEGIN"
    r"|in_turn|require_order|two_wait"
)
_ARGUMENTS = [
    "-q",
    "--no-header",
    "--no-summary",
    # What is imported already could not be rewritten.
    "--assert=plain",
    *("-p", "no:xdist"),
    *(f"--ignore={path}" for path in IGNORED),
    *(f"--deselect={test}" for test in DESELECTED),
]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Let nothing be printed, by whomever."""
    kept = os.dup(1), os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for number in (*kept, nothing):
            os.close(number)


def _files(tests: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.partition("::")[0] for name in tests))


@contextlib.contextmanager
def _prepared(settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    with temporary_cluster(settings) as cluster:
        cluster.ensure_database(SOUND)
        migrate(as_settings(cluster, SOUND))
        yield cluster


@contextlib.contextmanager
def _mutated(cluster: Cluster, text: str) -> Iterator[None]:
    """The template for as long as the context lasts, with this in the place of a function."""
    with psycopg.connect(cluster.admin_url(), autocommit=True) as server:
        _drop_others(server)
        server.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE {SOUND}".encode())
        try:
            with psycopg.connect(cluster.admin_url(TEMPLATE)) as connection:
                connection.execute(f"SET LOCAL ROLE {OWNER}".encode())
                connection.execute(text.encode())
            yield
        finally:
            _drop_others(server)


def _drop_others(server: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Drop what a test has left that did not come to its end, and the template itself."""
    names = server.execute(
        "SELECT datname FROM pg_database WHERE datname NOT IN"
        " ('postgres', 'template0', 'template1', %s)",
        [SOUND],
    ).fetchall()
    for (name,) in names:
        drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
        server.execute(drop)


def _fork_tests(
    cluster: Cluster, tests: Sequence[str], seconds: Mapping[str, float]
) -> tuple[State, str, str, int]:
    """Run tests in a fork until one fails."""
    limits = {name: _PATIENCE_SECONDS + _PATIENCE_FACTOR * seconds.get(name, 0) for name in tests}
    ours, theirs = _forking.Pipe(duplex=False)

    def work() -> None:
        os.setsid()
        with _silence():
            plugin = _Told(cluster, tests, limits, theirs)
            pytest.main(["-x", *_ARGUMENTS, *_files(tests)], plugins=[plugin])

    process = _forking.Process(target=work)
    process.start()
    theirs.close()
    began, failed = [""], None
    with contextlib.suppress(EOFError):
        while True:
            what, test, said = ours.recv()
            if what == "began":
                began.append(test)
            elif failed is None:
                # The rest, taking down what it had, is no longer of interest.
                failed = (test, said)
                break
    process.join(_EXIT_SECONDS if failed else None)
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    if failed:
        return "killed", *failed, len(began) - 1
    if process.exitcode == -signal.SIGALRM:
        return "timed out", began[-1], "took too long", len(began) - 1
    if process.exitcode != 0 or len(began) - 1 != len(tests):
        raise RuntimeError(f"pytest ended with {process.exitcode} in or after {began[-1] or tests}")
    return "survived", "", "", len(tests)


def try_mutant(
    cluster: Cluster, text: str, tests: Sequence[str], seconds: Mapping[str, float]
) -> Outcome:
    """Let tests find out a mutant, of which this is the SQL."""
    start = time.monotonic()
    try:
        with _mutated(cluster, text):
            state, by, message, number = _fork_tests(cluster, tests, seconds) if tests else (
                "survived", "", "no test calls it", 0
            )  # fmt: skip
    except psycopg.errors.Error as error:
        state, by, message, number = "refused", "", str(error.diag.message_primary), 0
    return Outcome(state, by, message, number, round(time.monotonic() - start, 1))


Task = tuple[int, str, list[str]]


class Workers:
    """So many processes that try mutants, each with a cluster of its own."""

    def __init__(self, number: int, seconds: Mapping[str, float]) -> None:
        self._seconds = seconds
        self._pipes: list[Pipe] = []
        self._processes = []
        for _ in range(number):
            ours, theirs = _forking.Pipe()
            self._pipes.append(ours)
            process = _forking.Process(target=self._serve, args=(theirs,))
            process.start()
            theirs.close()
            self._processes.append(process)

    def _serve(self, pipe: Pipe) -> None:
        # Ctrl-C is for the parent; a worker ends when the parent's end of the pipe is gone.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for end in self._pipes:
            end.close()
        with _prepared() as cluster, contextlib.suppress(EOFError, BrokenPipeError):
            while True:
                number, text, tests = pipe.recv()
                pipe.send((number, try_mutant(cluster, text, tests, self._seconds)))

    def run(self, tasks: Iterator[Task], done: Callable[[int, Outcome], None]) -> None:
        """Try everything, and say of each how it ended."""
        busy: set[Pipe] = set()
        for pipe in self._pipes:
            self._send(pipe, tasks, busy)
        while busy:
            for ready in multiprocessing.connection.wait(list(busy)):
                assert isinstance(ready, Pipe)
                busy.discard(ready)
                done(*ready.recv())
                self._send(ready, tasks, busy)

    @staticmethod
    def _send(pipe: Pipe, tasks: Iterator[Task], busy: set[Pipe]) -> None:
        task = next(tasks, None)
        if task is not None:
            pipe.send(task)
            busy.add(pipe)

    def close(self) -> None:
        """Let them end, with their clusters."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()


def record(
    tests: Sequence[str], unchanged: str, jobs: int
) -> tuple[dict[str, Seen], dict[str, str]]:
    """Run tests once; what each of them has done, and what was said by those that have failed."""
    # Whole files, so that those that take long do not all go to one.
    shares: list[list[str]] = [[] for _ in range(jobs)]
    for number, file in enumerate(sorted(_files(tests))):
        shares[number % jobs] += [name for name in tests if name.startswith(f"{file}::")]
    pipes = []
    for share in filter(None, shares):
        ours, theirs = _forking.Pipe(duplex=False)
        process = _forking.Process(target=_record_share, args=(share, unchanged, theirs))
        process.start()
        theirs.close()
        pipes.append((process, ours))
    seen: dict[str, Seen] = {}
    failed: dict[str, str] = {}
    for process, pipe in pipes:
        some, fails = pipe.recv()
        seen |= some
        failed |= fails
        process.join()
    return seen, failed


def _record_share(tests: Sequence[str], unchanged: str, pipe: Pipe) -> None:
    with _prepared({"track_functions": "all"}) as cluster, _mutated(cluster, unchanged):
        recorder = _Recorder(cluster, tests)
        with _silence():
            pytest.main([*_ARGUMENTS, *_files(tests)], plugins=[recorder])
        pipe.send(
            (
                {
                    name: Seen(round(seconds, 3), frozenset(recorder.functions[name]))
                    for name, seconds in recorder.seconds.items()
                    if name not in recorder.failed
                },
                recorder.failed,
            )
        )
