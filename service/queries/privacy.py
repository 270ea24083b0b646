"""What a data subject may ask for: one wrapper for each SQL function."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import uuid4

from service.db import Database

SECONDS: Final = 50.0
"""For one of these: all stored Stripe payloads are read, and a long ledger is written anew."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What erasing a user did; `erased_at` is None where nothing was known of him."""

    forfeited_credits: int
    written_off_credits: int
    cancelled_gifts: int
    released_holds: int
    erased_at: datetime | None


async def export_user(db: Database, user_id: str) -> bytes:
    """Everything about a user as JSON in UTF-8, as the database wrote it.

    It may be large: as bytes it is neither decoded nor written a second time here.
    """
    document: bytes = await db.value(
        "SELECT convert_to(credits.export_user($1)::text, 'UTF8')", user_id, seconds=SECONDS
    )
    return document


async def erase_user(db: Database, user_id: str, *, admin_id: str | None = None) -> Erasure:
    """Erase a user; again changes nothing. `admin_id`: the administrator who does it."""
    row = await db.move(
        # Random, and kept nowhere but in the pseudonym: a time in it would tell when he left.
        "SELECT * FROM credits.erase_user(p_user_id => $1, p_id => $2, p_admin_id => $3)",
        user_id,
        uuid4(),
        admin_id,
        seconds=SECONDS,
    )
    return Erasure(**row)
