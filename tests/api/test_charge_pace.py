"""A charge run of the service goes at the pace that the database tells it."""

import asyncio
from typing import Any

import pytest

from service.queries import sync


class Scripted:
    """A database in which three batches are due, and somebody else is at work after the first."""

    def __init__(self) -> None:
        self.paces = [(50, 0, 7), (50, 60, 9), (500, 0, 11)]
        self.sizes: list[object] = []
        self.seen: list[object] = []

    async def row(self, sql: str, *args: object) -> dict[str, int]:
        assert "credits.pace_charges" in sql
        self.seen.append(args[1] if args else None)
        size, rest, seen = self.paces.pop(0)
        return {"batch_size": size, "rest_ms": rest, "seen": seen}

    async def move(self, sql: str, *args: object, **_options: Any) -> dict[str, object]:
        if "charge_due_subscriptions" not in sql:
            return {"id": None}
        self.sizes.append(args[0])
        batch = {"charged": args[0], "paused": 0, "errors": 0, "more": len(self.sizes) < 3}
        return {**batch, "last_at": None, "last_key": ""}


async def test_it_takes_what_it_is_told_and_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", rest)
    database: Any = Scripted()
    run = await sync.charge_recurring(database, 3600)
    assert (run.charged, run.more) == (600, False)
    assert database.sizes == [50, 50, 500]
    assert database.seen == [None, 7, 9]
    assert rests == [0.06, 0]
