"""The shop that the screenshots show: everything that the pages tell apart is in it."""

from tests.support.stripe import Shop
from tests.web.scene import DAYS, furnish


async def test_there_is_something_of_everything(shop: Shop) -> None:
    scene = await furnish(shop)
    for state, purchase_id in scene.purchases.items():
        if state == "processing":
            # Where debits settle at once, it may be over.
            assert (await shop.row(purchase_id))["status"] in ("pending", "completed")
        else:
            assert (await shop.row(purchase_id))["status"] == state
    gifts = await shop.admin.fetch("SELECT code, status::text FROM gifts.gift_codes")
    states = {gift["code"]: gift["status"] for gift in gifts}
    assert {name: states[code] for name, code in scene.codes.items()} == {
        "active": "active",
        "personalized": "active",
        "redeemed": "depleted",
        "expired": "expired",
        "cancelled": "cancelled",
    }

    usage = await shop.service.call("GET", f"/credits/usage?days={DAYS + 1}", user="ann")
    assert len({row["date"] for row in usage.body}) > DAYS / 2
    assert {row["appId"] for row in usage.body} > {"chat", "research", "sync"}
    sync = {}
    for user in ("ann", "ben", "cleo"):
        status = (await shop.service.call("GET", "/sync/status", user=user)).body
        sync[user] = (status["active"], status["paused"], status["gifted"])
    assert sync == {
        "ann": (True, False, False),
        "ben": (False, True, False),
        "cleo": (True, False, True),
    }
    assert await shop.admin.fetchval(
        "SELECT count(*) FROM credits.stripe_events WHERE state = 'failed'"
    )
