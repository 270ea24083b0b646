"""The floor: what aiohttp and asyncpg do with one `SELECT 1` a request, and nothing else.

python -m tests.bench.floor PORT URL KIND:SIZE…

`GET /one/SIZE` asks through a pool of so many connections, `GET /nothing` asks nobody. The web
server is the service's own, and the pools are set as its pool is: nothing is reset when a
connection goes back. `GET /usual/SIZE` asks through a pool as asyncpg makes it, which costs a
second round trip. KIND is `one` or `usual`.
"""

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any

import asyncpg
from aiohttp import web

# The service's own server, so that both are served alike.
from service.server import Runner

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    _Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]


async def _reset_nothing(_connection: "_Connection") -> None:
    pass


async def until_stopped() -> None:
    """Until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


async def _serve(port: int, url: str, wanted: list[str]) -> None:
    reset: dict[str, Any] = {"one": {"reset": _reset_nothing}, "usual": {}}
    pools: dict[str, asyncpg.Pool[asyncpg.Record]] = {}
    for each in wanted:
        kind, _, size = each.partition(":")
        pools[each] = await asyncpg.create_pool(
            url, min_size=int(size), max_size=int(size), command_timeout=10, **reset[kind]
        )

    async def one(request: web.Request) -> web.Response:
        pool = pools["{kind}:{size}".format_map(request.match_info)]
        value = await pool.fetchval("SELECT 1")
        return web.Response(text=f'{{"one":{value}}}', content_type="application/json")

    async def nothing(_request: web.Request) -> web.Response:
        return web.Response(text='{"one":1}', content_type="application/json")

    app = web.Application()
    app.router.add_get("/{kind}/{size}", one)
    app.router.add_get("/nothing", nothing)
    runner = Runner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await until_stopped()
    finally:
        await runner.cleanup()
        for pool in pools.values():
            pool.terminate()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
