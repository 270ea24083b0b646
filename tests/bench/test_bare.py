"""That batches with nothing around them do what the service does."""

from aiohttp.test_utils import TestClient

from service.db import Database
from service.queries import credits
from tests.bench.bare import INTERNAL, create_app
from tests.support.running import AsServed


async def test_batches_alone_debit_and_read(db: Database) -> None:
    await credits.grant_credits(
        db, user_id="ann", amount=5, reason="bonus", reference_id="start", description=None
    )
    debit = {"userId": "ann", "amount": 2, "appId": "chat", "description": "A message"}
    async with TestClient(AsServed(create_app(db))) as client:
        async with client.post(f"{INTERNAL}/credits/use", json=debit) as answer:
            assert await answer.json() == {"balance": 3}
        async with client.get(f"{INTERNAL}/credits/balance/ann") as answer:
            assert await answer.json() == {"balance": 3}
        async with client.get(f"{INTERNAL}/sync/status/ann") as answer:
            assert await answer.json() == {"active": False}
