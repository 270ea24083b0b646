"""Cloud Sync over HTTP, as its user has it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.answers import SYNC_STATUS, a_time, require_error, require_shape, wrong_fields
from tests.support.databases import Connection
from tests.support.running import Answer, Running

PRICES = {"monthly": 30, "quarterly": 90, "yearly": 360}
MONTHS = {"monthly": 1, "quarterly": 3, "yearly": 12}


async def post(service: Running, user: str, path: str, **body: Any) -> Answer:
    return await service.call("POST", f"/sync{path}", user=user, json=body)


async def status(service: Running, user: str) -> dict[str, Any]:
    answer = await service.call("GET", "/sync/status", user=user)
    assert answer.status == 200
    require_shape(answer.body, SYNC_STATUS)
    found: dict[str, Any] = answer.body
    return found


def plus_months(at: datetime, months: int) -> datetime:
    """The same day of a later month, or that month's last."""
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    for day in range(at.day, 0, -1):
        try:
            return at.replace(year=year, month=month + 1, day=day)
        except ValueError:
            continue
    raise AssertionError("unreachable")


async def pause(service: Running, admin: Connection, user: str) -> None:
    """Let the credits of a subscriber run out at a charge."""
    await service.call(
        "POST", "/gifts", user=user, json={"totalCredits": await service.balance(user)}
    )
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET next_charge_at = now() - interval '1 hour',"
        " paid_until = now() - interval '1 hour' WHERE user_id = $1",
        user,
    )
    run = await service.call("POST", "/internal/sync/charge-recurring", internal=True)
    assert run.body["paused"] == 1


async def test_a_user_never_seen_has_no_sync(service: Running) -> None:
    assert await status(service, "nobody") == {
        "active": False,
        "interval": "monthly",
        "nextChargeAt": None,
        "pausedAt": None,
        "paused": False,
        "gifted": False,
        "price": 30,
        "paidUntil": None,
    }


@pytest.mark.parametrize("interval", [None, "monthly", "quarterly", "yearly"])
async def test_activating_charges_a_period(
    service: Running, interval: str | None, ann: str
) -> None:
    await service.grant(ann, 400)
    before = datetime.now(UTC)

    answer = await post(service, ann, "/activate", **({"interval": interval} if interval else {}))

    after = datetime.now(UTC)
    expected = interval or "monthly"
    assert answer.status == 200
    require_shape(
        answer.body,
        {
            "success": True,
            "active": True,
            "interval": expected,
            "nextChargeAt": a_time,
            "amountCharged": PRICES[expected],
        },
    )
    next_charge = datetime.fromisoformat(answer.body["nextChargeAt"])
    assert plus_months(before, MONTHS[expected]) - timedelta(milliseconds=1) <= next_charge
    assert next_charge <= plus_months(after, MONTHS[expected])
    assert await status(service, ann) == {
        "active": True,
        "interval": expected,
        "nextChargeAt": answer.body["nextChargeAt"],
        "pausedAt": None,
        "paused": False,
        "gifted": False,
        "price": PRICES[expected],
        "paidUntil": answer.body["nextChargeAt"],
    }
    assert await service.balance(ann) == 400 - PRICES[expected]


async def test_activating_needs_no_body(service: Running, ann: str) -> None:
    await service.grant(ann, 30)

    answer = await service.call("POST", "/sync/activate", user=ann)

    assert (answer.status, answer.body["interval"]) == (200, "monthly")


async def test_activating_without_the_credits(service: Running, ann: str) -> None:
    await service.grant(ann, 29)

    refused = await post(service, ann, "/activate")
    never_seen = await post(service, "nobody", "/activate", interval="yearly")

    require_error(refused, 402, "insufficient_credits", {"required": 30, "available": 29})
    require_error(never_seen, 402, "insufficient_credits", {"required": 360, "available": 0})
    assert (await status(service, ann))["active"] is False


async def test_activating_twice_charges_once(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    await post(service, ann, "/activate")

    require_error(await post(service, ann, "/activate"), 400, "sync_already_active")
    require_error(
        await post(service, ann, "/activate", interval="yearly"), 400, "sync_already_active"
    )
    assert await service.balance(ann) == 70


async def test_racing_activations_charge_once(service: Running, ann: str) -> None:
    await service.grant(ann, 1000)

    answers = await asyncio.gather(*(post(service, ann, "/activate") for _ in range(20)))

    assert sorted(answer.status for answer in answers) == [200] + [400] * 19
    assert {answer.body["error"] for answer in answers if answer.status == 400} == {
        "sync_already_active"
    }
    assert await service.balance(ann) == 970


async def test_deactivating_stops_at_once_and_refunds_nothing(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    paid_until = (await post(service, ann, "/activate")).body["nextChargeAt"]

    answer = await service.call("POST", "/sync/deactivate", user=ann)

    assert (answer.status, answer.body) == (200, {"success": True})
    assert await status(service, ann) == {
        "active": False,
        "interval": "monthly",
        "nextChargeAt": None,
        "pausedAt": None,
        "paused": False,
        "gifted": False,
        "price": 30,
        "paidUntil": paid_until,
    }
    assert await service.balance(ann) == 70


async def test_activating_inside_a_paid_period_charges_nothing(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    paid_until = (await post(service, ann, "/activate")).body["nextChargeAt"]
    await post(service, ann, "/deactivate")

    answer = await post(service, ann, "/activate", interval="yearly")

    assert answer.body == {
        "success": True,
        "active": True,
        "interval": "yearly",
        "nextChargeAt": paid_until,
        "amountCharged": 0,
    }
    found = await status(service, ann)
    assert (found["price"], found["paidUntil"]) == (360, paid_until)
    assert await service.balance(ann) == 70


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("path", "body"), [("/deactivate", {}), ("/change-interval", {"interval": "yearly"})]
)
async def test_what_is_not_active_cannot_be_changed(
    service: Running, ann: str, known: bool, path: str, body: dict[str, Any]
) -> None:
    if known:
        await service.grant(ann, 100)
        await post(service, ann, "/activate")
        await post(service, ann, "/deactivate")

    require_error(await post(service, ann, path, **body), 400, "sync_not_active")


async def test_changing_the_interval_charges_nothing_now(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    next_charge = (await post(service, ann, "/activate")).body["nextChargeAt"]

    answer = await post(service, ann, "/change-interval", interval="yearly")

    assert answer.status == 200
    require_shape(
        answer.body,
        {"success": True, "interval": "yearly", "amountCharged": 360, "effectiveAt": next_charge},
    )
    found = await status(service, ann)
    assert (found["interval"], found["price"], found["nextChargeAt"]) == (
        "yearly",
        360,
        next_charge,
    )
    assert await service.balance(ann) == 70


async def test_the_interval_has_to_be_named_to_change_it(service: Running, ann: str) -> None:
    answer = await service.call("POST", "/sync/change-interval", user=ann)

    assert wrong_fields(answer) == ["interval"]


async def test_running_out_of_credits_pauses(service: Running, admin: Connection, ann: str) -> None:
    await service.grant(ann, 50)
    await post(service, ann, "/activate")
    await pause(service, admin, ann)

    found = await status(service, ann)

    assert (found["active"], found["paused"], found["nextChargeAt"]) == (False, True, None)
    assert a_time(found["pausedAt"])
    require_error(
        await post(service, ann, "/change-interval", interval="yearly"), 400, "sync_not_active"
    )


async def test_deactivating_clears_a_pause(service: Running, admin: Connection, ann: str) -> None:
    await service.grant(ann, 50)
    await post(service, ann, "/activate")
    await pause(service, admin, ann)

    answer = await post(service, ann, "/deactivate")

    assert answer.status == 200
    found = await status(service, ann)
    assert (found["active"], found["paused"], found["pausedAt"]) == (False, False, None)
    require_error(await post(service, ann, "/deactivate"), 400, "sync_not_active")


async def test_activating_after_a_pause_charges_again(
    service: Running, admin: Connection, ann: str
) -> None:
    await service.grant(ann, 50)
    await post(service, ann, "/activate")
    await pause(service, admin, ann)
    require_error(
        await post(service, ann, "/activate"),
        402,
        "insufficient_credits",
        {"required": 30, "available": 0},
    )
    await service.grant(ann, 30, "top-up")

    answer = await post(service, ann, "/activate")

    assert (answer.status, answer.body["amountCharged"]) == (200, 30)
    found = await status(service, ann)
    assert (found["active"], found["paused"], found["pausedAt"]) == (True, False, None)


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/activate", {}, "sync_already_gifted"),
        ("/deactivate", {}, "sync_gifted"),
        ("/change-interval", {"interval": "yearly"}, "sync_gifted"),
    ],
)
async def test_what_was_gifted_cannot_be_changed(
    service: Running, path: str, body: dict[str, Any], code: str, ann: str
) -> None:
    await service.grant(ann, 100)
    gifted = await service.call(
        "POST", f"/admin/sync/{ann}/gift", user="root", claims={"role": "admin"}
    )
    assert gifted.status == 200

    require_error(await post(service, ann, path, **body), 400, code)
    found = await status(service, ann)
    assert (found["active"], found["gifted"], found["nextChargeAt"]) == (True, True, None)
    assert await service.balance(ann) == 100
