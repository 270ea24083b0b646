"""Health and readiness, and every route while the database is away."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from service.dev.postgres import Cluster
from tests.support.answers import a_text, a_time, header, require_error, require_shape
from tests.support.clones import away
from tests.support.databases import Clone, Connection, as_settings, connect
from tests.support.routes import declared_routes
from tests.support.running import Answer, Running, running_service


async def ask(running: Running, path: str) -> Answer:
    async with running.session.get(f"{running.url}{path}") as answer:
        return Answer(answer.status, await answer.json(), dict(answer.headers))


async def ready(running: Running) -> Answer:
    answer = await ask(running, "/health/ready")
    require_shape(answer.body, {"status": a_text, "reasons": lambda value: isinstance(value, list)})
    assert all(isinstance(reason, str) and reason for reason in answer.body["reasons"])
    return answer


async def test_health_needs_nothing(service: Running, cluster: Cluster, database: Clone) -> None:
    shape = {"status": "ok", "service": "mana-credits", "timestamp": a_time}
    before = datetime.now(UTC)
    answer = await ask(service, "/health")
    async with away(cluster, database.name):
        without = await ask(service, "/health")

    assert (answer.status, without.status) == (200, 200)
    require_shape(answer.body, shape)
    require_shape(without.body, shape)
    told = datetime.fromisoformat(answer.body["timestamp"])
    assert before.replace(microsecond=before.microsecond // 1000 * 1000) <= told
    assert told <= datetime.now(UTC)


async def test_a_migrated_database_is_ready(service: Running) -> None:
    answer = await ready(service)

    assert (answer.status, answer.body) == (200, {"status": "ok", "reasons": []})


async def test_a_job_that_never_ran_is_late(service: Running, admin: Connection) -> None:
    await admin.execute(
        "UPDATE credits.jobs SET since = now() - late_after - interval '1 minute'"
        " WHERE job = 'recurring-charge'"
    )

    answer = await ready(service)

    assert (answer.status, answer.body["status"]) == (200, "degraded")
    (reason,) = answer.body["reasons"]
    assert "recurring-charge" in reason


RUN = (
    "INSERT INTO credits.job_runs (id, job, started_at, ended_at, did, error)"
    " VALUES (gen_random_uuid(), $1, now() - $2::interval, now() - $2::interval, $3, $4)"
)


async def test_a_job_is_late_by_its_last_success(service: Running, admin: Connection) -> None:
    await admin.execute("UPDATE credits.jobs SET since = now() - interval '1 year'")
    jobs = [row["job"] for row in await admin.fetch("SELECT job FROM credits.jobs")]
    for job in jobs:
        await admin.execute(RUN, job, timedelta(minutes=5), {}, None)
    fresh = await ready(service)
    await admin.execute(
        "UPDATE credits.job_runs SET started_at = now() - interval '1 day'"
        " WHERE job = 'gift-expiry'"
    )

    stale = await ready(service)

    assert fresh.body["status"] == "ok"
    assert stale.body["status"] == "degraded"
    assert [("gift-expiry" in reason) for reason in stale.body["reasons"]] == [True]


async def test_a_job_that_failed(service: Running, admin: Connection) -> None:
    await admin.execute(RUN, "ledger-check", timedelta(minutes=9), {"violations": 0}, None)
    await admin.execute(RUN, "ledger-check", timedelta(minutes=5), None, "42501 permission denied")
    failed = await ready(service)
    await admin.execute(RUN, "ledger-check", timedelta(minutes=1), {"violations": 0}, None)
    again = await ready(service)

    assert (failed.status, failed.body["status"]) == (200, "degraded")
    (reason,) = failed.body["reasons"]
    assert "ledger-check" in reason
    assert again.body["status"] == "ok"


async def test_a_ledger_check_that_found_something(service: Running, admin: Connection) -> None:
    await admin.execute(RUN, "ledger-check", timedelta(minutes=1), {"violations": 3}, None)

    answer = await ready(service)

    assert (answer.status, answer.body["status"]) == (200, "degraded")
    (reason,) = answer.body["reasons"]
    assert "3" in reason


async def test_charges_that_fail(service: Running, admin: Connection) -> None:
    await service.grant("ann", 100)
    await service.call("POST", "/sync/activate", user="ann")
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET failures = 1, retry_at = now() + interval '1 hour'"
    )

    answer = await ready(service)

    assert (answer.body["status"], len(answer.body["reasons"])) == ("degraded", 1)


async def test_every_reason_is_told(service: Running, admin: Connection) -> None:
    await admin.execute("UPDATE credits.jobs SET since = now() - interval '1 year'")

    answer = await ready(service)

    assert len(answer.body["reasons"]) == await admin.fetchval("SELECT count(*) FROM credits.jobs")


async def test_a_database_that_is_away_is_unavailable(
    service: Running, cluster: Cluster, database: Clone
) -> None:
    async with away(cluster, database.name):
        without = await ready(service)
    back = await ready(service)

    assert (without.status, without.body["status"]) == (503, "unavailable")
    assert len(without.body["reasons"]) == 1
    assert header(without, "Retry-After")
    assert (back.status, back.body["status"]) == (200, "ok")


async def test_a_migration_that_is_missing_is_unavailable(
    service: Running, admin: Connection
) -> None:
    missing = await admin.fetchval(
        "DELETE FROM _yoyo_migration WHERE migration_id ="
        " (SELECT max(migration_id) FROM _yoyo_migration) RETURNING migration_id"
    )

    answer = await ready(service)

    assert (answer.status, answer.body["status"]) == (503, "unavailable")
    assert missing in answer.body["reasons"][0]


async def test_a_database_without_migrations_is_unavailable(
    cluster: Cluster, database: Clone
) -> None:
    name = f"{database.name}_empty"
    cluster.ensure_database(name)
    try:
        async with running_service(as_settings(cluster, name)) as running:
            answer = await ready(running)
    finally:
        server = await connect(cluster.admin_url())
        await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await server.close()

    assert (answer.status, answer.body["status"]) == (503, "unavailable")


async def test_a_function_that_may_not_be_called_is_unavailable(
    service: Running, admin: Connection
) -> None:
    await admin.execute(
        "REVOKE EXECUTE ON FUNCTION credits.list_problems() FROM mana_credits_service"
    )

    answer = await ready(service)

    assert (answer.status, answer.body["status"]) == (503, "unavailable")


BODIES: dict[str, dict[str, Any]] = {
    "/credits/use": {"amount": 1, "appId": "app", "description": "x"},
    "/sync/change-interval": {"interval": "yearly"},
    "/gifts": {"totalCredits": 1},
    "/internal/credits/init": {"userId": "ann"},
    "/internal/credits/use": {"userId": "ann", "amount": 1, "appId": "app", "description": "x"},
    "/internal/credits/refund": {"userId": "ann", "amount": 1, "description": "x"},
    "/internal/credits/grant": {"userId": "ann", "amount": 1, "reason": "x", "referenceId": "x"},
    "/internal/credits/reserve": {"userId": "ann", "amount": 1, "reason": "x"},
    "/internal/credits/commit": {"reservationId": "0192f0c1-0000-7000-8000-000000000001"},
    "/internal/credits/refund-reservation": {
        "reservationId": "0192f0c1-0000-7000-8000-000000000001"
    },
    "/internal/gifts/redeem-pending": {"userId": "ann", "email": "ann@example.org"},
    "/admin/users/{userId}/grant": {"amount": 1, "reason": "x"},
    "/admin/users/{userId}/refund": {
        "transactionId": "0192f0c1-0000-7000-8000-000000000001",
        "reason": "x",
    },
}
QUERIES = {"/admin/users": "?query=ann"}
ELSEWHERE = ("/api/v1/credits/purchase", "/api/v1/webhooks/stripe")


async def test_every_route_says_503_while_the_database_is_away(
    service: Running, cluster: Cluster, database: Clone
) -> None:
    asked = 0
    async with away(cluster, database.name):
        # A move on a connection that breaks is another thing: its outcome is unknown. So those
        # that are left in the pool are found broken first, by reading.
        pool = service.settings.database_pool_max
        await asyncio.gather(
            *(service.call("GET", "/credits/balance", user="ann") for _ in range(pool))
        )
        for method, path in declared_routes():
            # Of what is outside of the API, readiness alone asks the database.
            if path in ELSEWHERE or not path.startswith("/api/v1/"):
                continue
            path = path.removeprefix("/api/v1")
            filled = path.replace("{userId}", "ann").replace("{code}", "ABCDEFGH")
            filled = filled.replace("{eventId}", "evt_1") + QUERIES.get(path, "")
            for name in ("{id}", "{purchaseId}"):
                filled = filled.replace(name, "0192f0c1-0000-7000-8000-000000000001")
            answer = await service.call(
                method,
                filled,
                user="ann",
                claims={"role": "admin"},
                internal=True,
                json=BODIES.get(path),
            )
            require_error(answer, 503, "unavailable")
            assert int(header(answer, "Retry-After") or 0) >= 1, path
            asked += 1

    of_the_api = [path for _, path in declared_routes() if path.startswith("/api/v1/")]
    assert asked == len(of_the_api) - len(ELSEWHERE)
    assert (await service.call("GET", "/credits/balance", user="ann")).status == 200
