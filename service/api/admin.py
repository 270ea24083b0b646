"""What administrators do to a user's Cloud Sync."""

from typing import Literal

from aiohttp import web

from service.api.sync import Status
from service.keys import DB
from service.queries import sync
from service.wire import Answer, Auth, NoFields, Routes, path_user_id, read_body, respond

routes = Routes()


class GiftState(Answer):
    """Whether a user's Cloud Sync is a gift, and on."""

    success: Literal[True]
    user_id: str
    gifted: bool
    active: bool


@routes.get("/api/v1/admin/sync/{userId}", auth=Auth.ADMIN, answer=Status)
async def get_sync_status_for_admin(request: web.Request) -> web.Response:
    """Cloud Sync of a user."""
    return respond(Status.of(await sync.get_sync_status(request.app[DB], path_user_id(request))))


@routes.post("/api/v1/admin/sync/{userId}/gift", auth=Auth.ADMIN, body=NoFields, answer=GiftState)
async def gift_sync(request: web.Request) -> web.Response:
    """Turn a user's Cloud Sync on, never charged, until revoked."""
    await read_body(request, NoFields)
    status = await sync.gift_sync(request.app[DB], path_user_id(request))
    return respond(
        GiftState(success=True, user_id=status.user_id, gifted=status.gifted, active=status.active)
    )


@routes.delete(
    "/api/v1/admin/sync/{userId}/gift",
    auth=Auth.ADMIN,
    answer=GiftState,
    errors=("sync_not_gifted",),
)
async def revoke_sync_gift(request: web.Request) -> web.Response:
    """End a gifted Cloud Sync; what the user had paid for stays his."""
    status = await sync.revoke_sync_gift(request.app[DB], path_user_id(request))
    return respond(
        GiftState(success=True, user_id=status.user_id, gifted=status.gifted, active=status.active)
    )
