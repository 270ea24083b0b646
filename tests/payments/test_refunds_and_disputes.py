"""What Stripe takes back, over HTTP: in any order, any number of times, whatever was spent."""

import random
from typing import Any

import pytest

from tests.support.answers import require_error
from tests.support.stripe import LARGE, Shop, made_up, webhooks
from tests.support.waiting import until


async def everything_of(shop: Shop, *last: tuple[str, int]) -> list[tuple[bytes, str]]:
    """All that Stripe has sent, once so many of these types have come."""
    for type_, count in last:
        wanted = f'"type": "{type_}"'.encode()

        def has_come(wanted: bytes = wanted, count: int = count) -> bool:
            return sum(wanted in body for body, _ in shop.letterbox.letters) == count

        await until(has_come)
    return list(shop.letterbox.letters)


@pytest.mark.parametrize("seed", range(6))
async def test_the_order_and_repetition_of_events_change_nothing(shop: Shop, seed: int) -> None:
    purchase = await shop.paid()
    await shop.refund(purchase, amount=100)
    returned = await shop.refund(purchase, amount=50, metadata={"status": "pending"})
    dispute = await shop.dispute(purchase, amount=200)
    await shop.config(f"refunds/{returned}", status="failed")
    await shop.config(f"disputes/{dispute}", step="won")
    await shop.config(f"disputes/{dispute}", step="reinstated")
    await shop.refund(purchase, amount=75)
    letters = await everything_of(
        shop, ("charge.refunded", 3), ("charge.dispute.funds_reinstated", 1), ("refund.failed", 1)
    )
    shuffled = letters * 2
    random.Random(seed).shuffle(shuffled)
    for letter in shuffled:
        assert (await shop.deliver(*letter)).body == {"received": True}
    await shop.all_is_applied()
    assert (await shop.row(purchase["id"]))["status"] == "partially_refunded"
    assert await shop.service.balance("ann") == 325


@pytest.mark.parametrize("seed", range(4))
async def test_a_lost_dispute_and_a_refund_take_no_more_than_was_bought(
    shop: Shop, seed: int
) -> None:
    purchase = await shop.paid()
    await shop.refund(purchase, amount=200)
    inquiry = await shop.dispute(purchase, amount=500, status="warning_needs_response")
    await shop.config(f"disputes/{inquiry}", step="withdrawn")
    await shop.config(f"disputes/{inquiry}", step="lost")
    letters = await everything_of(shop, ("charge.refunded", 1), ("charge.dispute.closed", 1))
    random.Random(seed).shuffle(letters)
    for letter in letters:
        assert (await shop.deliver(*letter)).status == 200
    await shop.all_is_applied()
    assert (await shop.row(purchase["id"]))["status"] == "disputed"
    assert await shop.service.balance("ann") == 0


async def test_an_inquiry_moves_nothing(shop: Shop) -> None:
    async with webhooks(shop):
        purchase = await shop.paid()
        await shop.becomes(purchase["id"], "completed")
        inquiry = await shop.dispute(purchase, status="warning_needs_response")
        await shop.config(f"disputes/{inquiry}", step="warning_closed")

        async def is_heard() -> bool:
            return bool(
                await shop.admin.fetchval(
                    "SELECT count(*) = 2 FROM credits.stripe_events"
                    " WHERE starts_with(type, 'charge.dispute.') AND state = 'applied'"
                )
            )

        await until(is_heard)
    assert (await shop.row(purchase["id"]))["status"] == "completed"
    assert await shop.service.balance("ann") == 500


async def test_what_was_spent_and_given_away_is_owed(shop: Shop) -> None:
    async def call(path: str, **body: Any) -> Any:
        return await shop.service.call("POST", path, user="ann", json=body)

    async with webhooks(shop):
        purchase = await shop.paid()
        await shop.becomes(purchase["id"], "completed")
        spending = {"appId": "chat", "description": "x"}
        assert (await call("/credits/use", amount=200, **spending)).status == 200
        gift = await call("/gifts", totalCredits=100)
        assert gift.status == 201, gift.body
        assert await shop.service.balance("ann") == 200

        await shop.refund(purchase)
        await shop.becomes(purchase["id"], "refunded")
        seen = await shop.service.call("GET", f"/gifts/{gift.body['code']}")
        assert seen.body["status"] == "cancelled"
        refused = await call("/credits/use", amount=1, **spending)
        require_error(refused, 402, "insufficient_credits")
        assert refused.body["details"] == {"required": 1, "available": 0}
        types = await shop.service.call("GET", "/credits/transactions?type=reversal", user="ann")
        assert [row["amount"] for row in types.body] == [-500]

        # The next credits repay it first.
        again = await shop.buy("ann", LARGE)
        await shop.pay(again.body["clientSecret"])
        await shop.becomes(again.body["purchaseId"], "completed")
        await shop.all_is_applied()
    assert await shop.service.balance("ann") == 1100 - 200


async def test_what_is_taken_back_at_strangers_is_ignored(shop: Shop) -> None:
    bystander = await shop.paid()
    await shop.look("ann", str(bystander["id"]))
    about = {"payment_intent": "pi_of_another_shop", "amount": 500, "currency": "eur"}
    for event in (
        made_up("charge.refunded", {"id": "ch_other", **about}),
        made_up("refund.created", {"id": "re_other", "status": "succeeded", **about}),
        made_up("charge.dispute.created", {"id": "dp_other", "status": "lost", **about}),
    ):
        assert (await shop.tell(event)).status == 200
        assert (await shop.event(event["id"]))["state"] == "ignored"
    assert shop.line.count("GET", "refunds") == 0
    assert await shop.service.balance("ann") == 500
