"""Ids that are drawn before a call, so that a broken connection can be settled by them."""

import os
import re
import time
from typing import Final
from uuid import UUID

_APART: Final = re.compile(r"[\s/?#%{}]")
_PSEUDONYM: Final = re.compile("erased-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def uuid7() -> UUID:
    """A time-ordered UUID (RFC 9562, version 7): an index over such ids only appends.

    The 12 bits after the milliseconds hold the fraction of the millisecond (method 3 of
    section 6.2), so that ids drawn by one process within a millisecond stay in order too.
    """
    return UUID(int=_uuid7())


def uuid7_text() -> str:
    """The same as text, which `str` takes several times as long to write."""
    digits = f"{_uuid7():032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _uuid7() -> int:
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    random = int.from_bytes(os.urandom(8)) & (2**62 - 1)
    return (milliseconds & (2**48 - 1)) << 80 | 7 << 76 | fraction << 64 | 0b10 << 62 | random


def is_user_id(text: str) -> bool:
    """Whether the auth service may use `text` as a user id: the rule of the REST contract.

    1 to 128 printable characters without white space and without `/ ? # % { }`, and neither `.`
    nor `..`, so that an id stands in a path as it is. The pseudonym of a user who was erased is
    nobody's id.
    """
    return (
        1 <= len(text) <= 128
        and text.isprintable()
        and _APART.search(text) is None
        and text not in (".", "..")
        and _PSEUDONYM.fullmatch(text) is None
    )
