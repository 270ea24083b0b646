"""That everything whose cost is measured is answered."""

import io

from tests.bench.work import CONNECTIONS, requests


async def test_every_kind_of_request_is_answered_and_logged() -> None:
    log = io.StringIO()
    found = await requests(2, log)
    assert len(found) == 6
    assert all(least > 0 for least in found.values())
    # aiohttp alone writes none; each of the others was made twice over every connection.
    lines = log.getvalue().splitlines()
    assert len(lines) == 5 * 2 * CONNECTIONS
    assert all('"status":200' in line for line in lines)
