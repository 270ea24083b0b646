"""What batches alone would do: the service's queries behind handlers that look at nothing.

python -m tests.bench.bare PORT URL

The web server, the pool, the batches and the functions are the service's own. What it leaves out is
the rest of a request: who calls, whether the input is right, the request's id, its line in the log,
its counts, headers, and the fields of an answer. No change to that rest can make the service faster
than this is, which is what the floor's ratios are to be read against.
"""

import asyncio
import gc
import json
import sys

import msgspec
from aiohttp import web

from service.db import Database
from service.queries import credits, sync
from service.server import YOUNG_OBJECTS, Runner
from tests.bench.floor import until_stopped

INTERNAL = "/api/v1/internal"


def create_app(db: Database) -> web.Application:
    """The application; it neither opens nor closes the database."""

    async def balance(request: web.Request) -> web.Response:
        found = await credits.get_balance(db, request.match_info["user"])
        return _answer({"balance": found.available})

    async def status(request: web.Request) -> web.Response:
        found = await sync.get_sync_status(db, request.match_info["user"])
        return _answer({"active": found.active})

    async def use(request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        move = await credits.use_credits(
            db,
            user_id=body["userId"],
            amount=body["amount"],
            app_id=body["appId"],
            description=body["description"],
            idempotency_key=None,
            metadata=None,
            origin="service",
        )
        return _answer({"balance": move.available})

    app = web.Application()
    app.router.add_get(f"{INTERNAL}/credits/balance/{{user}}", balance)
    app.router.add_get(f"{INTERNAL}/sync/status/{{user}}", status)
    app.router.add_post(f"{INTERNAL}/credits/use", use)
    return app


def _answer(body: dict[str, object]) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def _serve(port: int, url: str) -> None:
    db = Database(url)
    await db.open()
    runner = Runner(create_app(db), access_log=None, handle_signals=False)
    await runner.setup()
    # As `serve` does.
    gc.set_threshold(YOUNG_OBJECTS)
    gc.collect()
    gc.freeze()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await until_stopped()
    finally:
        await runner.cleanup()
        await db.close()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2]))
