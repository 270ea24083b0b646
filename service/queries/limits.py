"""Rate limits, counted in the database for all processes together."""

from collections.abc import Mapping

from service.db import Database


async def take_turn(db: Database, allowed: Mapping[str, int], *, seconds: int) -> float:
    """Whether a call may be made under all limits: 0, or the seconds until it may.

    `allowed` is how many calls each subject may make within `seconds`.
    """
    row = await db.move(
        "SELECT credits.take_turn(p_subjects => $1, p_allowed => $2, p_seconds => $3) AS wait",
        list(allowed),
        list(allowed.values()),
        seconds,
    )
    wait: float = row["wait"]
    return wait
