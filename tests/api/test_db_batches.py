"""Batches on a real PostgreSQL: what is held, cut, refused or left does not touch the others."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import asyncpg
import pytest

from service import batches
from service import db as db_module
from service.batches import Batcher
from service.db import Database
from service.dev.postgres import Cluster
from service.errors import ApiError
from service.queries import credits
from service.queries.credits import CommittedHold, Hold, Move
from tests.api.test_db import Proxy
from tests.support.answers import header
from tests.support.batches import wait_longer
from tests.support.calls import amounts, available, call, grant, ledger
from tests.support.clones import away
from tests.support.databases import Clone, Connection
from tests.support.races import at_once, blocked_by, superusers
from tests.support.running import Answer, Running
from tests.support.waiting import PATIENCE_SECONDS, until

HOLD = "SELECT FROM credits.balances WHERE user_id = $1 FOR UPDATE"
WAITING = "SELECT pid FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))"


@pytest.fixture
def one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One statement is under way, and all that come meanwhile go in the next one."""
    monkeypatch.setattr(batches, "TURNS", 1)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch, one_turn: None) -> list[int]:
    """How many calls each batch of moves had, in the order in which they were sent."""
    sizes: list[int] = []
    move_together = Database.move_together

    async def remember(db: Database, sql: str, calls: Any) -> Any:
        sizes.append(len(calls))
        return await move_together(db, sql, calls)

    monkeypatch.setattr(Database, "move_together", remember)
    return sizes


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that have come to where they may wait."""
    calls: list[Any] = []
    batched = Database.batched

    async def remember(db: Database, kind: Any, call: Any) -> Any:
        calls.append(call)
        return await batched(db, kind, call)

    monkeypatch.setattr(Database, "batched", remember)
    return calls


async def use(service: Running, user: str, amount: int = 1, **more: Any) -> Answer:
    """A service debits a user."""
    body = {"userId": user, "amount": amount, "appId": "app", "description": "x", **more}
    return await service.call("POST", "/internal/credits/use", internal=True, json=body)


async def debit(db: Database, user: str, amount: int = 1, **more: Any) -> Move:
    """The same without HTTP."""
    usual: dict[str, Any] = {
        "app_id": "app",
        "description": "x",
        "idempotency_key": None,
        "metadata": None,
        "origin": "service",
    }
    return await credits.use_credits(db, user_id=user, amount=amount, **{**usual, **more})


async def all_of(calls: "list[Awaitable[Any]]") -> list[Any]:
    """Make calls at once: the first goes by itself, the others in a batch behind it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return list(await asyncio.gather(*calls, return_exceptions=True))


# Over HTTP


async def test_a_user_who_is_held_does_not_hold_up_the_others(
    service: Running, database: Clone, admin: Connection
) -> None:
    users = [f"user-{number}" for number in range(8)]
    for user in users:
        await service.grant(user, 20)
    async with superusers(database, 1) as (holder,):
        await holder.execute("BEGIN")
        await holder.execute(HOLD, "user-3")
        calls = {asyncio.create_task(use(service, user)): user for _ in range(8) for user in users}
        held = {call for call, user in calls.items() if user == "user-3"}
        done, _ = await asyncio.wait(calls.keys() - held, timeout=PATIENCE_SECONDS)
        assert done == calls.keys() - held
        assert not any(call.done() for call in held)
        await holder.execute("COMMIT")
    answers = await at_once(calls)
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["transaction"]["id"] for answer in answers}) == 64
    for user in users:
        assert await amounts(admin, user) == [("grant", 20), *[("usage", -1)] * 8]


async def test_each_is_told_what_became_of_his_own_call(
    service: Running, together: list[int]
) -> None:
    await service.grant("ann", 20)
    await service.grant("bob", 20)
    unknown = "00000000-0000-7000-8000-000000000000"

    def ask(path: str, **body: Any) -> Awaitable[Answer]:
        return service.call("POST", f"/internal/credits/{path}", internal=True, json=body)

    key = {"idempotencyKey": "k"}
    answers = await at_once(
        [
            use(service, "bob"),
            use(service, "ann", 2, **key),
            use(service, "ann", 100),
            ask("refund", userId="ann", amount=1, description="x", transactionId=unknown),
            ask("commit", reservationId=unknown),
            ask("reserve", userId="ann", amount=2, reason="x", **key),
            ask("grant", userId="ann", amount=7, reason="x", referenceId="start"),
            use(service, "bob", 2),
        ]
    )
    told = [(answer.status, answer.body.get("error")) for answer in answers]
    refused = (409, "idempotency_key_reused")
    assert told[:5] == [
        (200, None),
        (200, None) if told[5] == refused else refused,
        (402, "insufficient_credits"),
        (404, "not_found"),
        (404, "not_found"),
    ]
    # Whichever of the two came first.
    assert {told[1], told[5]} == {refused, (200 if told[5] == refused else 201, None)}
    assert told[6:] == [(200, None), (200, None)]
    assert answers[2].body["details"]["required"] == 100
    assert answers[6].body["alreadyGranted"] is True
    assert together != []


async def test_without_a_database_all_are_unavailable_and_afterwards_all_is_well(
    service: Running, cluster: Cluster, database: Clone, admin: Connection
) -> None:
    users = [f"user-{number}" for number in range(4)]
    for user in users:
        await service.grant(user, 100)

    def calls() -> "list[Awaitable[Answer]]":
        return [
            *(use(service, users[number % 4]) for number in range(40)),
            *(
                service.call("GET", f"/internal/{what}/{user}", internal=True)
                for what in ("credits/balance", "sync/status")
                for user in users
            ),
        ]

    async with away(cluster, database.name):
        for answer in await at_once(calls()):
            assert (answer.status, answer.body["error"]) == (503, "unavailable")
            assert header(answer, "Retry-After")
    answers = await at_once(calls())
    assert {answer.status for answer in answers} == {200}
    for user in users:
        assert await amounts(admin, user) == [("grant", 100), *[("usage", -1)] * 10]


@pytest.fixture
def no_turn_ends(monkeypatch: pytest.MonkeyPatch, one_turn: None) -> None:
    """What waits behind a statement waits as long as that takes."""
    monkeypatch.setattr(batches, "TURN_SECONDS", 3600.0)


@pytest.mark.usefixtures("no_turn_ends")
async def test_a_client_that_leaves_the_queue_is_not_debited(
    service: Running, database: Clone, admin: Connection, asked: list[Any]
) -> None:
    for user in ("ann", "bob", "cleo"):
        await service.grant(user, 20)
    # The others wait behind the one whose user is held for as long as that takes.
    await wait_longer(admin)
    asked.clear()
    async with superusers(database, 1) as (holder,):
        await holder.execute("BEGIN")
        await holder.execute(HOLD, "ann")
        first = asyncio.create_task(use(service, "ann"))
        await blocked_by(admin, holder, 1)
        leaving = asyncio.create_task(use(service, "bob"))
        await until(lambda: len(asked) == 2)
        staying = asyncio.create_task(use(service, "cleo"))
        await until(lambda: len(asked) == 3)
        # With the call its connection ends.
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
        # The server hears of it before it hears of what comes on a new connection.
        async with service.session.get(f"{service.url}/health") as answer:
            assert answer.status == 200
        await holder.execute("COMMIT")
        assert [(await call).status for call in (first, staying)] == [200, 200]
    assert await service.balance("bob") == 20
    assert await amounts(admin, "bob") == [("grant", 20)]


@pytest.mark.usefixtures("no_turn_ends")
async def test_a_full_queue_is_unavailable_and_nothing_happens(
    service: Running,
    database: Clone,
    admin: Connection,
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(db_module, "Batcher", functools.partial(Batcher, waiting_max=5))
    await grant(admin, "ann", 20)
    await grant(admin, "bob", 20)
    await wait_longer(admin)
    async with superusers(database, 1) as (holder,):
        await holder.execute("BEGIN")
        await holder.execute(HOLD, "ann")
        first = asyncio.create_task(use(service, "ann"))
        await blocked_by(admin, holder, 1)
        waiting = [asyncio.create_task(use(service, "bob", 1)) for _ in range(5)]
        await until(lambda: len(asked) == 6)
        for answer in await at_once(use(service, "bob", 2) for _ in range(3)):
            assert (answer.status, answer.body["error"]) == (503, "unavailable")
            assert header(answer, "Retry-After")
        assert not any(call.done() for call in (first, *waiting))
        # Another kind of call does not wait with them.
        assert await service.balance("bob") == 20
        await holder.execute("COMMIT")
        answers = await at_once([first, *waiting])
    assert {answer.status for answer in answers} == {200}
    assert await amounts(admin, "bob") == [("grant", 20), *[("usage", -1)] * 5]
    # There is room again.
    assert (await use(service, "bob", 3)).status == 200


# A connection that breaks


async def mixed(db: Database, admin: Connection) -> "list[Awaitable[Any]]":
    """Calls of every kind for one batch, behind a debit that goes alone."""
    for user in ("first", "ann", "bob", "cleo"):
        await grant(admin, user, 100)
    spent = await call(
        admin, "credits.use_credits", user_id="bob", amount=10, app_id="app", description="x"
    )
    holds = [
        (await call(admin, "credits.reserve_credits", user_id="cleo", amount=10, reason="x"))[
            "reservation_id"
        ]
        for _ in range(2)
    ]
    service: dict[str, Any] = {"idempotency_key": None, "metadata": None}
    return [
        debit(db, "first"),
        debit(db, "ann", 1, description="the marker"),
        debit(db, "ann", 2, idempotency_key="k"),
        credits.refund_credits(
            db,
            user_id="bob",
            amount=4,
            app_id="app",
            description="x",
            transaction_id=spent["id"],
            **service,
        ),
        credits.grant_credits(
            db, user_id="bob", amount=3, reason="x", reference_id="quest", description=None
        ),
        credits.reserve_credits(
            db, user_id="ann", amount=5, reason="x", expires_in_seconds=60, idempotency_key=None
        ),
        credits.commit_reservation(
            db,
            reservation_id=holds[0],
            user_id=None,
            description=None,
            amount=6,
            idempotency_key=None,
        ),
        credits.refund_reservation(
            db, reservation_id=holds[1], user_id="cleo", idempotency_key=None
        ),
        debit(db, "cleo", 1000),
        debit(db, "cleo", 7),
    ]


async def require_mixed_once(admin: Connection, answers: list[Any]) -> None:
    """Each of those calls was done once, and its caller was told so."""
    (first, anns, keyed, refund, grant_, hold, committed, back, refused, cleos) = answers
    for move in (first, anns, keyed, refund, grant_, cleos):
        assert isinstance(move, Move), move
        assert not move.replayed
    assert isinstance(hold, Hold), hold
    assert isinstance(committed, CommittedHold), committed
    assert not committed.replayed
    # It has no id of its own by which it is known that it was this one.
    assert (back.status, back.amount) == ("refunded", 10)
    assert isinstance(refused, ApiError), refused
    assert refused.code == "insufficient_credits"

    assert await amounts(admin, "first") == [("grant", 100), ("usage", -1)]
    assert sorted(await amounts(admin, "ann")) == [("grant", 100), ("usage", -2), ("usage", -1)]
    assert sorted(await amounts(admin, "bob")) == [
        *(("grant", 3), ("grant", 100), ("refund", 4), ("usage", -10)),
    ]
    assert sorted(await amounts(admin, "cleo")) == [("grant", 100), ("usage", -7), ("usage", -6)]
    assert [await available(admin, user) for user in ("ann", "bob", "cleo")] == [92, 97, 87]
    ids = {row["id"] for user in ("ann", "bob", "cleo") for row in await ledger(admin, user)}
    assert {move.id for move in (anns, keyed, refund, grant_, cleos)} < ids


async def test_a_batch_whose_connection_is_cut_before_it_was_done_is_done_once(
    db: Database, database: Clone, admin: Connection, together: list[int]
) -> None:
    calls = await mixed(db, admin)
    await wait_longer(admin)
    async with superusers(database, 1) as (holder,):
        await holder.execute("BEGIN")
        await holder.execute(HOLD, "cleo")
        answering = asyncio.create_task(all_of(calls))
        await blocked_by(admin, holder, 1)
        [pid] = [row["pid"] for row in await admin.fetch(WAITING, holder.get_server_pid())]
        assert together == [9]
        assert await admin.fetchval("SELECT pg_terminate_backend($1)", pid)
        await holder.execute("COMMIT")
        answers = await answering
    await require_mixed_once(admin, answers)
    assert together == [9], "a batch is not repeated"


@contextlib.asynccontextmanager
async def behind(proxy: Proxy, database: Clone, cluster: Cluster) -> AsyncIterator[Database]:
    """The database through what breaks connections."""
    url = database.service_url.replace(f":{cluster.port}/", f":{proxy.port}/")
    db = Database(url, pool_max=8)
    await db.open()
    try:
        yield db
    finally:
        await db.close()


async def test_a_batch_whose_connection_is_cut_after_it_was_done_is_done_once(
    cluster: Cluster, database: Clone, admin: Connection, together: list[int]
) -> None:
    async with (
        Proxy(cluster.port).running() as proxy,
        behind(proxy, database, cluster) as db,
    ):
        calls = await mixed(db, admin)
        proxy.cut_after, proxy.cut_once = b"the marker", True
        answers = await all_of(calls)
        assert proxy.cut_count == 1
        await require_mixed_once(admin, answers)
        assert together == [9], "a batch is not repeated"


async def test_a_batch_that_cannot_be_settled_leaves_its_outcomes_unknown(
    cluster: Cluster,
    database: Clone,
    admin: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(db_module, "SETTLE_SECONDS", 1.0)
    await grant(admin, "ann", 100)
    await grant(admin, "bob", 100)
    async with (
        Proxy(cluster.port).running() as proxy,
        behind(proxy, database, cluster) as db,
    ):
        proxy.cut_after = b"the marker"
        first, *told = await all_of(
            [
                debit(db, "ann"),
                *(debit(db, user, 2, description="the marker") for user in ("ann", "bob", "ann")),
            ]
        )
        assert isinstance(first, Move)
        for error in told:
            assert isinstance(error, ApiError), error
            assert (error.status, error.code) == (503, "outcome_unknown")
            assert "Retry-After" not in error.headers
        proxy.cut_after = None
        assert (await debit(db, "bob")).available == 97
    # The batch was done, though nobody could be told, and not again.
    assert await amounts(admin, "ann") == [("grant", 100), ("usage", -1), *[("usage", -2)] * 2]
    assert await amounts(admin, "bob") == [("grant", 100), ("usage", -2), ("usage", -1)]


# What PostgreSQL refuses


async def test_what_cannot_be_sent_does_not_fail_its_neighbours(
    db: Database, admin: Connection, together: list[int]
) -> None:
    for user in ("ann", "bob"):
        await grant(admin, user, 100)
    first, anns, huge, again, nul, bobs = await all_of(
        [
            debit(db, "bob"),
            debit(db, "ann", 2),
            debit(db, "ann", 2**70),
            debit(db, "ann", 3),
            debit(db, "bob", description="a\0b"),
            debit(db, "bob", 4),
        ]
    )
    assert together == [5]
    assert isinstance(huge, asyncpg.DataError)
    assert isinstance(nul, ApiError)
    assert (nul.status, nul.code) == (400, "invalid_request")
    assert [move.available for move in (first, anns, again, bobs)] == [99, 98, 95, 95]
    assert await amounts(admin, "ann") == [("grant", 100), ("usage", -2), ("usage", -3)]
    assert await amounts(admin, "bob") == [("grant", 100), ("usage", -1), ("usage", -4)]


# Credits that nobody has earned.
@pytest.mark.unsound
async def test_a_defect_of_one_call_does_not_fail_its_neighbours(
    service: Running, admin: Connection, together: list[int]
) -> None:
    for user in ("ann", "bob", "cleo"):
        await grant(admin, user, 100)
    await admin.execute(
        "UPDATE credits.balances SET total_spent = 9223372036854775800,"
        " total_earned = 9223372036854775800 + 7, balance = 7 WHERE user_id = 'cleo'"
    )

    def refund() -> Awaitable[Answer]:
        body = {"userId": "cleo", "amount": 5, "description": "x"}
        return service.call("POST", "/internal/credits/refund", internal=True, json=body)

    calls: list[Awaitable[Answer]] = []
    for number in range(12):
        calls += [use(service, "ann"), refund()] if number % 4 == 1 else [use(service, "bob")]
    answers = await at_once(calls)
    failed = [answer.body["error"] for answer in answers if answer.status != 200]
    assert failed == ["internal_error"] * 3
    assert together != []
    assert await amounts(admin, "ann") == [("grant", 100), *[("usage", -1)] * 3]
    assert await amounts(admin, "bob") == [("grant", 100), *[("usage", -1)] * 9]
    assert await amounts(admin, "cleo") == [("grant", 100)]


async def test_a_conflict_under_a_batch_is_tried_again_call_by_call(
    db: Database, admin: Connection, together: list[int]
) -> None:
    for user in ("ann", "bob"):
        await grant(admin, user, 100)
    # A sequence does not roll back: only the first attempts collide.
    await admin.execute(
        """
        CREATE SEQUENCE public.attempts;
        CREATE FUNCTION public.collide() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
            IF nextval('public.attempts') <= 3 THEN
                RAISE EXCEPTION 'planted' USING ERRCODE = '40P01';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER collide BEFORE INSERT ON credits.transactions FOR EACH ROW
        WHEN (NEW.user_id = 'bob') EXECUTE FUNCTION public.collide()
        """
    )
    moves = await all_of([debit(db, "ann"), debit(db, "bob"), debit(db, "ann"), debit(db, "bob")])
    assert [move.available for move in moves] == [99, 99, 98, 98]
    assert together == [3]
    assert len(await ledger(admin, "bob")) == 3


# Reads


async def test_everybody_reads_his_own(
    service: Running, admin: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [f"user-{number}" for number in range(20)]
    for number, user in enumerate(users):
        if number % 4:
            await grant(admin, user, 1000 + number)
        if number % 4 == 2:
            interval = "yearly" if number % 8 == 2 else "monthly"
            await call(admin, "credits.activate_sync", user_id=user, interval=interval)
    balances = {user: await call(admin, "credits.get_balance", user_id=user) for user in users}
    statuses = {user: await call(admin, "credits.get_sync_status", user_id=user) for user in users}
    read: list[str] = []
    rows = Database.rows

    async def remember(db: Database, sql: str, *args: Any, **more: Any) -> Any:
        read.append(sql)
        return await rows(db, sql, *args, **more)

    monkeypatch.setattr(Database, "rows", remember)

    def ask(what: str) -> Awaitable[Any]:
        return at_once(
            service.call("GET", f"/internal/{what}/{user}", internal=True)
            for user in users
            for _ in range(2)
        )

    for number, answer in enumerate(await ask("credits/balance")):
        row = balances[users[number // 2]]
        assert answer.status == 200
        told = [answer.body[name] for name in ("balance", "totalEarned", "totalSpent")]
        assert told == [row[name] for name in ("available", "total_earned", "total_spent")]
    for number, answer in enumerate(await ask("sync/status")):
        row = statuses[users[number // 2]]
        assert answer.status == 200
        told = [answer.body[name] for name in ("active", "interval", "price")]
        assert told == [row[name] for name in ("active", "billing_interval", "price")]
    assert {"get_balances" in sql for sql in read} == {True, False}
    assert {"get_sync_statuses" in sql for sql in read} == {True, False}
