"""How far long work is: one line on a terminal, and now and then a line elsewhere."""

import sys
import time
from typing import Final, TextIO

_TERMINAL_SECONDS: Final = 0.2
_ELSEWHERE_SECONDS: Final = 15.0


class Progress:
    """Counts something of which the total is known; use as a context manager."""

    def __init__(self, what: str, total: int, *, to: TextIO | None = None) -> None:
        self._what = what
        self._total = max(total, 1)
        self._to = to or sys.stderr
        self._terminal = self._to.isatty()
        self._began = time.monotonic()
        self._told = self._began if not self._terminal else 0.0
        self.done = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._tell(time.monotonic())
        if self._terminal:
            self._to.write("\n")

    def add(self, number: int) -> None:
        """So many more are done."""
        self.done += number
        now = time.monotonic()
        # The last line is told at the end.
        if self.done < self._total and now - self._told >= (
            _TERMINAL_SECONDS if self._terminal else _ELSEWHERE_SECONDS
        ):
            self._told = now
            self._tell(now)

    def _tell(self, now: float) -> None:
        line = describe(self._what, self.done, self._total, now - self._began)
        self._to.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        self._to.flush()


def describe(what: str, done: int, total: int, seconds: float) -> str:
    """One line: the part, the rate, and the time that is left at this rate (or was taken)."""
    rate = done / seconds if seconds > 0 else 0.0
    if done >= total:
        rest = f"took {clock(seconds)}"
    else:
        rest = f"{clock((total - done) / rate)} left" if rate > 0 else "…"
    return f"{what}: {100 * done // total} % of {total:,} ({rate:,.0f}/s, {rest})"


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
