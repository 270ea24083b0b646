"""What operators watch: every figure changes with what it tells of."""

import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import metrics
from service.db import Database
from service.dev.ports import free_port
from service.dev.postgres import Cluster
from service.settings import Settings
from service.workers import MULTIPROCESS
from tests.support.answers import require_error
from tests.support.calls import (
    call,
    refund_object,
    start_buying,
    stripe_event,
)
from tests.support.clones import away
from tests.support.databases import Clone, Connection, as_settings
from tests.support.processes import Process, environment_of, serving
from tests.support.running import Running
from tests.support.waiting import until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name.removeprefix("mana_credits_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


async def scrape(service: Running) -> Samples:
    headers = {"X-Service-Key": service.settings.service_keys[0]}
    async with service.session.get(f"{service.url}/metrics", headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parsed(await answer.text())


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the database says is read at each scrape."""
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 0.0)


async def test_only_who_has_the_key_may_look(service: Running) -> None:
    async with service.session.get(f"{service.url}/metrics") as answer:
        assert answer.status == 401
    wrong = {"X-Service-Key": "wrong"}
    async with service.session.get(f"{service.url}/metrics", headers=wrong) as answer:
        assert answer.status == 401


async def test_requests_are_counted_by_route_and_status(service: Running) -> None:
    async def seen(route: str, status: str, method: str = "GET") -> float | None:
        return of(
            await scrape(service),
            "http_request_duration_seconds_count",
            method=method,
            route=route,
            status=status,
        )

    for code in ("XXXXXXXXXXXX", "YYYYYYYYYYYY"):
        await service.call("GET", f"/gifts/{code}")
    assert await seen("/api/v1/gifts/{code}", "404") == 2
    require_error(await service.call("GET", "/nothing"), 404, "not_found")
    assert await seen("unmatched", "404") == 1
    await service.call("GET", "/credits/balance")
    assert await seen("/api/v1/credits/balance", "401") == 1
    # Neither codes nor users are in it.
    assert not [key for key in await scrape(service) if "XXXXXXXXXXXX" in str(key)]


async def test_the_ledger_is_counted_by_type_whoever_moves(
    service: Running, admin: Connection
) -> None:
    await admin.execute("UPDATE credits.ledger_counting SET counted_until = now() - interval '1 h'")
    await service.grant("ann", 100)
    await call(
        admin, "credits.use_credits", user_id="ann", amount=30, app_id="app", description="psql"
    )

    async def counted() -> list[float | None]:
        samples = await scrape(service)
        return [
            of(samples, f"ledger_{what}_total", type=type_, direction=direction)
            for what in ("moves", "credits")
            for type_, direction in (("grant", "in"), ("usage", "out"))
        ]

    # It is a minute late, so that what is not committed yet is not passed over.
    assert await counted() == [None] * 4
    later = "SELECT credits._count_ledger(clock_timestamp() + interval '61 seconds')"
    for _ in range(2):
        await admin.execute(later)
        assert await counted() == [1, 1, 100, 30]


async def test_what_waits_is_told_with_its_age(
    service: Running, admin: Connection, service_login: Connection
) -> None:
    samples = await scrape(service)
    assert of(samples, "notices", state="pending") == 0
    assert of(samples, "notices_oldest_pending_seconds") == 0
    assert of(samples, "purchases_pending") == 0
    assert of(samples, "subscriptions_overdue") == 0
    assert of(samples, "stripe_events_unsettled", state="failed") == 0

    await service.grant("ann", 100)
    await call(service_login, "credits.activate_sync", user_id="ann")
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET next_charge_at = now() - interval '2 hours'"
    )
    await start_buying(admin, "ann", "pi_1")
    await admin.execute("UPDATE credits.purchases SET created_at = created_at - interval '3 hours'")
    await admin.execute(
        "INSERT INTO credits.notices (user_id, id, kind, state, data, next_attempt_at, created_at)"
        " SELECT 'ann', gen_random_uuid(), 'charge_coming', s.state::credits.notice_state, '{}',"
        " CASE s.state WHEN 'pending' THEN now() + interval '1 day' END, now() - interval '4 h'"
        " FROM unnest(ARRAY['pending', 'failed', 'failed', 'undeliverable']) AS s (state)"
    )
    await stripe_event(
        admin, "refund.created", refund_object("re_1", "pi_1", 5, currency="usd"), "evt_1"
    )
    samples = await scrape(service)
    assert of(samples, "subscriptions_overdue") == 1
    assert 7199 <= (of(samples, "subscriptions_oldest_overdue_seconds") or 0) < 7800
    assert of(samples, "purchases_pending") == 1
    assert 10799 <= (of(samples, "purchases_oldest_pending_seconds") or 0) < 11400
    states = ("pending", "failed", "undeliverable")
    assert [of(samples, "notices", state=state) for state in states] == [1, 2, 1]
    assert 14399 <= (of(samples, "notices_oldest_pending_seconds") or 0) < 15000
    assert of(samples, "stripe_events_unsettled", state="failed") == 1
    assert of(samples, "stripe_events_unsettled", state="received") == 0


async def test_jobs_and_the_last_ledger_check_are_told(service: Running, admin: Connection) -> None:
    samples = await scrape(service)
    assert of(samples, "ledger_violations") is None
    await admin.execute("CALL credits.run_ledger_check()")
    await admin.execute(
        "UPDATE credits.job_runs SET started_at = started_at - interval '1 hour',"
        " ended_at = ended_at - interval '1 hour', did = jsonb_set(did, '{violations}', '3')"
    )
    samples = await scrape(service)
    assert of(samples, "ledger_violations") == 3
    ago = of(samples, "job_since_last_success_seconds", job="ledger-check")
    assert 3599 <= (ago or 0) < 4200
    jobs = {row["job"] for row in await admin.fetch("SELECT job FROM credits.jobs")}
    told = {
        dict(labels)["job"]
        for name, labels in samples
        if name == "job_last_success_timestamp_seconds"
    }
    assert told == jobs


async def test_refunds_that_a_retry_would_do_twice_are_counted(service: Running) -> None:
    await service.grant("ann", 10)
    refund = {"userId": "ann", "amount": 1, "description": "x"}
    for body in (refund, {**refund, "idempotencyKey": "k"}):
        answer = await service.call("POST", "/internal/credits/refund", internal=True, json=body)
        assert answer.status == 200
    assert of(await scrape(service), "unkeyed_refunds_total") == 1


async def test_the_pool_is_told(service: Running) -> None:
    await scrape(service)
    samples = await scrape(service)
    name = "database_pool_connections"
    assert of(samples, name, state="max") == service.settings.database_pool_max
    assert 1 <= (of(samples, name, state="open") or 0) <= service.settings.database_pool_max
    assert of(samples, name, state="idle") is not None


async def test_without_the_database_the_process_still_tells_its_own(
    service: Running, database: Clone, cluster: Cluster
) -> None:
    assert of(await scrape(service), "database_up") == 1
    async with away(cluster, database.name):
        samples = await scrape(service)
    assert of(samples, "database_up") == 0
    assert of(samples, "ledger_violations") is None
    assert [name for name, _ in samples if name == "http_request_duration_seconds_count"]


async def test_the_pool_is_watched_without_a_request_or_a_scrape(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "WATCH_SECONDS", 0.01)

    def idle() -> float | None:
        return of(parsed(seen.counted().decode()), "database_pool_connections", state="idle")

    async with metrics.Metrics(db).watching() as seen:
        await until(lambda: idle() == 0)
        assert await db.value("SELECT 1") == 1
        await until(lambda: idle() == 1)


# Processes


def env_of(settings: Settings, database: Clone, **more: str) -> dict[str, str]:
    return {
        "MANA_ENV": "development",
        "DATABASE_URL": database.service_url,
        "MANA_SERVICE_KEY": settings.service_keys[0],
        **more,
    }


async def fetched(url: str) -> Samples:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        return parsed(await answer.text())


async def healthy(url: str, times: int) -> None:
    for _ in range(times):
        # A connection each, so that both workers get some.
        async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as answer:
            assert answer.status == 200


def multiprocess_folders(process: Process) -> set[Path]:
    """Where the workers keep their figures."""
    environments = [environment_of(pid) for pid in process.children()]
    return {Path(each[MULTIPROCESS]) for each in environments}


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_sum_of_all_processes_never_goes_backwards(
    database: Clone, cluster: Cluster, workers: int, tmp_path: Path
) -> None:
    port = free_port()
    env = env_of(as_settings(cluster, database.name), database, METRICS_PORT=str(port))

    async def count() -> float:
        samples = await fetched(f"http://127.0.0.1:{port}/metrics")
        return (
            of(
                samples,
                "http_request_duration_seconds_count",
                method="GET",
                route="/health",
                status="200",
            )
            or 0
        )

    async with serving(tmp_path, "--workers", str(workers), env=env) as process:
        await process.listening()

        async def told() -> bool:
            try:
                await count()
            except aiohttp.ClientError:
                return False
            return True

        await until(told)
        await healthy(process.url, 40)
        # As a worker leaves its files in the moment in which it makes them.
        folders = multiprocess_folders(process)
        assert len(folders) == (workers > 1)
        for folder in folders:
            for kind in ("counter", "gauge_livesum", "histogram"):
                (folder / f"{kind}_{workers}.db").touch()
        assert await count() == 40
        if workers == 1:
            return
        before = process.children()
        os.kill(before[0], signal.SIGKILL)

        async def replaced() -> bool:
            now: Any = process.children()
            return len(now) == workers and set(now) != set(before)

        await until(replaced)
        assert await count() == 40

        async def answers() -> bool:
            try:
                await healthy(process.url, 1)
            except aiohttp.ClientError:
                return False
            return True

        await until(answers)
        assert await count() >= 41
        # Who replaces one goes on with its files: there are no more of them for every death.
        (folder,) = folders
        expected = {f"{number}.db" for number in range(workers + 1)}

        async def as_many() -> bool:
            # Whoever has just begun makes its own a moment later.
            return {file.name.rpartition("_")[2] for file in folder.glob("*.db")} == expected

        await until(as_many)
        # What the dead one had open is not counted any more.
        samples = await fetched(f"http://127.0.0.1:{port}/metrics")
        most = of(samples, "database_pool_connections", state="max") or 0
        assert most <= workers * 10


async def test_stripe_events_are_counted_by_a_bounded_set_of_types(db: Database) -> None:
    seen = metrics.Metrics(db)
    for type_ in ("refund.created", "refund.created", "made.up", "made.up.too"):
        seen.stripe_event(type_, "applied")
    samples = parsed((await seen.expose()).decode())
    counted = {
        dict(labels)["type"]: value
        for (name, labels), value in samples.items()
        if name == "stripe_events_received_total"
    }
    assert counted == {"refund.created": 2, "other": 2}
