"""Callers that go on calling while the database goes away, and remember what they were told."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.databases import Connection
from tests.support.races import WAIT_SECONDS
from tests.support.running import Answer, Running

HANG_SECONDS: Final = 20.0
"""An answer that takes longer counts as none: callers have gone by then."""

DONE = """
SELECT marker, count(*) AS times FROM (
    SELECT description AS marker FROM credits.transactions WHERE type = 'usage'
    UNION ALL
    SELECT metadata ->> 'referenceId' FROM credits.transactions WHERE type = 'grant'
    UNION ALL
    SELECT reason FROM credits.reservations
    UNION ALL
    -- A gift, and the ledger row that paid for it: one without the other is none.
    SELECT g.message FROM gifts.gift_codes AS g
    INNER JOIN credits.transactions AS t
        ON t.user_id = g.creator_id AND t.reference_id = g.id AND t.amount = -g.total_credits
    UNION ALL
    SELECT 'redeemed ' || g.message FROM gifts.gift_redemptions AS r
    INNER JOIN gifts.gift_codes AS g ON g.id = r.gift_id
    INNER JOIN credits.transactions AS t ON t.user_id = r.user_id AND t.id = r.id
) AS m GROUP BY marker
"""


@dataclass(frozen=True)
class Told:
    """One answer, and when it was asked for and given (monotonic seconds)."""

    answer: Answer
    began: float
    ended: float

    @property
    def word(self) -> str:
        """`done`, `unavailable`, `outcome_unknown`, or what else came."""
        if self.answer.status < 300:
            return "done"
        return str(self.answer.body["error"])


@dataclass
class Sent:
    """A move that was asked for: once, or again and again until it was done."""

    kind: str
    marker: str
    """What tells it from all others, and stands in the row that it makes."""
    told: list[Told] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether it was acknowledged."""
        return any(told.word == "done" for told in self.told)

    @property
    def refused(self) -> bool:
        """Whether every answer said that nothing has happened."""
        return all(told.word == "unavailable" for told in self.told)


@dataclass
class Load:
    """Callers, each of whom makes one call after the other."""

    service: Running
    users: list[str]
    sent: list[Sent] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _callers: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, callers: int) -> None:
        """Let them begin."""
        self._callers = [asyncio.create_task(self._call(n)) for n in range(callers)]

    async def stop(self) -> None:
        """Let each end what it has begun."""
        self.stopping.set()
        await asyncio.gather(*self._callers)

    @property
    def told(self) -> list[Told]:
        """Every answer that was given."""
        return [told for sent in self.sent for told in sent.told]

    def words(self) -> Counter[str]:
        """How often each answer was given."""
        return Counter(told.word for told in self.told)

    async def until(self, condition: Callable[["Load"], bool]) -> None:
        """Wait until the answers are such; fails when a caller fails, or it never comes."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition(self):
                for caller in self._callers:
                    if caller.done():
                        caller.result()
                await asyncio.sleep(0.01)

    async def more(self, number: int) -> None:
        """Wait until so many more moves were acknowledged."""
        before = self.words()["done"]
        await self.until(lambda load: load.words()["done"] >= before + number)

    async def _call(self, caller: int) -> None:
        number = 0
        while not self.stopping.is_set():
            user = self.users[(caller + number) % len(self.users)]
            kinds = (self._debit, self._grant, self._hold, self._gift)
            await kinds[number % len(kinds)](user, f"{user}/{caller}/{number}", number % 8 < 4)
            number += 1

    async def _debit(self, user: str, marker: str, keyed: bool) -> None:
        body = {"userId": user, "amount": 1, "appId": "chat", "description": f"debit {marker}"}
        key = {"idempotencyKey": f"debit {marker}"} if keyed else {}
        await self._send("debit", f"debit {marker}", keyed, "credits/use", {**body, **key})

    async def _grant(self, user: str, marker: str, again: bool) -> None:
        reference = f"grant {marker}"
        body = {"userId": user, "amount": 2, "reason": "load", "referenceId": reference}
        await self._send("grant", reference, again, "credits/grant", body)

    async def _hold(self, user: str, marker: str, keyed: bool) -> None:
        body = {"userId": user, "amount": 3, "reason": f"hold {marker}"}
        key = {"idempotencyKey": f"hold {marker}"} if keyed else {}
        made = await self._send(
            "reserve", f"hold {marker}", keyed, "credits/reserve", {**body, **key}
        )
        if made is not None:
            # A commit is known by its reservation: it may be repeated without a key.
            body = {"reservationId": made["reservationId"], "description": f"commit {marker}"}
            await self._send("commit", f"commit {marker}", keyed, "credits/commit", body)

    async def _gift(self, user: str, marker: str, keyed: bool) -> None:
        body = {"totalCredits": 2, "message": f"gift {marker}"}
        key = {"idempotencyKey": f"gift {marker}"} if keyed else {}
        made = await self._send("gift", f"gift {marker}", keyed, "/gifts", {**body, **key}, user)
        if made is not None:
            # One of its own, since nobody may redeem more than ten a minute.
            redeemer = f"redeemer-{len(self.sent)}"
            path = f"/gifts/{made['code']}/redeem"
            await self._send("redeem", f"redeemed gift {marker}", keyed, path, {}, redeemer)

    async def _send(
        self, kind: str, marker: str, again: bool, path: str, body: object, user: str | None = None
    ) -> Any:
        """Call once, or until it is done; answers the body of what was done, or None."""
        sent = Sent(kind, marker)
        self.sent.append(sent)
        while True:
            began = time.monotonic()
            call: Awaitable[Answer] = (
                self.service.call("POST", f"/internal/{path}", internal=True, json=body)
                if user is None
                else self.service.call("POST", path, user=user, json=body)
            )
            answer = await call
            sent.told.append(Told(answer, began, time.monotonic()))
            if answer.status < 300:
                return answer.body
            # Sooner than Retry-After says, so that there is load all the time.
            await asyncio.sleep(0.1)
            if not again or answer.status != 503:
                return None


async def done(admin: Connection) -> dict[str, int]:
    """How often each marked move stands in the database."""
    return {row["marker"]: row["times"] for row in await admin.fetch(DONE)}


def require_told_well(told: Iterable[Told], within: float = HANG_SECONDS) -> None:
    """Fail unless every answer is one that may be given while the database comes and goes.

    `within`: the seconds that an answer may take.
    """
    for each in told:
        assert each.word in ("done", "unavailable", "outcome_unknown"), each
        if each.word != "done":
            assert each.answer.status == 503, each
            # `unavailable` invites to call again; `outcome_unknown` does not.
            assert ("Retry-After" in each.answer.headers) == (each.word == "unavailable"), each
        assert each.ended - each.began < within, each


async def require_exactly_once(load: Load, admin: Connection) -> None:
    """Fail unless what was acknowledged was done once, and what was refused was not done."""
    there = await done(admin)
    markers = {sent.marker for sent in load.sent}
    assert len(markers) == len(load.sent)
    twice = {marker: times for marker, times in there.items() if times != 1 and marker in markers}
    assert twice == {}, twice
    lost = [sent for sent in load.sent if sent.done and sent.marker not in there]
    assert lost == [], lost
    untrue = [sent for sent in load.sent if sent.refused and sent.marker in there]
    assert untrue == [], untrue
