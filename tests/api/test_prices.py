"""Prices and packages are data: what an operator changes is told and charged at once."""

from uuid import uuid4

from tests.support.answers import PACKAGE, require_shape
from tests.support.databases import Connection
from tests.support.running import Running


async def test_prices_of_operations(service: Running, admin: Connection) -> None:
    before = (await service.call("GET", "/credits/pricing")).body["lastUpdated"]
    await admin.execute(
        "UPDATE credits.operation_prices SET cost = 6, updated_at = now() + interval '1 hour'"
        " WHERE operation = 'ai_chat_gpt4'"
    )

    answer = await service.call("GET", "/credits/pricing")

    assert answer.body["operationCosts"]["ai_chat_gpt4"] == 6
    assert answer.body["lastUpdated"] > before


async def test_active_packages_in_the_order_of_display(service: Running, admin: Connection) -> None:
    assert (await service.call("GET", "/credits/packages")).body == []
    await admin.executemany(
        "INSERT INTO credits.packages (id, name, description, credits, price_euro_cents,"
        " stripe_price_id, active, sort_order, metadata)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        [
            (uuid4(), "large", "more", 1100, 1000, "price_1", True, 2, {"badge": "best"}),
            (uuid4(), "gone", None, 5, 5, None, False, 0, None),
            (uuid4(), "small", None, 100, 100, None, True, 1, None),
        ],
    )

    answer = await service.call("GET", "/credits/packages")

    assert answer.status == 200
    for package in answer.body:
        require_shape(package, PACKAGE)
    assert [package["name"] for package in answer.body] == ["small", "large"]
    large = answer.body[1]
    assert (large["credits"], large["priceEuroCents"], large["sortOrder"]) == (1100, 1000, 2)
    assert (large["stripePriceId"], large["metadata"]) == ("price_1", {"badge": "best"})
    assert (large["description"], answer.body[0]["description"]) == ("more", None)


async def test_a_subscription_keeps_the_price_of_its_activation(
    service: Running, admin: Connection
) -> None:
    await service.grant("ann", 100)
    await service.call("POST", "/sync/activate", user="ann")
    await admin.execute("UPDATE credits.sync_prices SET price = 60 WHERE months = 1")

    kept = await service.call("GET", "/sync/status", user="ann")
    changed = await service.call(
        "POST", "/sync/change-interval", user="ann", json={"interval": "monthly"}
    )
    others = await service.call("GET", "/sync/status", user="nobody")

    assert (kept.body["price"], changed.body["amountCharged"], others.body["price"]) == (30, 60, 60)
