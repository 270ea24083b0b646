"""What a data subject may ask for: one wrapper for each SQL function."""

from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
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


async def export_user(db: Database, user_id: str, piece_bytes: int) -> list[bytes]:
    """Everything about a user as JSON in UTF-8, as the database wrote it, in pieces.

    It may be tens of megabytes: as bytes it is neither decoded nor written a second time here,
    and as pieces of at most `piece_bytes` it is put together and taken apart by nobody.
    """
    rows = await db.rows(
        # OFFSET 0 keeps the document from being made again for every piece.
        "SELECT s.start, substr(e.document, s.start, $2) AS piece"
        " FROM (SELECT convert_to(credits.export_user($1)::text, 'UTF8') OFFSET 0) AS e (document)"
        " CROSS JOIN LATERAL generate_series(1, octet_length(e.document), $2) AS s (start)",
        user_id,
        piece_bytes,
        seconds=SECONDS,
    )
    return [row["piece"] for row in sorted(rows, key=itemgetter("start"))]


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
