"""Running one of the small development servers as a process of its own."""

import asyncio
import logging
import os
import signal
import sys
import threading

from aiohttp import web

_log = logging.getLogger(__name__)


def serve(app: web.Application, port: int, *, exit_with_parent: bool) -> int:
    """Serve `app` on 127.0.0.1 until a signal asks to stop; return the exit status.

    With `exit_with_parent` it also stops when standard input ends: a parent that keeps the other
    end of that pipe open needs to do nothing else, however it ends.
    """
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(name)s %(message)s"
    )
    try:
        asyncio.run(_serve(app, port, exit_with_parent=exit_with_parent))
    except OSError as error:
        print(f"cannot listen on port {port}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


async def _serve(app: web.Application, port: int, *, exit_with_parent: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    if exit_with_parent:

        def watch_stdin() -> None:
            while os.read(0, 1024):
                pass
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=watch_stdin, daemon=True).start()

    runner = web.AppRunner(app, shutdown_timeout=2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        _log.info("listening on 127.0.0.1:%d", port)
        await stop.wait()
    finally:
        await runner.cleanup()
