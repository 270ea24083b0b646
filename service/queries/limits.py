"""Rate limits, counted in the database for all processes together."""

from collections.abc import Mapping

from service.db import Database


async def take_turn(db: Database, allowed: Mapping[str, int], *, seconds: int) -> float:
    """Whether a call may be made under all limits: 0, or the seconds until it may.

    `allowed` is how many calls each subject may make within `seconds`.
    """
    # No credits move, so asking again is harmless: a call may then be counted twice. As a move, its
    # loss would be told as an outcome that nobody knows, on a mere look-up too.
    wait: float = await db.value(
        "SELECT credits.take_turn(p_subjects => $1, p_allowed => $2, p_seconds => $3)",
        list(allowed),
        list(allowed.values()),
        seconds,
    )
    return wait
