"""Reads and moves on a real PostgreSQL that breaks in every way it can."""

import asyncio
import contextlib
import struct
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from service import db as db_module
from service.db import Database
from service.dev.postgres import Cluster, temporary_cluster
from service.errors import ApiError, OutcomeUnknownError, UnavailableError
from service.ids import uuid7
from tests.api.http_support import until

SCHEMA = """
CREATE TABLE moves (id uuid PRIMARY KEY, amount bigint NOT NULL);
CREATE SEQUENCE attempts;  -- sequences do not roll back, so they count the attempts

CREATE FUNCTION attempt(p_id uuid, p_failures integer, p_state text, p_pause float DEFAULT 0)
RETURNS moves LANGUAGE plpgsql AS $$
DECLARE v_move moves;
BEGIN
    IF nextval('attempts') <= p_failures THEN
        PERFORM pg_sleep(p_pause);
        IF p_state IS NOT NULL THEN
            RAISE EXCEPTION 'planted' USING ERRCODE = p_state, DETAIL = '{"required": 3}';
        END IF;
    END IF;
    INSERT INTO moves VALUES (p_id, 5) ON CONFLICT DO NOTHING;
    SELECT * INTO STRICT v_move FROM moves WHERE id = p_id;
    RETURN v_move;
END $$;
"""
MOVE = "SELECT * FROM attempt($1, $2, $3, $4)"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with temporary_cluster() as made:
        yield made


@pytest.fixture
async def admin(cluster: Cluster) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection of the test's own, in a database that was just made."""
    connection = await asyncpg.connect(cluster.admin_url())
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public;" + SCHEMA)
    # What is acknowledged must outlive a crash here, though the cluster is not durable.
    await connection.execute("ALTER DATABASE postgres SET synchronous_commit = on")
    yield connection
    await connection.close()


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Database]:
    db = Database(url, **options)
    await db.open()
    try:
        yield db
    finally:
        await db.close()


@pytest.fixture
async def db(
    cluster: Cluster, admin: "asyncpg.Connection[asyncpg.Record]"
) -> AsyncIterator[Database]:
    async with opened(cluster.admin_url(), pool_max=3) as made:
        yield made


class Proxy:
    """Stands between the service and PostgreSQL, and breaks what passes."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.opened = 0
        self.refuse = False
        """Close new connections at once."""
        self.cut_after: bytes | None = None
        """Break the connection when PostgreSQL has answered a message that holds this."""
        self.cut_once = False
        self.cut_count = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self._connections:
                writer.transport.abort()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def drop(self) -> None:
        for writer in self._connections:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.opened += 1
        if self.refuse:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._connections |= {writer, back}
        armed = asyncio.Event()

        async def forward() -> None:
            while data := await reader.read(65536):
                if self.cut_after is not None and self.cut_after in data:
                    armed.set()
                back.write(data)

        async def answer() -> None:
            while data := await there.read(65536):
                # ReadyForQuery: what was sent is done, and nobody will hear of it.
                if armed.is_set() and data.endswith(b"Z\0\0\0\5I"):
                    self.cut_count += 1
                    if self.cut_once:
                        self.cut_after = None
                    return
                writer.write(data)

        ways = {asyncio.create_task(forward()), asyncio.create_task(answer())}
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, back):
            end.transport.abort()
            self._connections.discard(end)


@pytest.fixture
async def proxy(cluster: Cluster) -> AsyncIterator[Proxy]:
    async with Proxy(cluster.port).running() as made:
        yield made


def through(cluster: Cluster, port: int) -> str:
    return cluster.admin_url().replace(f":{cluster.port}/", f":{port}/")


Admin = "asyncpg.Connection[asyncpg.Record]"


async def count(admin: Any) -> int:
    found: int = await admin.fetchval("SELECT count(*) FROM moves")
    return found


async def attempts(admin: Any) -> int:
    found: int = await admin.fetchval("SELECT last_value FROM attempts")
    return found


async def test_values_come_and_go(db: Database) -> None:
    given = {"a": [1, None, 2.5, {"b": "ü"}], "big": 10**30, "tiny": 1e-300}
    assert await db.value("SELECT $1::jsonb", given) == given
    assert await db.value("SELECT $1::json", given) == given
    assert await db.value("SELECT NULL::jsonb") is None
    # What only psql can store.
    assert await db.value("SELECT '{\"n\": 1e5000}'::jsonb") == {"n": float("inf")}
    some = uuid7()
    assert await db.value("SELECT $1::uuid", some) == some
    assert isinstance(await db.value("SELECT $1::uuid", some), uuid.UUID)
    assert [row["n"] for row in await db.rows("SELECT n FROM generate_series(1, 3) AS n")] == [
        1,
        2,
        3,
    ]
    assert await db.row("SELECT 1 WHERE false") is None
    assert await db.value("SELECT current_setting('application_name')") == "mana-credits"


async def test_without_a_statement_cache(
    cluster: Cluster, admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with opened(cluster.admin_url(), statement_cache=0) as db:
        for _ in range(3):
            assert (await db.move(MOVE, uuid7(), 0, None, 0.0))["amount"] == 5
        assert await db.value("SELECT count(*) FROM pg_prepared_statements") == 0


async def test_errors_by_the_table(db: Database, admin: Any) -> None:
    for call in (db.move, db.move_rows, db.row, db.rows, db.value):
        await admin.execute("ALTER SEQUENCE attempts RESTART")
        with pytest.raises(ApiError) as raised:
            await call(MOVE, uuid7(), 1, "MC002", 0.0)
        assert raised.value.code == "insufficient_credits"
        assert raised.value.details == {"required": 3}
        assert await attempts(admin) == 1


async def test_what_is_not_in_the_table_is_a_defect(db: Database, admin: Any) -> None:
    with pytest.raises(asyncpg.PostgresError) as raised:
        await db.move(MOVE, uuid7(), 1, "23505", 0.0)
    assert raised.value.__cause__ is None
    with pytest.raises(asyncpg.PostgresError):
        await db.row("SELECT * FROM nowhere")
    with pytest.raises(asyncpg.DataError):
        await db.value("SELECT $1::bigint", 2**70)
    with pytest.raises(LookupError):
        await db.move("SELECT 1 WHERE false")
    assert await attempts(admin) == 1
    with pytest.raises(ApiError) as told:
        await db.value("SELECT $1::text", "a\0b")
    assert told.value.status == 400


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03"])
async def test_collisions_are_tried_again(db: Database, admin: Any, state: str) -> None:
    assert (await db.move(MOVE, uuid7(), 3, state, 0.0))["amount"] == 5
    assert await attempts(admin) == 4
    assert await count(admin) == 1


async def test_collisions_without_an_end_are_a_503(db: Database, admin: Any) -> None:
    with pytest.raises(UnavailableError):
        await db.move(MOVE, uuid7(), 1000, "40001", 0.0)
    assert await attempts(admin) == db_module.CONFLICT_ATTEMPTS
    assert await count(admin) == 0


@pytest.mark.parametrize("state", ["53100", "53200", "53300", "57014", "25006"])
async def test_a_database_that_cannot_serve_is_a_503(db: Database, admin: Any, state: str) -> None:
    for number, call in enumerate((db.move, db.row), start=1):
        with pytest.raises(UnavailableError) as raised:
            await call(MOVE, uuid7(), 1000, state, 0.0)
        assert "Retry-After" in raised.value.headers
        assert await attempts(admin) == number
    assert await count(admin) == 0


@pytest.mark.parametrize("state", ["57P01", "57P02", "08006"])
async def test_a_server_that_goes_down_meanwhile_is_settled(
    db: Database, admin: Any, state: str
) -> None:
    assert (await db.move(MOVE, uuid7(), 1, state, 0.0))["amount"] == 5
    assert await count(admin) == 1


async def terminate_sleepers(admin: Any) -> int:
    rows = await admin.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE wait_event = 'PgSleep' AND pid <> pg_backend_pid()"
    )
    return len(rows)


async def kill_one(admin: Any) -> None:
    async with asyncio.timeout(30):
        while not await terminate_sleepers(admin):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_move_killed_in_the_middle_is_done_once(db: Database, admin: Any) -> None:
    moving = asyncio.create_task(db.move(MOVE, uuid7(), 1, None, 600.0, seconds=60))
    await kill_one(admin)
    assert (await moving)["amount"] == 5
    assert await attempts(admin) == 2
    assert await count(admin) == 1


async def test_a_read_killed_in_the_middle_is_repeated(db: Database, admin: Any) -> None:
    reading = asyncio.create_task(db.row(MOVE, uuid7(), 1, None, 600.0, seconds=60))
    await kill_one(admin)
    row = await reading
    assert row["amount"] == 5


async def test_killed_while_idle(db: Database, admin: Any) -> None:
    for _ in range(5):
        assert await db.value("SELECT 1") == 1
        await admin.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'mana-credits'"
        )
        # Without waiting: the pool may or may not have noticed.
        assert (await db.move(MOVE, uuid7(), 0, None, 0.0))["amount"] == 5
    assert await count(admin) == 5


async def test_a_move_that_hangs_is_settled_on_another_connection(db: Database, admin: Any) -> None:
    row = await db.move(MOVE, uuid7(), 1, None, 600.0, seconds=0.5)
    assert row["amount"] == 5
    assert await count(admin) == 1


async def test_a_read_that_hangs_is_a_503(db: Database, admin: Any) -> None:
    with pytest.raises(UnavailableError):
        await db.row("SELECT pg_sleep(600)", seconds=0.2)
    assert await db.value("SELECT 1") == 1


async def test_a_connection_lost_after_the_commit(
    cluster: Cluster, admin: Any, proxy: Proxy
) -> None:
    """PostgreSQL has done it and said so, and the word is lost: it is not done again."""
    async with opened(through(cluster, proxy.port)) as db:
        assert (await db.move(MOVE, uuid7(), 0, None, 0.0))["amount"] == 5
        some = uuid7()
        proxy.cut_after, proxy.cut_once = some.bytes, True
        assert (await db.move(MOVE, some, 0, None, 0.0))["id"] == some
        assert proxy.cut_count == 1
        assert await attempts(admin) == 3
        assert await count(admin) == 2


async def test_a_defect_while_settling_leaves_the_outcome_unknown(
    cluster: Cluster, admin: Any, proxy: Proxy
) -> None:
    await admin.execute(
        """
        CREATE FUNCTION once(p_id uuid) RETURNS moves LANGUAGE plpgsql AS $$
        DECLARE v_move moves;
        BEGIN
            IF nextval('attempts') > 1 THEN
                RAISE EXCEPTION 'planted' USING ERRCODE = '23505';
            END IF;
            INSERT INTO moves VALUES (p_id, 5) RETURNING * INTO v_move;
            RETURN v_move;
        END $$
        """
    )
    async with opened(through(cluster, proxy.port)) as db:
        some = uuid7()
        proxy.cut_after, proxy.cut_once = some.bytes, True
        with pytest.raises(OutcomeUnknownError):
            await db.move("SELECT * FROM once($1)", some)
        assert await count(admin) == 1
        with pytest.raises(asyncpg.PostgresError):
            await db.move("SELECT * FROM once($1)", uuid7())


async def test_an_outcome_that_cannot_be_learnt(
    cluster: Cluster, admin: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db_module, "SETTLE_SECONDS", 1.0)
    async with opened(through(cluster, proxy.port)) as db:
        some = uuid7()
        proxy.cut_after = some.bytes
        with pytest.raises(OutcomeUnknownError) as raised:
            await db.move(MOVE, some, 0, None, 0.0)
        assert raised.value.status == 503
        assert raised.value.code == "outcome_unknown"
        assert "Retry-After" not in raised.value.headers
        assert proxy.cut_count > 1
        assert await count(admin) == 1
        # The next call is told what it would have been told.
        proxy.cut_after = None
        assert (await db.move(MOVE, some, 0, None, 0.0))["id"] == some
        assert await count(admin) == 1


async def test_an_outcome_stays_unknown_when_nothing_can_be_reached_afterwards(
    cluster: Cluster, admin: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db_module, "SETTLE_SECONDS", 1.0)
    async with opened(through(cluster, proxy.port), pool_max=1) as db:
        assert await db.value("SELECT 1") == 1
        some = uuid7()
        proxy.cut_after = some.bytes
        moving = asyncio.create_task(db.move(MOVE, some, 0, None, 0.0))
        await until(lambda: proxy.cut_count >= 1)
        proxy.refuse = True
        with pytest.raises(OutcomeUnknownError):
            await moving
        # What was never sent is another matter.
        with pytest.raises(UnavailableError):
            await db.move(MOVE, uuid7(), 0, None, 0.0)
        with pytest.raises(UnavailableError):
            await db.value("SELECT 1")
        proxy.refuse, proxy.cut_after = False, None
        assert await db.value("SELECT 1") == 1
    assert await count(admin) == 1


async def test_a_read_whose_connection_keeps_breaking_is_a_503(
    cluster: Cluster, admin: Any, proxy: Proxy
) -> None:
    async with opened(through(cluster, proxy.port)) as db:
        proxy.cut_after = b"marker"
        with pytest.raises(UnavailableError):
            await db.value("SELECT $1::text", "marker")
        assert proxy.cut_count == db_module.READ_ATTEMPTS


async def test_all_connections_in_use(
    cluster: Cluster, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db_module, "ACQUIRE_SECONDS", 0.3)
    async with opened(cluster.admin_url(), pool_max=1) as db:
        assert await db.value("SELECT 1") == 1
        sleeping = asyncio.create_task(db.row("SELECT pg_sleep(600)", seconds=60))
        async with asyncio.timeout(30):
            while not await admin.fetchval(  # noqa: ASYNC110
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')"
            ):
                await asyncio.sleep(0.01)
        for call in (db.move, db.row):
            with pytest.raises(UnavailableError):
                await call(MOVE, uuid7(), 0, None, 0.0)
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(UnavailableError):
                    assert await db.value("SELECT 1") == 1
                    break


@pytest.mark.parametrize("state", [b"57P03", b"53300", b"28P01", b"3D000"])
async def test_a_server_that_takes_nobody(state: bytes) -> None:
    """What PostgreSQL says at the door: starting up, full, wrong password, no such database."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            (size,) = struct.unpack("!i", await reader.readexactly(4))
            await reader.readexactly(size - 4)
            fields = b"SFATAL\0VFATAL\0C" + state + b"\0Mthe secret reason\0\0"
            writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, opened(f"postgresql://x:y@127.0.0.1:{port}/z?sslmode=disable") as db:
        for call in (db.move, db.value):
            with pytest.raises(UnavailableError) as raised:
                await call("SELECT 1")
            assert "secret" not in raised.value.message


async def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert db_module.ACQUIRE_SECONDS < 5
    monkeypatch.setattr(db_module, "ACQUIRE_SECONDS", 0.3)
    done = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        async with opened(f"postgresql://x:y@127.0.0.1:{port}/z?sslmode=disable") as db:
            with pytest.raises(UnavailableError):
                await db.value("SELECT 1")
        done.set()


async def test_restarts(cluster: Cluster, admin: Any) -> None:
    """Away at the start, then there, then crashed under load, then there again, on its own."""
    cluster.stop("fast")
    async with opened(cluster.admin_url(), pool_max=4) as db:
        for call in (db.move, db.row):
            with pytest.raises(UnavailableError):
                await call(MOVE, uuid7(), 0, None, 0.0)
        await asyncio.to_thread(cluster.start)
        assert await db.value("SELECT 1") == 1

        done: list[uuid.UUID] = []
        unknown: list[uuid.UUID] = []
        refused: list[uuid.UUID] = []
        stop = asyncio.Event()

        async def work() -> None:
            while not stop.is_set():
                some = uuid7()
                try:
                    await db.move(MOVE, some, 0, None, 0.0)
                except OutcomeUnknownError:
                    unknown.append(some)
                except UnavailableError:
                    refused.append(some)
                    await asyncio.sleep(0.05)
                else:
                    done.append(some)

        workers = [asyncio.create_task(work()) for _ in range(8)]
        for _ in range(2):
            before = len(done)
            await until(lambda before=before: len(done) > before + 50)  # type: ignore[misc]
            await asyncio.to_thread(cluster.stop, "immediate")
            before = len(refused)
            await until(lambda before=before: len(refused) > before)  # type: ignore[misc]
            await asyncio.to_thread(cluster.start)
        before = len(done)
        await until(lambda: len(done) > before + 50)
        stop.set()
        await asyncio.gather(*workers)

        there = {row["id"] for row in await db.rows("SELECT id FROM moves")}
        assert there >= set(done)
        assert there <= set(done) | set(unknown)
        assert not there & set(refused)
