"""Whether the service lives, and whether it can do its work."""

from datetime import UTC, datetime
from typing import Literal

from aiohttp import web

from service.errors import RETRY_AFTER_SECONDS, ApiError, is_not_migrated
from service.keys import DB
from service.paths import migration_ids
from service.queries import health
from service.wire import Answer, Auth, Routes, Timestamp, respond, timestamp

routes = Routes()


class Health(Answer):
    """The process answers."""

    status: Literal["ok"]
    service: Literal["mana-credits"]
    timestamp: Timestamp


class Readiness(Answer):
    """What the service can do, and why not more."""

    status: Literal["ok", "degraded", "unavailable"]
    reasons: list[str]


@routes.get("/health", auth=Auth.PUBLIC, answer=Health, database=False)
async def get_health(request: web.Request) -> web.Response:
    """Answer without the database, so that its absence restarts nothing."""
    return respond(
        Health(status="ok", service="mana-credits", timestamp=timestamp(datetime.now(UTC)))
    )


@routes.get(
    "/health/ready", auth=Auth.PUBLIC, answer=Readiness, others={503: Readiness}, database=False
)
async def get_readiness(request: web.Request) -> web.Response:
    """503 when the database is away or not migrated; degraded when jobs or the ledger are not."""
    # The one handler with a `try`: what goes wrong is its answer.
    try:
        missing = await health.missing_migrations(request.app[DB], migration_ids())
        reasons = [] if missing else await health.list_problems(request.app[DB])
    except ApiError:
        return _unavailable("the database is not available")
    except Exception as error:
        if not is_not_migrated(error):
            raise
        return _unavailable("the database is not migrated")
    if missing:
        return _unavailable(f"the database is not migrated: {missing[0]} is missing")
    return respond(Readiness(status="degraded" if reasons else "ok", reasons=reasons))


def _unavailable(reason: str) -> web.Response:
    return respond(
        Readiness(status="unavailable", reasons=[reason]),
        503,
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )
