"""Debits: credits.use_credits."""

import asyncpg
import pytest

from tests.support.databases import Connection, detail


async def test_debit_takes_what_is_there(
    service_login: Connection,
) -> None:
    await service_login.fetchrow("SELECT * FROM credits.grant_credits('ann', 10, 'test', 'start')")

    move = await service_login.fetchrow("SELECT * FROM credits.use_credits('ann', 10, 'app', 'x')")

    assert move is not None
    assert (move["amount"], move["available"], move["replayed"]) == (-10, 0, False)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await service_login.fetchrow("SELECT * FROM credits.use_credits('ann', 1, 'app', 'x')")
    assert caught.value.sqlstate == "MC002"
    assert detail(caught.value) == {"required": 1, "available": 0}
