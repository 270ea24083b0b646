"""Races for Cloud Sync: activations, charge runs, and what users and admins do meanwhile."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from tests.support.databases import Clone, Connection, connect
from tests.support.races import (
    at_once,
    connections,
    ledger,
    make_due,
    outcomes,
    require_sound,
    subscribe,
)
from tests.support.running import Answer, Running

CALLERS = 24
DUE = 1000
SHORT = 40
"""How many of them cannot pay."""
PRICE = 30
ADMIN = {"role": "admin"}


def activate(
    service: Running, user: str, interval: str = "monthly", key: str | None = None
) -> Awaitable[Answer]:
    body = {"interval": interval} | ({} if key is None else {"idempotencyKey": key})
    return service.call("POST", "/sync/activate", user=user, json=body)


def deactivate(service: Running, user: str) -> Awaitable[Answer]:
    return service.call("POST", "/sync/deactivate", user=user, json={})


def charge(service: Running) -> Awaitable[Answer]:
    return service.call("POST", "/internal/sync/charge-recurring", internal=True)


def gift(service: Running, user: str, method: str = "POST") -> Awaitable[Answer]:
    return service.call(method, f"/admin/sync/{user}/gift", user="root", claims=ADMIN)


async def test_activations_at_once_charge_once(service: Running, admin: Connection) -> None:
    for round_ in range(4):
        user = f"ann-{round_}"
        await service.grant(user, 1000)
        intervals = ["monthly", "quarterly", "yearly"] * (CALLERS // 3)

        answers = await at_once(activate(service, user, interval) for interval in intervals)

        assert outcomes(answers) == {"200": 1, "400 sync_already_active": CALLERS - 1}
        (winner,) = [answer.body for answer in answers if answer.status == 200]
        (charged,) = await ledger(admin, user, app_id="sync")
        assert charged["amount"] == -winner["amountCharged"]
        assert await service.balance(user) == 1000 - winner["amountCharged"]
        status = (await service.call("GET", "/sync/status", user=user)).body
        assert (status["active"], status["interval"]) == (True, winner["interval"])
        await require_sound(admin)


async def test_activations_after_a_pause_charge_once(service: Running, admin: Connection) -> None:
    users = [f"ann-{round_}" for round_ in range(3)]
    await subscribe(admin, users, PRICE - 1)
    await make_due(admin, users)
    assert (await charge(service)).body["paused"] == len(users)
    for user in users:
        await service.grant(user, 1000, "top-up")

        answers = await at_once(activate(service, user) for _ in range(CALLERS))

        assert outcomes(answers) == {"200": 1, "400 sync_already_active": CALLERS - 1}
        assert len(await ledger(admin, user, app_id="sync")) == 2
        assert await service.balance(user) == PRICE - 1 + 1000 - PRICE
        await require_sound(admin)


async def test_activations_with_one_key_answer_the_one_charge(
    service: Running, admin: Connection
) -> None:
    await service.grant("ann", 1000)

    answers = await at_once(activate(service, "ann", key="once") for _ in range(CALLERS))

    assert outcomes(answers) == {"200": 1, "200 replayed": CALLERS - 1}
    assert {answer.body["amountCharged"] for answer in answers} == {PRICE}
    assert len({answer.body["nextChargeAt"] for answer in answers}) == 1
    assert len(await ledger(admin, "ann", app_id="sync")) == 1


async def test_activations_of_a_user_without_credits_are_all_refused(
    service: Running, admin: Connection
) -> None:
    answers = await at_once(activate(service, "ann") for _ in range(CALLERS))

    assert outcomes(answers) == {"402 insufficient_credits": CALLERS}
    assert answers[0].body["details"] == {"required": PRICE, "available": 0}
    assert await ledger(admin, "ann") == []


async def test_activations_and_debits_never_spend_more_than_is_there(
    service: Running, admin: Connection
) -> None:
    for round_ in range(4):
        user = f"ann-{round_}"
        await service.grant(user, 65)
        body = {"amount": 10, "appId": "chat", "description": "a debit"}
        calls = [activate(service, user) for _ in range(CALLERS // 2)]
        calls += [
            service.call("POST", "/credits/use", user=user, json=body) for _ in range(CALLERS // 2)
        ]
        random.Random(round_).shuffle(calls)

        await at_once(calls)

        activated = len(await ledger(admin, user, app_id="sync"))
        debits = len(await ledger(admin, user, app_id="chat"))
        assert (activated, debits) in ((1, 3), (0, 6))
        assert await service.balance(user) == 5
        await require_sound(admin)


async def subscribers(admin: Connection) -> tuple[list[str], list[str]]:
    """Many due subscriptions: those who can pay, and those who cannot."""
    paying = [f"paying-{number:04}" for number in range(DUE - SHORT)]
    short = [f"short-{number:04}" for number in range(SHORT)]
    await subscribe(admin, paying, 10 * PRICE)
    await subscribe(admin, short, PRICE - 1)
    return paying, short


Figures = dict[str, int]
Run = Callable[[Running, Clone], Awaitable[Figures]]


async def over_http(service: Running, _database: Clone) -> Figures:
    """The service's run, in batches of 500; recorded in job_runs."""
    answer = await charge(service)
    assert answer.status == 200, answer.body
    return {name: answer.body[name] for name in ("charged", "paused", "errors")}


async def by_the_procedure(_service: Running, database: Clone) -> Figures:
    """The run of the job, as pg_cron does it; recorded in job_runs."""
    owner = await connect(database.admin_url)
    try:
        await owner.execute("SET ROLE mana_credits_owner")
        await owner.execute("CALL credits.run_recurring_charge(70)")
    finally:
        await owner.close()
    return {}


async def by_the_function(_service: Running, database: Clone) -> Figures:
    """Batches until nothing is left that is not locked; recorded nowhere."""
    figures = {"charged": 0, "paused": 0, "errors": 0}
    async with connections(database, 1) as (connection,):
        more = True
        while more:
            batch = await connection.fetchrow("SELECT * FROM credits.charge_due_subscriptions(37)")
            assert batch is not None
            figures = {name: figures[name] + batch[name] for name in figures}
            more = batch["more"]
    return figures


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param([[over_http] * 2, [over_http] * 3, [over_http] * 20], id="over HTTP"),
        pytest.param([[by_the_procedure] * 2, [by_the_procedure] * 3], id="the procedure"),
        pytest.param([[by_the_function] * 2, [by_the_function] * 3], id="the function"),
        pytest.param(
            [[over_http, by_the_procedure, by_the_function], [over_http, by_the_procedure]],
            id="one of each",
        ),
    ],
)
async def test_runs_at_once_charge_each_of_a_thousand_due_subscriptions_once(
    service: Running, database: Clone, admin: Connection, rounds: list[list[Run]]
) -> None:
    paying, short = await subscribers(admin)
    for period, runs in enumerate(rounds, start=2):
        await make_due(admin, paying + short, period)
        await admin.execute("DELETE FROM credits.job_runs")
        await admin.execute("DELETE FROM credits.notices")

        figures = await asyncio.gather(*(run(service, database) for run in runs))

        charges = await admin.fetch(
            "SELECT user_id, count(*) FROM credits.transactions"
            " WHERE app_id = 'sync' AND amount = -30 AND idempotency_key = $1 GROUP BY user_id"
            " ORDER BY user_id",
            f"sync:{period}",
        )
        assert [tuple(row) for row in charges] == [(user, 1) for user in paying]
        assert await admin.fetchval(
            "SELECT count(*) FROM credits.transactions"
            " WHERE app_id = 'sync' AND user_id = ANY ($1)",
            paying,
        ) == period * len(paying)
        paused = await admin.fetch(
            "SELECT user_id FROM credits.sync_subscriptions"
            " WHERE paused_at IS NOT NULL AND NOT active ORDER BY user_id"
        )
        assert [row["user_id"] for row in paused] == short
        notices = await admin.fetch(
            "SELECT user_id, kind::text FROM credits.notices ORDER BY user_id"
        )
        assert [tuple(row) for row in notices] == [(user, "sync_paused") for user in short]

        recorded = [run["did"] for run in await admin.fetch("SELECT did FROM credits.job_runs")]
        told = [f for run, f in zip(runs, figures, strict=True) if run is over_http]
        assert all(any(f.items() <= did.items() for did in recorded) for f in told)
        did = recorded + [f for run, f in zip(runs, figures, strict=True) if run is by_the_function]
        assert [sum(run[name] for run in did) for name in ("charged", "paused", "errors")] == [
            len(paying),
            len(short),
            0,
        ]
        await require_sound(admin)


async def test_a_deactivation_during_a_run_loses_nothing_that_was_paid(
    service: Running, admin: Connection
) -> None:
    """Either the charge came first, and the period stays paid, or nothing was charged."""
    users = [f"user-{number:02}" for number in range(4 * CALLERS)]
    await subscribe(admin, users, 10 * PRICE)
    await make_due(admin, users)

    off, _ = await asyncio.gather(
        at_once(deactivate(service, user) for user in reversed(users)),
        one_by_one(admin),
    )

    assert outcomes(off) == {"200": len(users)}
    charged = [u for u in users if await ledger(admin, u, idempotency_key="sync:2")]
    states = await admin.fetch(
        "SELECT user_id, active, paid_until > now() AS paid FROM credits.sync_subscriptions"
    )
    assert {row["user_id"] for row in states if row["paid"]} == set(charged)
    assert not any(row["active"] for row in states)
    # Whoever paid goes on without a charge, and whoever did not pays now: once, either way.
    on = await at_once(activate(service, user) for user in users)
    assert outcomes(on) == {"200": len(users)}
    assert {
        user for user, answer in zip(users, on, strict=True) if not answer.body["amountCharged"]
    } == set(charged)
    for user in users:
        assert len(await ledger(admin, user, app_id="sync")) == 2
    await require_sound(admin)


async def one_by_one(admin: Connection) -> None:
    """Charge what is due, first of all `user-00`, until a look found nothing."""
    busy = True
    while busy:
        # The private function, which waits for a balance as long as it takes.
        batch = await admin.fetchrow("SELECT * FROM credits._charge_due(clock_timestamp(), 1)")
        assert batch is not None
        assert batch["errors"] == 0
        busy = bool(batch["charged"] + batch["paused"])


async def test_gifting_and_revoking_during_a_run_charges_nobody_twice(
    service: Running, admin: Connection
) -> None:
    users = [f"user-{number:02}" for number in range(2 * CALLERS)]
    await subscribe(admin, users, 10 * PRICE)
    await make_due(admin, users)
    calls = [gift(service, user, method) for user in users for method in ("POST", "DELETE")]
    random.Random(1).shuffle(calls)

    answers, _ = await asyncio.gather(at_once(calls), one_by_one(admin))

    assert outcomes(answers).keys() <= {"200", "400 sync_not_gifted"}
    states = await admin.fetch(
        "SELECT user_id, active, gifted, next_charge_at FROM credits.sync_subscriptions"
    )
    for row in states:
        assert len(await ledger(admin, row["user_id"], app_id="sync")) in (1, 2)
        # A gift is never charged, and a revoked one is off: nobody is left that will be charged.
        assert row["next_charge_at"] is None
        assert row["active"] == row["gifted"]
    gifted = sum(row["gifted"] for row in states)
    assert outcomes(answers)["400 sync_not_gifted"] == gifted
    await require_sound(admin)


async def test_debits_during_a_run_never_spend_what_it_charges(
    service: Running, admin: Connection
) -> None:
    """Whoever has spent what the charge would take is paused, not overdrawn."""
    users = [f"user-{number:02}" for number in range(2 * CALLERS)]
    await subscribe(admin, users, PRICE)
    await make_due(admin, users)
    users.reverse()
    body = {"amount": PRICE, "appId": "chat", "description": "a debit"}

    spent, _ = await asyncio.gather(
        at_once(service.call("POST", "/credits/use", user=user, json=body) for user in users),
        one_by_one(admin),
    )

    assert outcomes(spent).keys() <= {"200", "402 insufficient_credits"}
    paused = await admin.fetch(
        "SELECT user_id FROM credits.sync_subscriptions WHERE paused_at IS NOT NULL"
    )
    assert {row["user_id"] for row in paused} == {
        user for user, answer in zip(users, spent, strict=True) if answer.status == 200
    }
    assert await admin.fetchval("SELECT count(*) FROM credits.balances WHERE balance <> 0") == 0
    await require_sound(admin)


async def test_a_user_cannot_occupy_the_key_of_the_next_charge(
    service: Running, admin: Connection
) -> None:
    """Keys of users, of services and of the database never meet."""
    await service.grant("ann", 1000)
    await activate(service, "ann")
    assert [row["idempotency_key"] for row in await ledger(admin, "ann", app_id="sync")] == [
        "sync:1"
    ]
    body = {"amount": PRICE, "appId": "sync", "description": "Cloud Sync (monthly)"}

    tried = await at_once(
        call
        for number in range(2, 14)
        for call in (
            service.call(
                "POST",
                "/credits/use",
                user="ann",
                json={**body, "amount": 1, "idempotencyKey": f"sync:{number}"},
            ),
            service.call(
                "POST",
                "/internal/credits/use",
                internal=True,
                json={**body, "userId": "ann", "idempotencyKey": f"sync:{number}"},
            ),
        )
    )

    assert outcomes(tried) == {"200": 24}
    before = await service.balance("ann")
    await make_due(admin, ["ann"])
    assert (await charge(service)).body["charged"] == 1
    assert await service.balance("ann") == before - PRICE
    (charged,) = await ledger(admin, "ann", origin="system", idempotency_key="sync:2")
    assert charged["amount"] == -PRICE
    assert not (await charge(service)).body["charged"]


async def test_a_user_cannot_occupy_a_key_of_the_services(
    service: Running, admin: Connection
) -> None:
    """Neither one that a service will send, nor one that the database will make of a request."""
    await service.grant("ann", 1000)
    gift_ = await service.call("POST", "/gifts", user="ann", json={"totalCredits": 10})
    given = gift_.body["id"]
    keys = ["job-1", "hold-1", "refund-1", "grant:quest-1", f"gift:{given}", f"gift-return:{given}"]
    debit = {"amount": 1, "appId": "chat", "description": "a debit"}
    tried = await at_once(
        service.call("POST", "/credits/use", user="ann", json={**debit, "idempotencyKey": key})
        for key in keys
    )
    assert outcomes(tried) == {"200": len(keys)}

    made = [
        await service.call("POST", path, internal=True, json={"userId": "ann", **sent})
        for path, sent in (
            ("/internal/credits/use", {**debit, "idempotencyKey": "job-1"}),
            (
                "/internal/credits/reserve",
                {"amount": 1, "reason": "chat:x", "idempotencyKey": "hold-1"},
            ),
            (
                "/internal/credits/refund",
                {"amount": 1, "description": "x", "idempotencyKey": "refund-1"},
            ),
            (
                "/internal/credits/grant",
                {"amount": 1, "reason": "x", "referenceId": "quest-1"},
            ),
        )
    ]
    made.append(await service.call("DELETE", f"/gifts/{given}", user="ann"))

    assert outcomes(made) == {"200": 5}
    assert await service.balance("ann") == 1000 - len(keys) - 1 - 1 + 1 + 1
    await require_sound(admin)
