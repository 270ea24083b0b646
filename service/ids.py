"""Ids that are drawn before a call, so that a broken connection can be settled by them."""

import itertools
import os
import re
import secrets
import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

_APART: Final = re.compile(r"[\s/?#%{}]")
_PSEUDONYM: Final = re.compile("erased-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def uuid7() -> UUID:
    """A time-ordered UUID (RFC 9562, version 7): an index over such ids only appends.

    The 12 bits after the milliseconds hold the fraction of the millisecond (method 3 of
    section 6.2), so that ids drawn by one process within a millisecond stay in order too.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    chance = int.from_bytes(os.urandom(8)) & (2**62 - 1)
    return UUID(
        int=(milliseconds & (2**48 - 1)) << 80 | 7 << 76 | fraction << 64 | 0b10 << 62 | chance
    )


def request_ids() -> Callable[[], str]:
    """What makes the ids of the requests that one process serves; nothing but its log knows them.

    They look like `uuid7`: the beginning is the process's own, and then a number counts up.
    """
    beginning = str(uuid7())[:24]
    numbers = itertools.count(secrets.randbelow(2**47))
    return lambda: f"{beginning}{next(numbers):012x}"


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
