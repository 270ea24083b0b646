"""The database as the service sees it: reads, and moves that survive a broken connection.

A *read* is repeated when its connection breaks. A *move* changes something: every function
behind one is idempotent by the id that was drawn before the call, so a move whose connection
broke after it was sent is settled by calling it again with the same arguments. Only when that
fails for a few seconds as well is its outcome unknown.

Nothing of PostgreSQL's own words reaches a caller: `str(error)` of asyncpg contains DETAIL.
"""

import asyncio
import contextlib
import functools
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import asyncpg
import msgspec
import structlog
from asyncpg.transaction import Transaction

from service.batches import SIZE_MAX, Batcher, BatchFailedError, Kind
from service.errors import ApiError, OutcomeUnknownError, UnavailableError, from_postgres
from service.pool import FAILURES, Pool, is_closed

APPLICATION_NAME: Final = "mana-credits"

STATEMENT_CACHE: Final = 100
"""Prepared statements that a connection keeps, where none of another number was chosen."""
CONNECT_SECONDS: Final = 3.0
"""To open one connection; below mana-sync's patience of 5 s."""
ACQUIRE_SECONDS: Final = 4.0
"""To get a connection of the pool, opening one included."""
COMMAND_SECONDS: Final = 10.0
"""For one statement, unless the caller gives another time."""
SETTLE_SECONDS: Final = 5.0
"""How long a move whose connection broke is called again."""
LISTEN_RETRY_MAX_SECONDS: Final = 10.0

READ_ATTEMPTS: Final = 3
CONFLICT_ATTEMPTS: Final = 6
BACKOFF_SECONDS: Final = 0.02
BACKOFF_MAX_SECONDS: Final = 0.5

_CONFLICTS: Final = frozenset({"40001", "40P01", "55P03"})
_REFUSED: Final = frozenset({"57014", "25006"})
"""The statement was rolled back: cancelled, or sent to a server that became a standby."""
_FORGOTTEN: Final = frozenset({"26000", "42P05"})
"""A statement that was prepared is not there, or another one of its name: nothing was done."""
_BROKEN: Final = frozenset({"57P01", "57P02", "57P03", "57P05"})


Record = asyncpg.Record

if TYPE_CHECKING:
    from service.pool import PooledConnection

    _OwnConnection = asyncpg.Connection[Record]
    _NewConnection = _OwnConnection | PooledConnection

_T = TypeVar("_T")
_C = TypeVar("_C")
_T_co = TypeVar("_T_co", covariant=True)

_log = structlog.get_logger(__name__)


class _Fetch(Protocol[_T_co]):
    def __call__(self, connection: "PooledConnection", timeout: float) -> Awaitable[_T_co]: ...


class _NotSentError(Exception):
    """No connection could be had: nothing was sent."""


class _LostError(Exception):
    """The connection broke, or did not answer in time: what was sent may have been done."""


class _ConflictError(Exception):
    """Rolled back because of another transaction: worth trying again."""


class _RefusedError(Exception):
    """Rolled back by a database that cannot serve at the moment."""


class Database:
    """A pool of connections that is opened lazily, so that the service starts without a database.

    Every method raises ApiError: by the table of `service.errors` for what a function raised,
    UnavailableError when nothing happened, and, for moves alone, OutcomeUnknownError.
    """

    def __init__(
        self,
        dsn: str,
        *,
        pool_max: int = 10,
        statement_cache: int | None = None,
        batch_min: int = 2,
        batch_max: int = SIZE_MAX,
        database: str | None = None,
    ) -> None:
        """`database` is another database of the same server than the one that `dsn` names.

        `statement_cache`: prepared statements that a connection keeps. Without a number they are
        STATEMENT_CACHE, and none behind a pooler: that may let others use the connection between
        two calls, where theirs have the same names.

        From `batch_min` waiting calls on, up to `batch_max` go as one statement; with a `batch_max`
        of 1 each call is a statement of its own, and none waits for another.
        """
        self._dsn = dsn
        self._database = database
        self._pool_max = pool_max
        self._statement_cache = statement_cache
        self._batch_min = batch_min
        self._batch_max = batch_max
        self._batchers: dict[str, Batcher[Any, Any]] = {}
        self._batch_sent: Callable[[str, int], None] | None = None
        self._pool: Pool | None = None
        self._pooled: bool | None = None

    async def open(self) -> None:
        """Make the pool; connects to nothing yet."""
        pool = await asyncpg.create_pool(
            self._dsn,
            database=self._database,
            # No connection is needed to start, and none is held that nobody uses.
            min_size=0,
            max_size=self._pool_max,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            connect=self._connect,
            server_settings={"application_name": APPLICATION_NAME},
            init=self._prepare,
            # The service sets nothing on a connection, so there is nothing to reset,
            # and each call is spared a round trip.
            reset=_reset_nothing,
        )
        self._pool = Pool(pool)

    @property
    def pooled(self) -> bool | None:
        """Whether a pooler is between us and the database; None before the first connection."""
        return self._pooled

    async def _connect(self, *args: Any, **options: Any) -> "_OwnConnection":
        found_out = self._pooled is not None
        connection = await self._connect_once(*args, **options)
        if not found_out:
            try:
                pooled = await _is_pooled(connection)
            except BaseException:
                connection.terminate()
                raise
            # Several may be connecting at once, of which one says so.
            first, self._pooled = self._pooled is None, pooled
            if pooled and self._statement_cache is None:
                if first:
                    _log.info("a pooler is in between: prepared statements are not kept")
                connection.terminate()
                return await self._connect_once(*args, **options)
            if pooled and self._statement_cache and first:
                _log.warning(
                    "through a pooler DATABASE_STATEMENT_CACHE has to be 0 or not set,"
                    " unless it keeps prepared statements"
                )
        return connection

    async def _prepare(self, connection: "_NewConnection") -> None:
        async with connection.transaction() if self._pooled else contextlib.nullcontext():
            await set_json_codecs(connection)

    async def _connect_once(self, *args: Any, **options: Any) -> "_OwnConnection":
        cache = self._statement_cache
        if cache is None:
            cache = 0 if self._pooled else STATEMENT_CACHE
        made: _OwnConnection = await asyncpg.connect(*args, statement_cache_size=cache, **options)
        return made

    async def close(self, seconds: float = 5.0) -> None:
        """Close every connection; those still in use after `seconds` are cut."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    def pool_use(self) -> tuple[int, int, int]:
        """Connections that are open, of those idle, and how many there may be."""
        if self._pool is None:
            return 0, 0, self._pool_max
        return self._pool.open, self._pool.idle, self._pool_max

    def watch_batches(self, sent: Callable[[str, int], None]) -> None:
        """Tell `sent` the kind and the number of calls of each batch from now on."""
        self._batch_sent = sent

    def waiting_calls(self) -> dict[str, int]:
        """How many calls have not been sent yet, by their kind."""
        return {name: batcher.waiting for name, batcher in self._batchers.items()}

    async def row(self, sql: str, *args: object, seconds: float = COMMAND_SECONDS) -> Any:
        """The first row of a query that changes nothing, or None."""
        return await self._read(_row(sql, args), seconds)

    async def rows(self, sql: str, *args: object, seconds: float = COMMAND_SECONDS) -> list[Record]:
        """All rows of a query that changes nothing."""
        return await self._read(_rows(sql, args), seconds)

    async def value(self, sql: str, *args: object, seconds: float = COMMAND_SECONDS) -> Any:
        """The first column of the first row of a query that changes nothing, or None."""
        return await self._read(_value(sql, args), seconds)

    async def move(
        self,
        sql: str,
        *args: object,
        seconds: float = COMMAND_SECONDS,
        settle_until: float | None = None,
    ) -> Record:
        """The one row that a function answers which changes something.

        The function must be idempotent by its arguments (an id that is drawn before the call),
        because this calls it again when a connection breaks or transactions collide. With
        `settle_until` it may have been done already, by a statement whose connection broke.
        """
        row = await self._move(_row(sql, args), seconds, settle_until)
        if row is None:
            raise LookupError("a function that changes something answered no row")
        return row

    async def move_rows(
        self, sql: str, *args: object, seconds: float = COMMAND_SECONDS
    ) -> list[Record]:
        """All rows that such a function answers."""
        return await self._move(_rows(sql, args), seconds)

    async def batched(self, kind: Kind[_C, _T], call: _C) -> _T:
        """Do a call together with those of its kind that are made meanwhile; see service.batches.

        Raises what the call alone raises, and UnavailableError when too many wait already.
        """
        if self._batch_max == 1:
            return await kind.alone(self, call, None)
        batcher = self._batchers.get(kind.name)
        if batcher is None:
            batcher = self._batchers[kind.name] = Batcher(
                self,
                kind,
                size_min=self._batch_min,
                size_max=self._batch_max,
                # The batches and what is not batched keep connections of their own.
                apart_max=max(self._pool_max - 3, 1),
                sent=self._batch_sent,
            )
        answer: _T = await batcher.call(call)
        return answer

    async def move_together(self, sql: str, calls: Sequence[object]) -> list[Record]:
        """The rows of one statement that makes many moves, which is not repeated.

        Raises UnavailableError where nothing was done, and BatchFailedError where the calls are to
        be made one by one.
        """
        try:
            # Giving the connection back takes a moment in which further calls arrive. Without it
            # statements have a fifth fewer calls each, and fewer moves are made in all.
            return await self._once(_rows(sql, (calls,)), COMMAND_SECONDS, keep=False)
        except (_NotSentError, _RefusedError) as error:
            raise _unavailable(error) from error
        except _LostError as error:
            raise BatchFailedError(time.monotonic() + SETTLE_SECONDS) from error
        except Exception as error:
            # Rolled back, for the sake of one call or of another transaction; or never sent, since
            # asyncpg could not encode it.
            raise BatchFailedError from error

    async def _read(self, fetch: _Fetch[_T], seconds: float) -> _T:
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                return await self._once(fetch, seconds)
            except (_NotSentError, _RefusedError) as error:
                raise _unavailable(error) from error
            except (_LostError, _ConflictError) as error:
                timed_out = isinstance(error.__cause__, TimeoutError)
                if attempt == READ_ATTEMPTS or timed_out:
                    raise _unavailable(error) from error
            await asyncio.sleep(_backoff(attempt))
        raise AssertionError("unreachable")

    async def _move(
        self, fetch: _Fetch[_T], seconds: float, settle_until: float | None = None
    ) -> _T:
        """`settle_until` is set once an earlier attempt may have been done."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._once(fetch, seconds, until=settle_until)
            except (_NotSentError, _RefusedError) as error:
                if settle_until is None:
                    raise _unavailable(error) from error
                failure: Exception = error
            except _ConflictError as error:
                if settle_until is None and attempt >= CONFLICT_ATTEMPTS:
                    raise _unavailable(error) from error
                failure = error
            except _LostError as error:
                if settle_until is None:
                    settle_until = time.monotonic() + SETTLE_SECONDS
                    _log.warning("settling a move", cause=_cause(error))
                failure = error
            except asyncpg.PostgresError as error:
                # A defect met while settling says nothing about what was sent before it.
                if settle_until is None:
                    raise
                _log.error("a move could not be settled", exc_info=error)
                raise OutcomeUnknownError from error
            pause = _backoff(attempt)
            if settle_until is not None and time.monotonic() + pause >= settle_until:
                _log.error("the outcome of a move is unknown", cause=_cause(failure))
                raise OutcomeUnknownError from failure
            await asyncio.sleep(pause)

    async def _once(
        self, fetch: _Fetch[_T], seconds: float, until: float | None = None, *, keep: bool = True
    ) -> _T:
        """One attempt, with what went wrong sorted by what it means for what was sent.

        With `keep` its connection may stay at hand for the next call.
        """
        if until is not None:
            # A first attempt that hangs does not decide how long the settling takes.
            seconds = min(seconds, max(until - time.monotonic(), 0.1))
        async with self._connection(until, keep=keep) as connection:
            try:
                if self._pooled:
                    return await _in_transaction(connection, fetch, seconds)
                return await fetch(connection, seconds)
            except asyncpg.PostgresError as error:
                if (meant := _sorted(error)) is None:
                    raise
                raise meant from error
            except (TimeoutError, OSError, asyncpg.InternalClientError) as error:
                raise _LostError from error
            except asyncpg.InterfaceError as error:
                # Found closed before anything was sent; anything else is a defect of ours.
                if is_closed(connection) and not isinstance(error, asyncpg.DataError):
                    raise _LostError from error
                raise

    @contextlib.asynccontextmanager
    async def _connection(
        self, until: float | None, *, keep: bool
    ) -> AsyncIterator["PooledConnection"]:
        pool = self._pool
        if pool is None:
            raise _NotSentError("closed")
        seconds = ACQUIRE_SECONDS
        if until is not None:
            seconds = min(seconds, max(until - time.monotonic(), 0.1))
        try:
            # asyncpg's own time limit would make a task of it.
            async with asyncio.timeout(seconds):
                connection = await pool.acquire()
        except FAILURES as error:
            _tell_if_forgotten(error)
            raise _NotSentError from error
        try:
            yield connection
        except BaseException as error:
            if isinstance(error, _RefusedError) and _sqlstate(error) == "25006":
                # The address leads to a standby now: the next connections may reach the primary.
                await pool.expire()
            if isinstance(error, Exception) and not isinstance(error, _LostError):
                await pool.release(connection)
            else:
                # After a time-out asyncpg asks the server to cancel, and releasing waits for
                # that: the caller does not.
                pool.release_later(connection)
            raise
        else:
            await pool.release(connection, keep=keep)


def _resolve(future: asyncio.Future[None], *_: object) -> None:
    if not future.done():
        future.set_result(None)


async def listening(dsn: str, channel: str, wake: Callable[[], None]) -> None:
    """Call `wake` for every NOTIFY on `channel`, until cancelled; it connects again by itself.

    `wake` is called once more after every connection, since what came in between was missed.
    """
    attempt = 0
    while True:
        connection: asyncpg.Connection[Record] | None = None
        try:
            connection = await asyncpg.connect(
                dsn, timeout=CONNECT_SECONDS, server_settings={"application_name": APPLICATION_NAME}
            )
            lost = asyncio.get_running_loop().create_future()
            connection.add_termination_listener(functools.partial(_resolve, lost))
            await connection.add_listener(channel, lambda *_: wake())
            attempt = 0
            wake()
            await lost
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            _log.debug("not listening", channel=channel, cause=_cause(error))
        finally:
            if connection is not None:
                connection.terminate()
        attempt += 1
        await asyncio.sleep(min(_backoff(attempt) * 2**attempt, LISTEN_RETRY_MAX_SECONDS))


def _row(sql: str, args: tuple[object, ...]) -> _Fetch[Record | None]:
    return lambda connection, timeout: connection.fetchrow(sql, *args, timeout=timeout)


def _rows(sql: str, args: tuple[object, ...]) -> _Fetch[list[Record]]:
    return lambda connection, timeout: connection.fetch(sql, *args, timeout=timeout)


def _value(sql: str, args: tuple[object, ...]) -> _Fetch[Any]:
    return lambda connection, timeout: connection.fetchval(sql, *args, timeout=timeout)


def _sorted(error: asyncpg.PostgresError) -> Exception | None:
    """What an error of PostgreSQL means for the statement that met it; None for a defect."""
    state = error.sqlstate or ""
    if state in _CONFLICTS:
        return _ConflictError()
    if state in _FORGOTTEN:
        _tell_if_forgotten(error)
        return _RefusedError()
    if state in _REFUSED or state.startswith("53"):
        return _RefusedError()
    if state in _BROKEN or state.startswith("08"):
        return _LostError()
    return from_postgres(error)


def _tell_if_forgotten(error: BaseException) -> None:
    if getattr(error, "sqlstate", None) in _FORGOTTEN:
        _log.error(
            "a pooler loses prepared statements: DATABASE_STATEMENT_CACHE has to be 0 or not set",
            cause=_cause(error),
        )


def _unavailable(error: Exception) -> ApiError:
    _log.warning("the database is not available", cause=_cause(error))
    return UnavailableError()


def _sqlstate(error: BaseException) -> str | None:
    return getattr(error.__cause__, "sqlstate", None)


def _cause(error: BaseException) -> str:
    """What went wrong, in words that hold no data: the class, and the SQLSTATE if there is one."""
    cause = error.__cause__ or error
    state = getattr(cause, "sqlstate", None)
    return type(cause).__name__ if state is None else f"{type(cause).__name__} {state}"


def _backoff(attempt: int) -> float:
    """Seconds before the next attempt: doubling, with full jitter, so that callers spread out."""
    ceiling = min(BACKOFF_SECONDS * 2**attempt, BACKOFF_MAX_SECONDS)
    return random.uniform(ceiling / 4, ceiling)  # noqa: S311 - not a secret


async def _is_pooled(connection: "_NewConnection") -> bool:
    """Whether another process does the work than the one that was named for cancelling it.

    PostgreSQL names the connection's own. A pooler has to make one up, since it will be several.
    """
    async with connection.transaction():
        # Without a name the statement stays behind nowhere.
        asked = await connection.prepare(
            "SELECT pg_catalog.pg_backend_pid()", name="", timeout=CONNECT_SECONDS
        )
        pid: int = await asked.fetchval(timeout=CONNECT_SECONDS)
    return pid != connection.get_server_pid()


async def loses_statements(dsn: str) -> bool:
    """Whether two connections to a pooler were seen to share one, and what was prepared on it.

    False proves nothing: a busy pooler may have given them two. Raises what asyncpg raises.
    """
    name = f"mana_credits_{uuid.uuid4().hex}"
    callers: list[_OwnConnection] = []
    try:
        for _ in range(2):
            caller = await asyncpg.connect(
                dsn,
                timeout=CONNECT_SECONDS,
                command_timeout=COMMAND_SECONDS,
                statement_cache_size=0,
                server_settings={"application_name": APPLICATION_NAME},
            )
            callers.append(caller)
        try:
            for caller in callers:
                # Run as well, because a pooler gives a connection back only after that.
                await (await caller.prepare("SELECT 1", name=name)).fetchval()
        except asyncpg.DuplicatePreparedStatementError:
            with contextlib.suppress(asyncpg.PostgresError):
                await callers[0].execute(f'DEALLOCATE "{name}"')
            return True
        return False
    finally:
        for caller in callers:
            caller.terminate()


async def _in_transaction(connection: "PooledConnection", fetch: _Fetch[_T], seconds: float) -> _T:
    """What a pooler in transaction mode does on one connection of the server.

    asyncpg prepares a statement and then runs it, and between the two the pooler may take another.
    """
    transaction = connection.transaction()
    await transaction.start()
    try:
        answer = await fetch(connection, seconds)
    except asyncpg.PostgresError:
        await _roll_back(connection, transaction)
        raise
    except BaseException:
        # Nobody may get it with a transaction that is open; without its caller it is rolled back.
        _terminate(connection)
        raise
    await transaction.commit()
    return answer


async def _roll_back(connection: "PooledConnection", transaction: Transaction) -> None:
    try:
        await transaction.rollback()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        _terminate(connection)
    except BaseException:
        _terminate(connection)
        raise


def _terminate(connection: "PooledConnection") -> None:
    # One that has ended is the pool's already.
    with contextlib.suppress(asyncpg.InterfaceError):
        connection.terminate()


async def set_json_codecs(connection: "_NewConnection") -> None:
    """Let a connection read and write JSON as Python values."""
    # Binary, since asyncpg reads no text inside of a composite; jsonb begins with its version then.
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: b"\x01" + msgspec.json.encode(value),
        decoder=lambda data: decode_json(data[1:]),
        format="binary",
    )
    await connection.set_type_codec(
        "json",
        schema="pg_catalog",
        encoder=msgspec.json.encode,
        decoder=decode_json,
        format="binary",
    )


async def _reset_nothing(connection: "_NewConnection") -> None:
    pass


def decode_json(text: str | bytes) -> Any:
    """JSON of the database as Python values.

    jsonb holds numbers beyond what msgspec reads; whoever works with psql can have stored some.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return json.loads(text, parse_int=_whole_number)


def _whole_number(digits: str) -> int | float:
    # int() refuses more than 4300 digits.
    return int(digits) if len(digits) <= 4000 else float("inf")
