"""`mana-credits serve` with a watch on its event loop.

python -m tests.bench.served FILE

A timer of one millisecond tells how late it comes: so long nothing else could run in the loop.
A machine that is busy makes a tick late as well: the kernel counts how long the loop's thread was
ready to run and got no core, and that is taken off. The rest is what the service itself does.

Written to FILE at the end, as JSON in milliseconds: `late`, the longest time; `held`, the longest
without the waiting for a core; `worked`, the most that the thread ran between two ticks;
`collected`, the longest garbage collection; and the ten ticks that were held up longest.
"""

import asyncio
import contextlib
import gc
import heapq
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from aiohttp import web

import service.server
from service.app import create_app
from service.logs import configure
from service.settings import Settings

TICK_SECONDS: Final = 0.001
KEPT: Final = 10


class Watch:
    """How late the ticks came."""

    def __init__(self) -> None:
        self.ticks = 0
        self._late = 0.0
        self._worked = 0.0
        self._held: list[tuple[float, float, float]] = []
        self._collecting = 0.0
        self._collected = 0.0

    async def run(self) -> None:
        """Tick until cancelled."""
        # Not a file that could block: the kernel makes it up.
        number = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        try:
            while True:
                began = time.perf_counter()
                ran, waited = _scheduled(number)
                await asyncio.sleep(TICK_SECONDS)
                late = time.perf_counter() - began - TICK_SECONDS
                ran_now, waited_now = _scheduled(number)
                self.note(late, ran_now - ran, waited_now - waited)
        finally:
            os.close(number)

    def note(self, late: float, worked: float, waited: float) -> None:
        """Count a tick: how late it was, and how long the thread ran and waited for a core (s)."""
        self.ticks += 1
        self._late = max(self._late, late)
        self._worked = max(self._worked, worked)
        tick = (max(0.0, late - waited), late, worked)
        if len(self._held) < KEPT:
            heapq.heappush(self._held, tick)
        else:
            heapq.heappushpop(self._held, tick)

    def collecting(self, phase: str, _info: dict[str, Any]) -> None:
        """Time the garbage collector, as `gc.callbacks` wants it."""
        if phase == "start":
            self._collecting = time.perf_counter()
        else:
            self._collected = max(self._collected, time.perf_counter() - self._collecting)

    def told(self) -> dict[str, Any]:
        """What was seen, in milliseconds."""
        worst = sorted(self._held, reverse=True)
        return {
            "ticks": self.ticks,
            "late": self._late * 1e3,
            "held": worst[0][0] * 1e3 if worst else 0.0,
            "worst": [
                dict(zip(("held", "late", "worked"), (part * 1e3 for part in tick), strict=True))
                for tick in worst
            ],
            "worked": self._worked * 1e3,
            "collected": self._collected * 1e3,
        }


def _scheduled(number: int) -> tuple[float, float]:
    """How long a thread has run, and how long it has waited for a core (seconds)."""
    ran, waited, _ = os.pread(number, 128, 0).split()
    return int(ran) / 1e9, int(waited) / 1e9


def main(file: Path) -> int:
    """Serve by the environment's settings; the exit status."""
    watch = Watch()

    async def watched(_app: web.Application) -> AsyncIterator[None]:
        gc.callbacks.append(watch.collecting)
        ticking = asyncio.create_task(watch.run())
        yield
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking

    def create(settings: Settings) -> web.Application:
        app = create_app(settings)
        app.cleanup_ctx.append(watched)
        return app

    service.server.create_app = create  # type: ignore[attr-defined]
    settings = Settings.from_env(os.environ)
    configure(settings)
    try:
        return service.server.serve(settings)
    finally:
        file.write_text(json.dumps(watch.told()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
