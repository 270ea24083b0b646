"""Batches as the service makes them: which calls go together, in which order, who hears what."""

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from service import batches
from service.batches import Batcher, BatchFailedError, Kind, Left, drop_with
from service.errors import ApiError, UnavailableError
from tests.support.waiting import until

DB: Any = None
"""The calls here need no database."""
SOON = 1e9
"""Some time until which a failed batch is settled."""


@dataclass
class Statement:
    """What was sent, and the answer that a test gives it."""

    calls: list[str]
    alone: bool
    settle_until: float | None
    answer: "asyncio.Future[Any]"

    def done(self) -> None:
        """Everything was done."""
        answers = [f"{call} done" for call in self.calls]
        self.answer.set_result(answers[0] if self.alone else answers)

    def came(self, *outcomes: Any) -> None:
        """An outcome for each call of a batch."""
        self.answer.set_result(list(outcomes))

    def failed(self, error: BaseException) -> None:
        self.answer.set_exception(error)


@dataclass
class Wire:
    """A kind of calls that waits for the test; a call is about whom its first letter names."""

    sent: list[Statement] = field(default_factory=list)

    @property
    def kind(self) -> Kind[str, str]:
        return Kind("test", self._together, self._alone, lambda call: call[0])

    async def _together(self, db: Any, calls: Sequence[str]) -> Any:
        assert db is DB
        return await self._send(Statement([*calls], False, None, _future()))

    async def _alone(self, db: Any, call: str, settle_until: float | None) -> Any:
        assert db is DB
        return await self._send(Statement([call], True, settle_until, _future()))

    async def _send(self, statement: Statement) -> Any:
        self.sent.append(statement)
        return await statement.answer

    @property
    def last(self) -> Statement:
        return self.sent[-1]

    @property
    def calls(self) -> list[list[str]]:
        """The calls of each statement so far."""
        return [statement.calls for statement in self.sent]


def _future() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """No statement gives up its turn, however slow the machine is, and there is one turn."""
    monkeypatch.setattr(batches, "TURN_SECONDS", 3600.0)
    monkeypatch.setattr(batches, "TURNS", 1)


async def settled() -> None:
    """Let everything happen that waits for nothing but the loop."""
    for _ in range(20):
        await asyncio.sleep(0)


async def asked(batcher: Batcher[str, str], *calls: str) -> "list[asyncio.Task[str]]":
    """Make calls, and let them come as far as they come by themselves."""
    tasks = [asyncio.create_task(batcher.call(call)) for call in calls]
    await settled()
    return tasks


async def answers(tasks: "list[asyncio.Task[str]]") -> list[Any]:
    """What each has got by now, in words where it is an error; None is nothing yet."""
    await settled()
    return [_answer(task) for task in tasks]


def _answer(task: "asyncio.Task[str]") -> Any:
    if not task.done():
        return None
    if task.cancelled():
        return "cancelled"
    if (error := task.exception()) is not None:
        return error.code if isinstance(error, ApiError) else type(error).__name__
    return task.result()


def refused() -> ApiError:
    return ApiError(402, "insufficient_credits", "Insufficient credits")


# Several statements under way


async def test_a_second_statement_goes_once_as_many_wait(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = Batcher(DB, wire.kind)
    (first,) = await asked(batcher, "a1")
    others = await asked(batcher, *"bcdefg")
    monkeypatch.setattr(batches, "TURNS", 2)
    wire.sent[0].done()
    assert await answers([first]) == ["a1 done"]
    # Half of all goes, and the other half with the next one.
    assert wire.calls == [["a1"], ["b", "c", "d"], ["e", "f", "g"]]
    more = await asked(batcher, *"hi")
    wire.sent[2].done()
    await settled()
    assert len(wire.calls) == 3, "fewer wait than are under way"
    more += await asked(batcher, "j")
    assert wire.calls[3:] == [["h", "i", "j"]]
    more += await asked(batcher, *"klm")
    assert len(wire.calls) == 4, "two are under way"
    wire.sent[1].done()
    assert wire.calls[4:] == [] or wire.calls[4:] == [["k", "l", "m"]]
    await settled()
    assert wire.calls[4:] == [["k", "l", "m"]]
    wire.sent[3].done()
    wire.sent[4].done()
    assert None not in await answers(others + more)
    assert batcher.waiting == 0


async def test_what_waits_goes_when_nothing_is_under_way_any_more(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "TURNS", 2)
    batcher = Batcher(DB, wire.kind)
    await asked(batcher, "a1")
    tasks = await asked(batcher, "b1", "c1")
    assert wire.calls == [["a1"], ["b1"]] or wire.calls == [["a1"], ["b1", "c1"]]
    wire.sent[0].done()
    wire.sent[1].done()
    await settled()
    for statement in wire.sent[2:]:
        statement.done()
    assert await answers(tasks) == ["b1 done", "c1 done"]


async def test_no_user_is_in_two_statements(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "TURNS", 2)
    batcher = Batcher(DB, wire.kind)
    tasks = await asked(batcher, "a1")
    tasks += await asked(batcher, "a2", "a3")
    assert wire.calls == [["a1"]]
    tasks += await asked(batcher, "b1", "a4", "c1")
    assert wire.calls == [["a1"], ["b1", "c1"]]
    wire.sent[1].done()
    await settled()
    assert len(wire.calls) == 2, "all that wait are about a user of a statement under way"
    wire.sent[0].done()
    while None in await answers(tasks):
        wire.last.done()
    assert [call for calls in wire.calls for call in calls if call[0] == "a"] == [
        *("a1", "a2", "a3", "a4")
    ]


# Which calls go together


async def test_a_call_that_finds_nothing_under_way_is_sent_at_once_and_alone(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind)
    for call in ("a1", "b1"):
        tasks = await asked(batcher, call)
        assert (wire.last.calls, wire.last.alone, wire.last.settle_until) == ([call], True, None)
        assert batcher.waiting == 0
        wire.last.done()
        assert await answers(tasks) == [f"{call} done"]
    assert len(wire.sent) == 2


async def test_calls_that_come_meanwhile_go_together_in_their_order(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind)
    tasks = await asked(batcher, "a1", "c1", "b1", "a2")
    assert wire.calls == [["a1"]]
    assert batcher.waiting == 3
    wire.last.done()
    assert await answers(tasks) == ["a1 done", None, None, None]
    assert wire.calls == [["a1"], ["c1", "b1", "a2"]]
    assert not wire.last.alone
    assert batcher.waiting == 0
    # Again, those that come meanwhile.
    tasks += await asked(batcher, "d1", "a3")
    assert len(wire.sent) == 2
    wire.last.done()
    assert (await answers(tasks))[1:] == ["c1 done", "b1 done", "a2 done", None, None]
    assert wire.last.calls == ["d1", "a3"]
    wire.last.done()
    assert (await answers(tasks))[4:] == ["d1 done", "a3 done"]
    # And then it is idle again.
    await asked(batcher, "e1")
    assert (wire.last.calls, wire.last.alone) == (["e1"], True)


async def test_one_call_that_has_waited_is_sent_alone(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind)
    tasks = await asked(batcher, "a1", "b1")
    wire.last.done()
    await settled()
    assert (wire.last.calls, wire.last.alone, wire.last.settle_until) == (["b1"], True, None)
    tasks += await asked(batcher, "c1", "d1")
    assert len(wire.sent) == 2, "one statement at a time"
    wire.last.done()
    assert await answers(tasks) == ["a1 done", "b1 done", None, None]
    assert wire.last.calls == ["c1", "d1"]


async def test_a_batch_has_no_more_calls_than_it_may(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind, size_max=3)
    tasks = await asked(batcher, "x0", *(f"a{number}" for number in range(7)))
    for size in (1, 3, 3, 1):
        assert len(wire.last.calls) == size
        wire.last.done()
        await settled()
    assert [call for calls in wire.calls for call in calls] == [
        "x0",
        *(f"a{number}" for number in range(7)),
    ]
    assert None not in await answers(tasks)


async def test_with_a_least_size_of_one_every_call_goes_as_a_batch(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind, size_min=1)
    tasks = await asked(batcher, "a1")
    assert (wire.last.calls, wire.last.alone) == (["a1"], False)
    tasks += await asked(batcher, "b1")
    wire.last.done()
    await settled()
    assert (wire.last.calls, wire.last.alone) == (["b1"], False)
    wire.last.done()
    assert await answers(tasks) == ["a1 done", "b1 done"]


async def test_fewer_than_the_least_size_go_one_after_the_other(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind, size_min=3)
    tasks = await asked(batcher, "a1", "b1", "c1")
    for number, call in enumerate(("a1", "b1", "c1"), 1):
        assert (len(wire.sent), wire.last.calls, wire.last.alone) == (number, [call], True)
        wire.last.done()
        await settled()
    assert await answers(tasks) == ["a1 done", "b1 done", "c1 done"]
    await asked(batcher, "x")
    tasks = await asked(batcher, "a1", "b1", "c1")
    wire.last.done()
    await settled()
    assert (wire.last.calls, wire.last.alone) == (["a1", "b1", "c1"], False)


async def test_batchers_do_not_wait_for_each_other(wire: Wire) -> None:
    one, other = Batcher(DB, wire.kind), Batcher(DB, Wire().kind)
    await asked(one, "a1")
    await asked(other, "a1")
    assert (one.waiting, other.waiting) == (0, 0)


# How many may wait


async def test_more_calls_than_may_wait_are_unavailable(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind, waiting_max=2)
    tasks = await asked(batcher, "a1", "b1", "c1", "d1")
    assert await answers(tasks) == [None, None, None, "unavailable"]
    error = tasks[3].exception()
    assert isinstance(error, UnavailableError)
    assert (error.status, "Retry-After" in error.headers) == (503, True)
    wire.last.done()
    await settled()
    wire.last.done()
    assert (await answers(tasks))[:3] == ["a1 done", "b1 done", "c1 done"]
    assert wire.calls == [["a1"], ["b1", "c1"]]
    # There is room again. After a batch the first one waits for those that come with it.
    tasks = await asked(batcher, "a2", "b2")
    assert wire.calls[2:] == [["a2", "b2"]]
    assert await answers(tasks) == [None, None]


async def test_those_that_wait_apart_count_as_well(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind, waiting_max=2)
    await asked(batcher, "x1", "a1", "b1")
    wire.last.done()
    await settled()
    wire.last.came(Left.ALONE, "b1 done")
    await settled()
    assert wire.last.calls == ["a1"]
    tasks = await asked(batcher, "a2", "a3", "a4", "b2")
    assert batcher.waiting == 2
    assert await answers(tasks) == [None, None, "unavailable", "unavailable"]
    for call in ("a1", "a2", "a3"):
        assert wire.last.calls == [call]
        wire.last.done()
        await settled()
    assert batcher.waiting == 0
    assert (await answers(tasks))[:2] == ["a2 done", "a3 done"]


# Who is gone


@dataclass
class Client:
    """Somebody who may be gone."""

    transport: object | None = "a connection"

    @property
    def there(self) -> bool:
        return self.transport is not None

    def leave(self) -> None:
        self.transport = None

    async def call(self, batcher: Batcher[str, str], call: str) -> "asyncio.Task[str]":
        async def ask() -> str:
            drop_with(self)
            return await batcher.call(call)

        task = asyncio.create_task(ask())
        await settled()
        return task


async def test_a_call_whose_client_is_gone_before_it_is_sent_is_dropped(wire: Wire) -> None:
    batcher, client = Batcher(DB, wire.kind), Client()
    (first,) = await asked(batcher, "x1")
    gone = await client.call(batcher, "a1")
    others = await asked(batcher, "b1", "c1")
    client.leave()
    wire.last.done()
    assert await answers([first, gone, *others]) == ["x1 done", "cancelled", None, None]
    assert wire.last.calls == ["b1", "c1"]


async def test_a_call_whose_client_is_gone_afterwards_is_done_and_told(wire: Wire) -> None:
    batcher, client = Batcher(DB, wire.kind), Client()
    tasks = await asked(batcher, "x1")
    tasks.append(await client.call(batcher, "a1"))
    tasks += await asked(batcher, "b1")
    wire.last.done()
    await settled()
    client.leave()
    wire.last.done()
    assert await answers(tasks) == ["x1 done", "a1 done", "b1 done"]


async def test_where_all_are_gone_nothing_is_sent(wire: Wire) -> None:
    batcher, client = Batcher(DB, wire.kind, waiting_max=2), Client()
    tasks = await asked(batcher, "x1")
    tasks += [await client.call(batcher, call) for call in ("a1", "b1")]
    client.leave()
    wire.last.done()
    assert await answers(tasks) == ["x1 done", "cancelled", "cancelled"]
    assert wire.calls == [["x1"]]
    assert batcher.waiting == 0
    tasks = await asked(batcher, "c1")
    assert wire.last.calls == ["c1"]


async def test_what_a_batch_has_left_is_dropped_when_its_client_is_gone(wire: Wire) -> None:
    batcher, client = Batcher(DB, wire.kind), Client()
    await asked(batcher, "x1")
    gone = await client.call(batcher, "a1")
    tasks = await asked(batcher, "b1", "a2")
    wire.last.done()
    await settled()
    client.leave()
    wire.last.came(Left.ALONE, "b1 done", Left.ALONE)
    assert await answers([gone, *tasks]) == ["cancelled", "b1 done", None]
    assert wire.last.calls == ["a2"]


@pytest.mark.parametrize("settle_until", [None, SOON])
async def test_what_may_have_been_done_is_settled_though_its_client_is_gone(
    wire: Wire, settle_until: float | None
) -> None:
    batcher, client = Batcher(DB, wire.kind, apart_max=2), Client()
    await asked(batcher, "x1")
    gone = await client.call(batcher, "a1")
    (other,) = await asked(batcher, "b1")
    wire.last.done()
    await settled()
    client.leave()
    wire.last.failed(BatchFailedError(settle_until))
    await settled()
    if settle_until is None:
        assert wire.calls[2:] == [["b1"]]
        assert await answers([gone, other]) == ["cancelled", None]
    else:
        assert wire.calls[2:] == [["a1"], ["b1"]]
        assert await answers([gone, other]) == [None, None]


async def test_who_does_not_wait_any_more_is_not_sent(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind)
    tasks = await asked(batcher, "x1", "a1", "b1", "c1")
    tasks[1].cancel()
    wire.last.done()
    assert await answers(tasks) == ["x1 done", "cancelled", None, None]
    assert wire.last.calls == ["b1", "c1"]
    # Now they are sent: what becomes of the one does not touch the other.
    tasks[2].cancel()
    wire.last.done()
    assert await answers(tasks) == ["x1 done", "cancelled", "cancelled", "c1 done"]


@pytest.mark.parametrize("outcome", [refused(), Left.ALONE])
async def test_whatever_comes_for_who_does_not_wait_any_more_hurts_nobody(
    wire: Wire, outcome: Any
) -> None:
    batcher = Batcher(DB, wire.kind)
    tasks = await asked(batcher, "x1", "a1", "b1")
    wire.last.done()
    await settled()
    tasks[1].cancel()
    await settled()
    wire.last.came(outcome, "b1 done")
    assert await answers(tasks) == ["x1 done", "cancelled", "b1 done"]
    assert len(wire.sent) == 2
    await asked(batcher, "a2")
    assert wire.last.calls == ["a2"]


async def test_the_next_go_on_when_a_call_that_was_sent_alone_is_cancelled(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind)
    tasks = await asked(batcher, "a1", "b1", "c1")
    tasks[0].cancel()
    assert await answers(tasks) == ["cancelled", None, None]
    assert wire.last.calls == ["b1", "c1"]


# Who hears what


async def test_an_error_reaches_its_own_caller_alone(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind)
    tasks = await asked(batcher, "x1", "a1", "b1", "c1")
    wire.last.failed(refused())
    await settled()
    wire.last.came("a1 done", refused(), "c1 done")
    assert await answers(tasks) == [
        "insufficient_credits",
        "a1 done",
        "insufficient_credits",
        "c1 done",
    ]
    assert len(wire.sent) == 2


async def test_what_is_left_goes_apart_and_others_go_on(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind, apart_max=2)
    tasks = await asked(batcher, "x1", "a1", "b1")
    wire.last.done()
    await settled()
    wire.last.came(Left.ALONE, "b1 done")
    assert await answers(tasks) == ["x1 done", None, "b1 done"]
    alone = wire.last
    assert (alone.calls, alone.alone, alone.settle_until) == (["a1"], True, None)

    # Those about the same user wait for it, those about others do not.
    tasks += await asked(batcher, "a2", "b2")
    assert (wire.last.calls, wire.last.alone) == (["b2"], True)
    tasks += await asked(batcher, "a3", "c1", "d1")
    wire.last.done()
    await settled()
    assert (wire.last.calls, wire.last.alone) == (["c1", "d1"], False)
    wire.last.done()
    assert await answers(tasks) == [
        *("x1 done", None, "b1 done"),
        *(None, "b2 done", None, "c1 done", "d1 done"),
    ]
    alone.done()
    await settled()
    assert wire.last.calls == ["a2"]
    wire.last.failed(refused())
    await settled()
    assert wire.last.calls == ["a3"]
    wire.last.done()
    told = await answers(tasks)
    assert [told[place] for place in (1, 3, 5)] == ["a1 done", "insufficient_credits", "a3 done"]
    # Who is not held any more goes with the others again.
    await asked(batcher, "a4")
    await asked(batcher, "a5", "b3")
    wire.last.done()
    await settled()
    assert (wire.last.calls, wire.last.alone) == (["a5", "b3"], False)


async def test_calls_that_waited_already_go_behind_what_was_left(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind, apart_max=2)
    await asked(batcher, "x1", "a1", "b1")
    wire.last.done()
    await settled()
    await asked(batcher, "a2", "c1", "d1")
    wire.last.came(Left.ALONE, "b1 done")
    await settled()
    assert sorted(wire.calls[2:]) == [["a1"], ["c1", "d1"]]


async def test_no_more_are_settled_apart_at_once_than_may_be(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind, apart_max=2)
    tasks = await asked(batcher, "x1", "a1", "b1", "c1", "d1", "a2")
    wire.last.done()
    await settled()
    wire.last.came(*[Left.ALONE] * 5)
    await settled()
    order = [["a1"], ["b1"], ["c1"], ["d1"], ["a2"]]
    for number in range(5):
        under_way = wire.sent[2:][number:]
        assert len(under_way) == min(2, 5 - number)
        assert all(statement.alone for statement in under_way)
        under_way[0].done()
        await settled()
    assert sorted(wire.calls[2:]) == sorted(order)
    assert wire.calls.index(["a1"]) < wire.calls.index(["a2"])
    assert None not in await answers(tasks)


async def test_a_batch_that_failed_is_settled_call_by_call(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind, apart_max=8)
    tasks = await asked(batcher, "x1", "a1", "b1", "a2", "c1")
    wire.last.done()
    await settled()
    wire.last.failed(BatchFailedError(SOON))
    await settled()
    # One of each user at once, and of one user in their order.
    assert wire.calls[2:] == [["a1"], ["b1"], ["c1"]]
    assert all(
        (statement.alone, statement.settle_until) == (True, SOON) for statement in wire.sent[2:]
    )
    a1, b1, c1 = wire.sent[2:]
    # Meanwhile others go on.
    tasks += await asked(batcher, "d1", "a3")
    assert (wire.last.calls, wire.last.settle_until) == (["d1"], None)
    wire.last.done()
    b1.failed(refused())
    c1.failed(OSError())
    a1.done()
    await settled()
    assert (wire.last.calls, wire.last.settle_until) == (["a2"], SOON)
    wire.last.done()
    await settled()
    # This one was not in the batch.
    assert (wire.last.calls, wire.last.settle_until) == (["a3"], None)
    wire.last.done()
    assert await answers(tasks) == [
        *("x1 done", "a1 done", "insufficient_credits", "a2 done", "OSError"),
        *("d1 done", "a3 done"),
    ]


async def test_a_batch_that_was_rolled_back_is_made_call_by_call(wire: Wire) -> None:
    batcher = Batcher(DB, wire.kind)
    tasks = await asked(batcher, "x1", "a1", "b1")
    wire.last.done()
    await settled()
    wire.last.failed(BatchFailedError())
    await settled()
    assert (wire.last.calls, wire.last.settle_until) == (["a1"], None)
    wire.last.failed(OSError())
    await settled()
    assert (wire.last.calls, wire.last.settle_until) == (["b1"], None)
    wire.last.done()
    assert await answers(tasks) == ["x1 done", "OSError", "b1 done"]


@pytest.mark.parametrize("error", [UnavailableError(), ValueError("a defect")])
async def test_what_stops_a_statement_reaches_all_its_callers_and_the_next_go_on(
    wire: Wire, error: Exception
) -> None:
    batcher = Batcher(DB, wire.kind)
    tasks = await asked(batcher, "x1", "a1", "b1")
    wire.last.done()
    await settled()
    tasks += await asked(batcher, "c1", "d1")
    wire.last.failed(error)
    word = "unavailable" if isinstance(error, ApiError) else "ValueError"
    assert await answers(tasks) == ["x1 done", word, word, None, None]
    assert (wire.last.calls, wire.last.alone) == (["c1", "d1"], False)
    wire.last.done()
    assert (await answers(tasks))[3:] == ["c1 done", "d1 done"]


@pytest.mark.parametrize("outcomes", [[], ["a1 done"], ["a1 done", "b1 done", "c1 done"]])
async def test_nobody_waits_for_ever_for_a_wrong_number_of_outcomes(
    wire: Wire, outcomes: list[str]
) -> None:
    batcher = Batcher(DB, wire.kind)
    tasks = await asked(batcher, "x1", "a1", "b1")
    wire.last.done()
    await settled()
    wire.last.came(*outcomes)
    assert None not in await answers(tasks)
    tasks = await asked(batcher, "c1")
    wire.last.done()
    assert await answers(tasks) == ["c1 done"]


async def test_of_every_batch_its_size_is_told(wire: Wire) -> None:
    told: list[tuple[str, int]] = []
    batcher = Batcher(
        DB, wire.kind, size_max=2, sent=lambda kind, calls: told.append((kind, calls))
    )
    await asked(batcher, "a1", "b1", "c1", "d1")
    assert told == []
    wire.last.done()
    await settled()
    assert told == [("test", 2)]
    wire.last.done()
    await settled()
    # The last one went by itself.
    assert (wire.last.calls, told) == (["d1"], [("test", 2)])


# Time


async def test_a_statement_that_hangs_does_not_hold_back_the_next_for_ever(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = Batcher(DB, wire.kind)
    monkeypatch.setattr(batches, "TURN_SECONDS", 0.001)
    tasks = await asked(batcher, "a1")
    monkeypatch.setattr(batches, "TURN_SECONDS", 3600.0)
    tasks += await asked(batcher, "b1", "c1")
    await until(lambda: len(wire.sent) > 1)
    first, second = wire.sent
    assert second.calls in (["b1", "c1"], ["b1"])
    tasks += await asked(batcher, "d1", "e1")
    # That the first one ends is no turn of the others.
    first.done()
    assert await answers(tasks) == ["a1 done", None, None, None, None]
    assert len(wire.sent) == 2
    while None in await answers(tasks):
        wire.last.done()
    assert await answers(tasks) == [f"{call} done" for call in ("a1", "b1", "c1", "d1", "e1")]


async def test_what_is_done_in_time_ends_its_turn_once(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alarm of a statement that is over does not end the turn of the next one."""
    alarms: list[asyncio.TimerHandle] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def remember(delay: float, *arguments: Any) -> asyncio.TimerHandle:
        alarms.append(call_later(delay, *arguments))
        return alarms[-1]

    monkeypatch.setattr(loop, "call_later", remember)
    batcher = Batcher(DB, wire.kind)
    await asked(batcher, "a1", "b1", "c1")
    wire.last.done()
    await settled()
    await asked(batcher, "d1")
    assert len(wire.sent) == 2
    assert [alarm.cancelled() for alarm in alarms] == [True, False]
    wire.last.done()
    await settled()
    wire.last.done()
    await settled()
    assert all(alarm.cancelled() for alarm in alarms)


# A storm


@dataclass
class Storm:
    """Answers whatever comes, after some turns of the loop, in every way that there is.

    It does each call at most once, as the database does, and remembers in which order.
    """

    dice: random.Random
    done: dict[str, str] = field(default_factory=dict)
    begun: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    refused: set[str] = field(default_factory=set)
    under_way: int = 0
    most: int = 0

    @property
    def kind(self) -> Kind[str, str]:
        return Kind("storm", self._together, self._alone, lambda call: call[0])

    async def _together(self, _db: Any, calls: Sequence[str]) -> "list[str | ApiError | Left]":
        assert 1 <= len(calls) <= 8
        await self._pause()
        fate = self.dice.random()
        if fate < 0.06:
            raise UnavailableError
        if fate < 0.12:
            raise BatchFailedError
        # Whole users are left: some hold is theirs, or their balance is held.
        left = {call[0] for call in calls if self.dice.random() < 0.1}
        outcomes: list[str | ApiError | Left] = [
            Left.ALONE if call[0] in left else self._do(call) for call in calls
        ]
        await self._pause()
        if fate < 0.2:
            raise BatchFailedError(SOON)
        return outcomes

    async def _alone(self, _db: Any, call: str, settle_until: float | None) -> str:
        await self._pause()
        outcome = self._do(call) if settle_until is None else self._settle(call)
        await self._pause()
        if isinstance(outcome, ApiError):
            raise outcome
        return outcome

    def _settle(self, call: str) -> "str | ApiError":
        """It may have been done, or refused, before."""
        return self.done.get(call) or self._do(call, again=True)

    def _do(self, call: str, *, again: bool = False) -> "str | ApiError":
        assert call not in self.done, "done twice"
        assert again or call not in self.refused, "made twice"
        if not again or call not in self.refused:
            self.begun[call[0]].append(call)
        if self.dice.random() < 0.15:
            self.refused.add(call)
            return ApiError(402, call, "")
        self.done[call] = f"{call} done"
        return self.done[call]

    async def _pause(self) -> None:
        for _ in range(self.dice.randrange(6)):
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(12))
async def test_in_a_storm_every_call_is_answered_once(seed: int) -> None:
    dice = random.Random(seed)
    storm = Storm(random.Random(f"storm {seed}"))
    batcher = Batcher(
        DB, storm.kind, size_min=dice.choice([1, 2, 2, 3]), size_max=8, waiting_max=40, apart_max=3
    )
    clients = [Client() for _ in range(30)]
    calls = [f"{dice.choice('abcdefghij')}{number}" for number in range(600)]
    tasks: dict[str, asyncio.Task[str]] = {}
    whose: dict[str, Client] = {}
    went: set[str] = set()

    async def ask(call: str) -> str:
        drop_with(whose[call])
        return await batcher.call(call)

    for number, call in enumerate(calls):
        whose[call] = dice.choice(clients)
        tasks[call] = asyncio.create_task(ask(call))
        if dice.random() < 0.06:
            went.add(other := dice.choice(calls[: number + 1]))
            tasks[other].cancel()
        if dice.random() < 0.02:
            dice.choice(clients).leave()
        for _ in range(dice.choice([0, 0, 1, 2, 12])):
            await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await asyncio.wait(tasks.values())

    told = {call: _answer(task) for call, task in tasks.items()}
    for call, answer in told.items():
        match answer:
            case "unavailable":
                # Too many waited, or their statement was not sent.
                assert call not in storm.done
            case "cancelled":
                # Who waits until the end hears it, unless he is gone.
                assert call in went or not whose[call].there
            case _:
                assert answer in (f"{call} done", call)
                assert (answer == call) == (call not in storm.done)
    # Nobody's calls have overtaken each other.
    for user, begun in storm.begun.items():
        assert begun == [call for call in calls if call in begun], user
    assert batcher.waiting == 0
    words = {"done": 0, "unavailable": 0, "cancelled": 0, "refused": 0}
    for call, answer in told.items():
        words["refused" if answer == call else str(answer).split()[-1]] += 1
    assert all(words.values()), words
    # And then it is idle again.
    with contextlib.suppress(ApiError):
        await batcher.call("z1")
