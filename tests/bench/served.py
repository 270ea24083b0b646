"""`mana-credits serve` with a watch on its event loop.

python -m tests.bench.served FILE

A timer of one millisecond tells how late it comes: so long nothing else could run in the loop.
Written to FILE at the end, as JSON in milliseconds: the longest time, the ten longest, and the most
that the loop's thread worked between two ticks. A machine that is busy makes a tick late as well,
without the thread working.
"""

import asyncio
import contextlib
import gc
import heapq
import json
import os
import sys
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
        self._late: list[tuple[float, float]] = []
        self._worked = 0.0
        self._collecting = 0.0
        self._collected = 0.0

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            began, worked = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK_SECONDS)
            self.note(time.perf_counter() - began - TICK_SECONDS, time.thread_time() - worked)

    def note(self, late: float, worked: float) -> None:
        """Count a tick that was so late (seconds), and between which so long was worked."""
        self.ticks += 1
        self._worked = max(self._worked, worked)
        if len(self._late) < KEPT:
            heapq.heappush(self._late, (late, worked))
        else:
            heapq.heappushpop(self._late, (late, worked))

    def collecting(self, phase: str, _info: dict[str, Any]) -> None:
        """Time the garbage collector, as `gc.callbacks` wants it."""
        if phase == "start":
            self._collecting = time.perf_counter()
        else:
            self._collected = max(self._collected, time.perf_counter() - self._collecting)

    def told(self) -> dict[str, Any]:
        """What was seen, in milliseconds."""
        worst = sorted(self._late, reverse=True)
        return {
            "ticks": self.ticks,
            "longest": worst[0][0] * 1e3 if worst else 0.0,
            "worst": [{"late": late * 1e3, "worked": worked * 1e3} for late, worked in worst],
            "worked": self._worked * 1e3,
            "collected": self._collected * 1e3,
        }


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
