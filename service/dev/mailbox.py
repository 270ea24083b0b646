"""A mana-notify for development: it keeps what it is sent, and shows it.

`POST /api/v1/notifications/send` takes a notice as mana-notify does, and drops a repeat by its
`externalId`; `GET /` answers what has come, newest first, with `?userId=` for one user.
"""

import argparse
import hmac
import sys
from collections import OrderedDict
from typing import Any, Final

import msgspec
from aiohttp import web

from service.dev.serving import serve

KEPT: Final = 1000


class Notification(msgspec.Struct, rename="camel"):
    """What mana-notify takes for a mail."""

    channel: str
    app_id: str
    user_id: str
    recipient: str
    external_id: str
    subject: str
    body: str
    data: dict[str, Any]


def create_app(service_key: str) -> web.Application:
    """Make the mailbox's application; it takes notices from whoever has `service_key`."""
    kept: OrderedDict[str, Notification] = OrderedDict()

    async def send(request: web.Request) -> web.Response:
        given = request.headers.get("X-Service-Key", "")
        if not hmac.compare_digest(given.encode(), service_key.encode()):
            return web.json_response({"message": "wrong service key"}, status=401)
        try:
            notification = msgspec.json.decode(await request.read(), type=Notification)
        except msgspec.MsgspecError as error:
            return web.json_response({"message": str(error)}, status=400)
        kept.setdefault(notification.external_id, notification)
        while len(kept) > KEPT:
            kept.popitem(last=False)
        return web.json_response({"success": True})

    async def show(request: web.Request) -> web.Response:
        user_id = request.query.get("userId")
        shown = [n for n in reversed(kept.values()) if user_id in (None, n.user_id)]
        return web.Response(body=msgspec.json.encode(shown), content_type="application/json")

    app = web.Application()
    app.router.add_post("/api/v1/notifications/send", send)
    app.router.add_get("/", show)
    return app


def main(argv: list[str] | None = None) -> int:
    """Run the mailbox as a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m service.dev.mailbox", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--service-key", required=True)
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when stdin ends")
    options = parser.parse_args(argv)
    return serve(
        create_app(options.service_key), options.port, exit_with_parent=options.exit_with_parent
    )


if __name__ == "__main__":
    sys.exit(main())
