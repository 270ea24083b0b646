"""Administrators: gifting Cloud Sync and taking the gift back."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.support.answers import SYNC_STATUS, require_error, require_shape, wrong_fields
from tests.support.running import Answer, Running


async def ask(service: Running, method: str, path: str, **claims: Any) -> Answer:
    return await service.call(
        method, f"/admin/sync/{path}", user="root", claims={"role": "admin", **claims}
    )


async def test_an_administrator_sees_a_users_sync(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    await service.call("POST", "/sync/activate", user=ann)

    answer = await ask(service, "GET", ann)

    assert answer.status == 200
    require_shape(answer.body, SYNC_STATUS)
    assert answer.body == (await service.call("GET", "/sync/status", user=ann)).body
    assert answer.body["active"] is True


async def test_a_gift_turns_sync_on_for_nothing(service: Running, ann: str) -> None:
    first = await ask(service, "POST", f"{ann}/gift")
    again = await ask(service, "POST", f"{ann}/gift")

    assert first.status == 200
    assert first.body == {"success": True, "userId": ann, "gifted": True, "active": True}
    assert (again.status, again.body) == (200, first.body)
    found = await ask(service, "GET", ann)
    assert (found.body["active"], found.body["gifted"], found.body["nextChargeAt"]) == (
        True,
        True,
        None,
    )
    assert await service.balance(ann) == 0


async def test_a_revoked_gift_turns_sync_off(service: Running, ann: str) -> None:
    await ask(service, "POST", f"{ann}/gift")

    answer = await ask(service, "DELETE", f"{ann}/gift")

    assert answer.status == 200
    assert answer.body == {"success": True, "userId": ann, "gifted": False, "active": False}
    require_error(await ask(service, "DELETE", f"{ann}/gift"), 400, "sync_not_gifted")


async def test_only_a_gift_can_be_revoked(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    await service.call("POST", "/sync/activate", user=ann)

    require_error(await ask(service, "DELETE", f"{ann}/gift"), 400, "sync_not_gifted")
    require_error(await ask(service, "DELETE", "nobody/gift"), 400, "sync_not_gifted")
    assert (await ask(service, "GET", ann)).body["active"] is True


async def test_a_gift_loses_nothing_that_was_paid_for(service: Running, ann: str) -> None:
    await service.grant(ann, 100)
    paid = await service.call("POST", "/sync/activate", user=ann)
    await ask(service, "POST", f"{ann}/gift")
    await ask(service, "DELETE", f"{ann}/gift")

    answer = await service.call("POST", "/sync/activate", user=ann)

    assert (answer.body["amountCharged"], answer.body["nextChargeAt"]) == (
        0,
        paid.body["nextChargeAt"],
    )


async def test_a_gift_ends_a_pause(service: Running, ann: str) -> None:
    await ask(service, "POST", f"{ann}/gift")

    assert (await ask(service, "GET", ann)).body["paused"] is False


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/gift"), ("DELETE", "/gift")])
async def test_this_is_for_administrators(
    service: Running, ann: str, method: str, path: str
) -> None:
    for role in (None, "user", "Admin", "admin ", ["admin"], True):
        require_error(await ask(service, method, f"{ann}{path}", role=role), 403, "forbidden")


FITTING = ("x" * 128, "auth0|5f7c8ec7c33c6c004bbafe82", "Jürgen~!$&'()*+,;=:@", "...")
UNFIT = ("x" * 129, "a b", "a/b", "a?b", "a%b", "a#b", "a{b}", "a\tb", "a\x00b", "a\u200bb")


async def test_user_ids_that_fit_into_paths(service: Running) -> None:
    for user_id in FITTING:
        for method, path in (("GET", ""), ("POST", "/gift"), ("DELETE", "/gift")):
            answer = await ask(service, method, quote(user_id, safe="") + path)
            assert answer.status == 200, (method, user_id, answer.body)
            assert answer.body.get("userId", user_id) == user_id


@pytest.mark.parametrize("user_id", UNFIT)
async def test_user_ids_that_cannot_be(service: Running, user_id: str) -> None:
    for method, path in (("GET", ""), ("POST", "/gift"), ("DELETE", "/gift")):
        assert wrong_fields(await ask(service, method, quote(user_id, safe="") + path)) == [
            "userId"
        ]
