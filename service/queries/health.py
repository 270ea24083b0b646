"""Whether the database can be worked with, and what an operator should look at."""

from collections.abc import Sequence

from service.db import Database


async def missing_migrations(db: Database, expected: Sequence[str]) -> list[str]:
    """Those of `expected` that the database lacks.

    It may have more: that is how it looks while a newer release rolls out.
    """
    rows = await db.rows(
        "SELECT e.id FROM unnest($1::text[]) AS e (id)"
        " WHERE e.id NOT IN (SELECT m.migration_id FROM public._yoyo_migration AS m)"
        " ORDER BY e.id",
        list(expected),
    )
    return [row["id"] for row in rows]


async def list_problems(db: Database) -> list[str]:
    """What an operator should look at, one line each: jobs, charges, the last ledger check."""
    rows = await db.rows("SELECT p.problem FROM credits.list_problems() AS p (problem)")
    return [row["problem"] for row in rows]
