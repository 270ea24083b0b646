"""The service in a thread of its own, for tests that call it and wait, as most clients do."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from tests.support.waiting import PATIENCE_SECONDS

_T = TypeVar("_T")


@contextlib.contextmanager
def in_background(make: Callable[[], AbstractAsyncContextManager[_T]]) -> Iterator[_T]:
    """Enter a context in the event loop of another thread, which serves until this one is left."""
    entered = threading.Event()
    made: list[_T] = []
    failed: list[BaseException] = []
    leave: list[Callable[[], object]] = []

    async def serve() -> None:
        loop, left = asyncio.get_running_loop(), asyncio.Event()
        leave.append(functools.partial(loop.call_soon_threadsafe, left.set))
        async with make() as value:
            made.append(value)
            entered.set()
            await left.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            entered.set()

    thread = threading.Thread(target=run, name="service of the tests")
    thread.start()
    try:
        assert entered.wait(PATIENCE_SECONDS)
        if failed:
            raise failed[0]
        yield made[0]
    finally:
        if leave:
            leave[0]()
        thread.join()
    if failed:
        raise failed[0]
