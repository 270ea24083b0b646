"""Waiting for what raises no event, with a deadline that only a defect reaches."""

import asyncio
import os
from collections.abc import Awaitable, Callable

PATIENCE_SECONDS = float(os.environ.get("MANA_TEST_PATIENCE", "60"))


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            holds = condition()
            if not isinstance(holds, bool):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(0.02)
