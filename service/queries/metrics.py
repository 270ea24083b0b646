"""The figures of the database that operators watch."""

from dataclasses import dataclass

from service.db import Database

READ_SECONDS = 2.0
"""Below the patience of a scrape, which is 10 s."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, and what it is of, where there are several of its name."""

    name: str
    label: str | None
    value: float


async def read_metrics(db: Database) -> list[Figure]:
    """All figures as they are now."""
    # Repeated when its connection breaks, which does no harm: it counts from where it got to.
    rows = await db.rows("SELECT * FROM credits.read_metrics()", seconds=READ_SECONDS)
    return [Figure(row["name"], row["label"], float(row["value"])) for row in rows]
