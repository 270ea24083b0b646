"""Batches of calls, as `credits.run_batch` takes and answers them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg

from tests.support.calls import Refusal, batch_call, statement
from tests.support.databases import Connection, detail

Call: TypeAlias = tuple[str, dict[str, Any]]
"""A function of `BATCH_OPERATIONS`, and its arguments without their `p_`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call: an answer, or a refusal; neither where nothing was done."""

    row: asyncpg.Record | None = None
    refused: Refusal | None = None

    @property
    def alone(self) -> bool:
        """Whether the call is left to its own function."""
        return self.row is None and self.refused is None

    @property
    def done(self) -> asyncpg.Record:
        """The answer, of a call that was neither refused nor left."""
        assert self.row is not None, self.refused or "left to its own function"
        return self.row

    @property
    def error(self) -> Refusal:
        """The refusal, of a call that was refused."""
        assert self.refused is not None, self.row or "left to its own function"
        return self.refused


async def run_batch(connection: Connection, *calls: Call) -> list[Outcome]:
    """Make calls in one batch; the outcomes come in the order of the calls."""
    rows = await connection.fetch(
        "SELECT * FROM credits.run_batch($1)",
        [batch_call(function, **arguments) for function, arguments in calls],
    )
    found = {row["place"]: _outcome(row) for row in rows}
    assert len(rows) == len(found), "two outcomes of one call"
    assert sorted(found) == list(range(1, len(calls) + 1))
    return [found[place] for place in sorted(found)]


def _outcome(row: asyncpg.Record) -> Outcome:
    answers = [row[kind] for kind in ("move", "hold", "committed") if row[kind] is not None]
    assert [row["alone"], row["error"] is not None, *(True for _ in answers)].count(True) == 1, row
    if row["error"] is not None:
        return Outcome(refused=Refusal(row["error"], json.loads(row["detail"] or "{}")))
    return Outcome(*answers)


async def run_alone(connection: Connection, function: str, **arguments: Any) -> Outcome:
    """Make a call by its own function, on whichever path the tests run."""
    try:
        [row] = await connection.fetch(statement(function, arguments), *arguments.values())
    except asyncpg.PostgresError as error:
        if not (error.sqlstate or "").startswith("MC"):
            raise
        return Outcome(refused=Refusal(str(error.sqlstate), detail(error)))
    return Outcome(row)


async def run_all(connection: Connection, calls: Sequence[Call]) -> list[Outcome]:
    """Make calls in one batch, and those that it leaves by their own functions afterwards."""
    outcomes = await run_batch(connection, *calls)
    return [
        await run_alone(connection, function, **arguments) if outcome.alone else outcome
        for outcome, (function, arguments) in zip(outcomes, calls, strict=True)
    ]


async def wait_longer(admin: Connection) -> None:
    """Let a batch wait for the locks of others as long as it takes, so that a test can see it."""
    await admin.execute(
        "ALTER FUNCTION credits.run_batch(credits.batch_call[]) SET lock_timeout = '10min'"
    )
