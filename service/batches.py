"""Natural batching: calls that come while statements are under way go together in the next one.

There is no timer. A call that finds nothing under way is sent at once, by its own function. Those
that come meanwhile go together as one statement, one transaction and one commit. So an idle service
is as quick as without batches, and a busy one shares round trips, commits and row locks. Two
statements are under way, each with about half of the calls, so that the database does one while the
service reads and answers the requests of the other.

What a batch could not do is settled call by call, by the functions of the calls, apart from the
batches: a user whom somebody else holds does not hold up the others. Calls about one user are
done in the order in which they came: no user is in two statements.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

import msgspec
import structlog

from service.errors import ApiError, UnavailableError

if TYPE_CHECKING:
    from service.db import Database

SIZE_MAX: Final = 64
"""Calls in one statement. PostgreSQL keeps the ids of 64 subtransactions at hand, and a batch makes
at most one for each call."""
WAITING_MAX: Final = 1000
"""Calls that wait, of one kind: another one would wait longer than its client does."""
TURNS: Final = 2
"""Statements under way at once: the database does one while the service is busy with the other."""
TURN_SECONDS: Final = 0.25
"""For a statement to hold back others; after that they go side by side with it."""

_C = TypeVar("_C")
_R = TypeVar("_R")

_log = structlog.get_logger(__name__)


class Asker(Protocol):
    """Who waits for an answer, as a request does."""

    @property
    def transport(self) -> object | None:
        """None once nobody is there any more."""


_asker: ContextVar[Asker | None] = ContextVar("asker", default=None)


def drop_with(asker: Asker) -> None:
    """Drop a call that this task makes from now on if its asker is gone before it is sent.

    Whoever waits for it is cancelled then.
    """
    _asker.set(asker)


class Left(Enum):
    """An outcome that is none."""

    ALONE = "alone"
    """Nothing was done: the call's own function does it."""


class BatchFailedError(Exception):
    """A statement failed, of which no single call is known to be the cause.

    `settle_until` is set where it may have been done all the same: until then (`time.monotonic`)
    each of its calls may be called again to find out.
    """

    def __init__(self, settle_until: float | None = None) -> None:
        super().__init__(settle_until)
        self.settle_until = settle_until


@dataclass(frozen=True, slots=True, eq=False)
class Kind(Generic[_C, _R]):
    """Calls that can go together."""

    name: str
    together: "Callable[[Database, Sequence[_C]], Awaitable[Sequence[_R | ApiError | Left]]]"
    """One outcome for each call. Raises ApiError where nothing was done, and BatchFailedError."""
    alone: "Callable[[Database, _C, float | None], Awaitable[_R]]"
    """The call's own function; the number is `settle_until` of a batch that failed."""
    subject: Callable[[_C], Hashable]
    """Whom a call is about."""
    ordered: bool = True
    """Whether calls about one user are to be done in the order in which they came."""
    side_by_side: bool = True
    """Whether TURNS statements are under way at once, rather than one."""

    @property
    def turns(self) -> int:
        """How many statements are under way at once."""
        return TURNS if self.side_by_side else 1


class _Waiting(msgspec.Struct, Generic[_C, _R], eq=False):
    call: _C
    answer: "asyncio.Future[_R]"
    asker: Asker | None
    settle_until: float | None = None

    def dropped(self) -> bool:
        """Whether nobody waits for the answer any more; what was sent is asked for to the end."""
        if self.settle_until is None and self.asker is not None and self.asker.transport is None:
            self.answer.cancel()
        return self.answer.done()


class Batcher(Generic[_C, _R]):
    """The calls of one kind, on one pool of connections."""

    def __init__(
        self,
        db: "Database",
        kind: Kind[_C, _R],
        *,
        size_min: int = 2,
        size_max: int = SIZE_MAX,
        waiting_max: int = WAITING_MAX,
        apart_max: int = 1,
        sent: Callable[[str, int], None] | None = None,
    ) -> None:
        """From `size_min` calls on they go as one; `apart_max` are settled apart at once.

        `sent` is told the kind and the number of calls of each statement that makes several.
        """
        self._db = db
        self._kind = kind
        self._size_min = size_min
        self._size_max = size_max
        self._waiting_max = waiting_max
        self._sent = sent
        self._waiting: deque[_Waiting[_C, _R]] = deque()
        self._apart: dict[Hashable, deque[_Waiting[_C, _R]]] = {}
        self._apart_waiting = 0
        self._apart_turns = asyncio.Semaphore(apart_max)
        self._tasks: set[asyncio.Task[None]] = set()
        # How many calls each statement under way has, and whom they are about.
        self._turns: dict[int, tuple[int, frozenset[Hashable]]] = {}
        self._last_turn = 0
        self._last_size = 1
        self._woken = False

    @property
    def waiting(self) -> int:
        """How many calls have not been sent yet."""
        return len(self._waiting) + self._apart_waiting

    async def call(self, call: _C) -> _R:
        """Do a call, together with others or alone.

        Raises what its own function raises, and UnavailableError when too many wait already.
        """
        if not self._turns and self._last_size == 1 < self._size_min and not self._apart:
            turn, watch = self._begin((call,))
            try:
                return await self._kind.alone(self._db, call, None)
            finally:
                self._end(turn, watch)
        if self.waiting >= self._waiting_max:
            raise UnavailableError("Too many calls are waiting")
        waiting: _Waiting[_C, _R] = _Waiting(
            call, asyncio.get_running_loop().create_future(), _asker.get()
        )
        if not self._apart or not self._put_apart(waiting):
            self._waiting.append(waiting)
            if not self._woken and self._may_begin():
                # Not at once: what arrived in the same round of the loop goes with it.
                self._woken = True
                asyncio.get_running_loop().call_soon(self._go_on)
        return await waiting.answer

    def _may_begin(self) -> bool:
        """Whether a statement may be sent now: none is under way, or one that is no larger."""
        return len(self._turns) < self._kind.turns and len(self._waiting) >= max(
            (calls for calls, _ in self._turns.values()), default=1
        )

    def _begin(self, calls: Sequence[_C]) -> tuple[int, asyncio.TimerHandle]:
        self._last_turn = turn = self._last_turn + 1
        about = frozenset(map(self._kind.subject, calls)) if self._kind.ordered else frozenset()
        self._turns[turn] = len(calls), about
        return turn, asyncio.get_running_loop().call_later(TURN_SECONDS, self._end, turn)

    def _end(self, turn: int, watch: asyncio.TimerHandle | None = None) -> None:
        if watch is not None:
            watch.cancel()
        if self._turns.pop(turn, None) is not None:
            self._go_on()

    def _go_on(self) -> None:
        self._woken = False
        while self._waiting and self._may_begin():
            # No more than its part of all, so that the others have as many.
            under_way = sum(calls for calls, _ in self._turns.values())
            part = -(-(len(self._waiting) + under_way) // self._kind.turns)
            batch = self._take(min(part, self._size_max))
            if not batch:
                return
            self._last_size = len(batch)
            turn, watch = self._begin([waiting.call for waiting in batch])
            self._start(self._send(batch, turn, watch))

    def _take(self, size: int) -> list[_Waiting[_C, _R]]:
        """Those who have waited longest, but for whom a statement under way is about."""
        busy = [about for _, about in self._turns.values() if about]
        batch: list[_Waiting[_C, _R]] = []
        later: list[_Waiting[_C, _R]] = []
        while self._waiting and len(batch) < size:
            waiting = self._waiting.popleft()
            if waiting.dropped() or (self._apart and self._put_apart(waiting)):
                continue
            if busy and any(self._kind.subject(waiting.call) in about for about in busy):
                later.append(waiting)
            else:
                batch.append(waiting)
        self._waiting.extendleft(reversed(later))
        return batch

    async def _send(
        self, batch: list[_Waiting[_C, _R]], turn: int, watch: asyncio.TimerHandle
    ) -> None:
        try:
            if len(batch) < self._size_min:
                for waiting in batch:
                    await self._settle(waiting)
            else:
                await self._together(batch)
        finally:
            self._end(turn, watch)

    async def _together(self, batch: list[_Waiting[_C, _R]]) -> None:
        if self._sent is not None:
            self._sent(self._kind.name, len(batch))
        try:
            outcomes = await self._kind.together(self._db, [waiting.call for waiting in batch])
            pairs = list(zip(batch, outcomes, strict=True))
        except BatchFailedError as error:
            _log.warning(
                "settling a batch call by call",
                kind=self._kind.name,
                calls=len(batch),
                cause=type(error.__cause__).__name__,
            )
            for waiting in batch:
                waiting.settle_until = error.settle_until
                self._put_apart(waiting, begin=True)
            return
        except BaseException as error:
            for waiting in batch:
                _fail(waiting.answer, error)
            if not isinstance(error, Exception):
                raise
            return
        for waiting, outcome in pairs:
            if outcome is Left.ALONE:
                self._put_apart(waiting, begin=True)
            elif waiting.answer.done():
                pass
            elif isinstance(outcome, ApiError):
                waiting.answer.set_exception(outcome)
            else:
                waiting.answer.set_result(outcome)

    def _put_apart(self, waiting: _Waiting[_C, _R], *, begin: bool = False) -> bool:
        """Whether the call was put behind others about the same user, which are settled apart."""
        subject = self._kind.subject(waiting.call)
        queue = self._apart.get(subject)
        if queue is None:
            if not begin:
                return False
            queue = self._apart[subject] = deque()
            self._start(self._settle_apart(subject, queue))
        queue.append(waiting)
        self._apart_waiting += 1
        return True

    async def _settle_apart(self, subject: Hashable, queue: deque[_Waiting[_C, _R]]) -> None:
        try:
            while queue:
                async with self._apart_turns:
                    waiting = queue.popleft()
                    self._apart_waiting -= 1
                    if not waiting.dropped():
                        await self._settle(waiting)
        finally:
            self._apart_waiting -= len(queue)
            for waiting in queue:
                waiting.answer.cancel()
            del self._apart[subject]

    async def _settle(self, waiting: _Waiting[_C, _R]) -> None:
        try:
            answer = await self._kind.alone(self._db, waiting.call, waiting.settle_until)
        except BaseException as error:
            _fail(waiting.answer, error)
            if not isinstance(error, Exception):
                raise
        else:
            if not waiting.answer.done():
                waiting.answer.set_result(answer)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fail(answer: "asyncio.Future[Any]", error: BaseException) -> None:
    if answer.done():
        return
    if isinstance(error, Exception):
        answer.set_exception(error)
    else:
        answer.cancel()
