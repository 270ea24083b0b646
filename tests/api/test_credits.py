"""Personal credits over HTTP."""

from tests.support.running import Running


async def test_debit_and_balance(service: Running) -> None:
    await service.grant("ann", 10)

    used = await service.call(
        "POST", "/credits/use", user="ann", json={"amount": 3, "appId": "app", "description": "x"}
    )

    assert used.status == 200
    assert used.body["newBalance"] == {"balance": 7, "totalEarned": 10, "totalSpent": 3}
    assert await service.balance("ann") == 7
