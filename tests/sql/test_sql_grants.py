"""Grants: credits.grant_credits."""

from tests.support.calls import amounts, call, ledger
from tests.support.databases import Connection

GRANT = "credits.grant_credits"


async def test_a_reference_grants_once_whatever_the_amount(
    admin: Connection, service_login: Connection
) -> None:
    arguments = {"user_id": "ann", "reason": "survey", "reference_id": "survey-1"}
    first = await call(service_login, GRANT, amount=10, **arguments)
    again = await call(service_login, GRANT, amount=99, **arguments)
    assert first["replayed"] is False
    assert dict(again) == {**dict(first), "replayed": True}
    assert await amounts(admin, "ann") == [("grant", 10)]


async def test_another_reference_and_another_user_grant_again(
    admin: Connection, service_login: Connection
) -> None:
    for user, reference in [("ann", "1"), ("ann", "2"), ("bob", "1")]:
        granted = await call(
            service_login, GRANT, user_id=user, amount=5, reason="x", reference_id=reference
        )
        assert granted["replayed"] is False
    assert await amounts(admin, "ann") == [("grant", 5), ("grant", 5)]
    assert await amounts(admin, "bob") == [("grant", 5)]


async def test_the_row_tells_why(admin: Connection, service_login: Connection) -> None:
    arguments = {"user_id": "ann", "amount": 5, "reason": "survey"}
    await call(service_login, GRANT, reference_id="1", **arguments)
    await call(service_login, GRANT, reference_id="2", description="Thank you", **arguments)
    first, second = await ledger(admin, "ann")
    assert (first["origin"], first["app_id"], first["description"]) == (
        "system",
        "system",
        "survey",
    )
    assert first["metadata"] == {"reason": "survey", "referenceId": "1"}
    assert second["description"] == "Thank you"
