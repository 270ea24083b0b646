"""Idempotency keys across kinds of calls and origins, and calls repeated by their id."""

import itertools
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.support.calls import (
    Refusal,
    amounts,
    call,
    charge,
    debit,
    grant,
    ledger,
    make_package,
    refusal,
    subscribe,
    utc,
)
from tests.support.databases import Connection

USE = "credits.use_credits"
REFUND = "credits.refund_credits"
RESERVE = "credits.reserve_credits"
GIFT = "gifts.create_gift"
BUY = "credits.start_purchase"
COMMIT = "credits.commit_reservation"
RETURN = "credits.refund_reservation"
REDEEM = "gifts.redeem_gift"
CANCEL = "gifts.cancel_gift"
ACTIVATE = "credits.activate_sync"


@dataclass(frozen=True, slots=True)
class Request:
    """A function and what it is called with."""

    function: str
    arguments: dict[str, Any]

    def but(self, **arguments: Any) -> "Request":
        return Request(self.function, {**self.arguments, **arguments})

    async def send(self, connection: Connection) -> dict[str, Any]:
        return dict(await call(connection, self.function, **self.arguments))

    async def refused(self, connection: Connection) -> Refusal:
        return await refusal(connection, self.function, **self.arguments)


def service_requests() -> list[Request]:
    """What services send with a key and without anything made before."""
    return [
        Request(USE, {"user_id": "ann", "amount": 5, "app_id": "app", "description": "x"}),
        Request(REFUND, {"user_id": "ann", "amount": 5, "app_id": "app", "description": "x"}),
        Request(RESERVE, {"user_id": "ann", "amount": 5, "reason": "app"}),
    ]


def user_requests(package: UUID) -> list[Request]:
    """What users send with a key and without anything made before."""
    words = {"app_id": "app", "description": "x", "origin": "user"}
    return [
        Request(USE, {"user_id": "ann", "amount": 5, **words}),
        Request(GIFT, {"user_id": "ann", "credits": 5}),
        Request(BUY, {"user_id": "ann", "package_id": package}),
    ]


async def all_service_requests(connection: Connection) -> list[Request]:
    """One request of each kind, all of which can be made now."""
    holds = [await service_requests()[2].send(connection) for _ in range(2)]
    first, second = ({"reservation_id": held["reservation_id"]} for held in holds)
    return [*service_requests(), Request(COMMIT, first), Request(RETURN, second)]


async def all_user_requests(connection: Connection, package: UUID) -> list[Request]:
    """One request of each kind, all of which can be made now."""
    theirs = await call(connection, GIFT, user_id="bea", credits=1)
    hers = await call(connection, GIFT, user_id="ann", credits=1)
    if (await call(connection, "credits.get_sync_status", user_id="ann"))["active"]:
        await call(connection, "credits.deactivate_sync", user_id="ann")
    return [
        *user_requests(package),
        Request(REDEEM, {"user_id": "ann", "code": theirs["code"]}),
        Request(CANCEL, {"user_id": "ann", "gift_id": hers["id"]}),
        Request(ACTIVATE, {"user_id": "ann", "interval": "monthly"}),
    ]


async def state(admin: Connection) -> list[Any]:
    """Everything that a keyed call could write."""
    return [
        await admin.fetch(f"SELECT * FROM {table} AS t ORDER BY t::text")
        for table in (
            "credits.balances",
            "credits.transactions",
            "credits.reservations",
            "credits.purchases",
            "credits.keyed_calls",
            "credits.sync_subscriptions",
            "credits.debit_refunds",
            "credits.usage_stats",
            "gifts.gift_codes",
            "gifts.gift_redemptions",
        )
    ]


@pytest.mark.parametrize("origin", ["service", "user"])
async def test_all_kinds_of_one_origin_share_their_keys(
    admin: Connection, service_login: Connection, origin: str
) -> None:
    for user in ("ann", "bea"):
        await grant(service_login, user, 10_000)
    package = await make_package(admin)

    async def fresh() -> list[Request]:
        if origin == "service":
            return await all_service_requests(service_login)
        return await all_user_requests(service_login, package)

    for first, second in itertools.permutations(range(len(await fresh())), 2):
        requests = await fresh()
        key = f"{first} then {second}"
        await requests[first].but(idempotency_key=key).send(service_login)
        before = await state(admin)
        refused = await requests[second].but(idempotency_key=key).refused(service_login)
        assert (refused.sqlstate, refused.facts) == ("MC003", {"idempotencyKey": key})
        assert await state(admin) == before


async def test_users_and_services_do_not_share_keys(
    admin: Connection, service_login: Connection
) -> None:
    for user in ("ann", "bea"):
        await grant(service_login, user, 10_000)
    package = await make_package(admin)
    for users_first in (True, False):
        for place in range(6):
            for ours in await all_service_requests(service_login):
                theirs = (await all_user_requests(service_login, package))[place]
                key = str(uuid4())
                for request in [theirs, ours] if users_first else [ours, theirs]:
                    answer = await request.but(idempotency_key=key).send(service_login)
                    assert answer["replayed"] is False


async def test_a_key_again_answers_the_first_result_whatever_came_between(
    admin: Connection, service_login: Connection
) -> None:
    for user in ("ann", "bea"):
        await grant(service_login, user, 10_000)
    package = await make_package(admin)
    requests = [
        *await all_service_requests(service_login),
        *await all_user_requests(service_login, package),
    ]
    for place, request in enumerate(requests):
        keyed = request.but(idempotency_key=f"{request.function} {place}")
        first = await keyed.send(service_login)
        assert first["replayed"] is False
        if request.function == ACTIVATE:
            await call(service_login, "credits.deactivate_sync", user_id="ann")
        before = await state(admin)
        again = await keyed.send(service_login)
        assert again == {**first, "replayed": True}
        assert await state(admin) == before


async def test_a_call_that_failed_leaves_its_key_unused(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "bea", 100)
    package = await make_package(admin)
    gift = await call(service_login, GIFT, user_id="bea", credits=5)
    taken = await call(service_login, GIFT, user_id="bea", credits=5)
    await call(service_login, REDEEM, user_id="bea", code=taken["code"])
    # Ann has nothing, and what she is late for is gone.
    for request in [
        *service_requests()[::2],
        *user_requests(package)[:2],
        Request(ACTIVATE, {"user_id": "ann"}),
    ]:
        refused = await request.but(idempotency_key="k").refused(service_login)
        assert refused.sqlstate == "MC002"
    late = Request(REDEEM, {"user_id": "ann", "code": taken["code"], "idempotency_key": "k"})
    assert (await late.send(service_login))["outcome"] == "failed_depleted"
    assert (await late.but(code=gift["code"]).send(service_login))["outcome"] == "success"
    use = service_requests()[0].but(idempotency_key="k")
    assert (await use.send(service_login))["replayed"] is False


async def test_a_call_that_finds_its_work_done_uses_its_key(
    admin: Connection, service_login: Connection
) -> None:
    for user in ("ann", "bea"):
        await grant(service_login, user, 10_000)
    holds = (await all_service_requests(service_login))[3:]
    gifts = (await all_user_requests(service_login, await make_package(admin)))[3:5]
    for requests, others in ((holds, service_requests()), (gifts, user_requests(uuid4()))):
        for request in requests:
            await request.send(service_login)
            keyed = request.but(idempotency_key=str(uuid4()))
            assert (await keyed.send(service_login))["replayed"] is True
            other = others[0].but(idempotency_key=keyed.arguments["idempotency_key"])
            assert (await other.refused(service_login)).sqlstate == "MC003"


async def test_a_key_with_anything_else_is_refused(
    admin: Connection, service_login: Connection
) -> None:
    for user in ("ann", "bea"):
        await grant(service_login, user, 1000)
    first, second = [(await debit(service_login, "ann", 50))["id"] for _ in range(2)]
    package, other_package = await make_package(admin), await make_package(admin)
    use, refund, reserve = service_requests()
    _use, gift, buy = user_requests(package)
    named = refund.but(transaction_id=first)
    personal = gift.but(type="personalized", target_email="bob@example.org")
    urls = {"success_url": "https://a.example", "cancel_url": "https://a.example"}
    cases = [
        (use, use.but(amount=6)),
        (use, use.but(app_id="other")),
        (refund, refund.but(amount=6)),
        (refund, refund.but(app_id="other")),
        (refund, named),
        (named, refund),
        (named, named.but(transaction_id=second)),
        (reserve, reserve.but(amount=6)),
        (reserve, reserve.but(reason="other: app")),
        (gift, gift.but(credits=6)),
        (gift, personal),
        (personal, gift),
        (personal, personal.but(target_email="cat@example.org")),
        (buy, buy.but(package_id=other_package)),
        (buy, buy.but(**urls)),
        (buy.but(**urls), buy),
    ]
    *_, commit, return_ = await all_service_requests(service_login)
    *_, other_commit, other_return = await all_service_requests(service_login)
    *_, redeem, cancel, activate = await all_user_requests(service_login, package)
    *_, other_redeem, other_cancel, _activate = await all_user_requests(service_login, package)
    cases += [
        (commit, other_commit),
        (return_, other_return),
        (other_commit, Request(RETURN, other_commit.arguments)),
        (other_return, Request(COMMIT, other_return.arguments)),
        (redeem, other_redeem),
        (cancel, other_cancel),
        (activate, activate.but(interval="yearly")),
    ]
    for place, (asked, else_) in enumerate(cases):
        await asked.but(idempotency_key=f"k{place}").send(service_login)
        before = await state(admin)
        refused = await else_.but(idempotency_key=f"k{place}").refused(service_login)
        assert refused.sqlstate == "MC003", (asked, else_)
        assert await state(admin) == before


async def test_a_key_with_other_words_is_the_same_request(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 1000)
    package = await make_package(admin)
    use, refund, reserve = service_requests()
    _use, gift, buy = user_requests(package)
    personal = gift.but(type="personalized", target_email="bob@example.org")
    cases = [
        (use, use.but(description="other", metadata={"a": 1})),
        (refund, refund.but(description="other", metadata={"a": 1})),
        (reserve, reserve.but(reason="app: other", expires_in_seconds=60)),
        (gift, gift.but(message="other", expiration_days=3, creator_name="Ann")),
        (personal, personal.but(target_email=" BOB@Example.org ")),
        (buy, buy.but(email="ann@example.org")),
    ]
    for place, (asked, again) in enumerate(cases):
        await asked.but(idempotency_key=f"k{place}").send(service_login)
        ledger_before = await ledger(admin, "ann")
        answer = await again.but(idempotency_key=f"k{place}").send(service_login)
        assert answer["replayed"] is True, asked
        assert await ledger(admin, "ann") == ledger_before


async def test_nobody_can_have_the_origin_of_the_database(service_login: Connection) -> None:
    await grant(service_login, "ann", 10)
    for key in (None, "k"):
        refused = await refusal(
            service_login,
            USE,
            user_id="ann",
            amount=1,
            app_id="app",
            description="x",
            origin="system",
            idempotency_key=key,
        )
        assert (refused.sqlstate, refused.field) == ("MC001", "origin")


async def test_a_key_that_looks_like_the_databases_own_occupies_nothing(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 100)
    await grant(service_login, "bea", 5)
    gift = await call(service_login, GIFT, user_id="bea", credits=5)
    await subscribe(admin, "ann", at=utc("2024-01-01 00:00"))
    last = (await ledger(admin, "ann"))[-1]["idempotency_key"]
    assert last == "sync:1"
    taken = ["grant:next", f"gift:{gift['id']}", "sync:2"]
    for key, origin in itertools.product(taken, ["user", "service"]):
        await debit(service_login, "ann", 1, idempotency_key=key, origin=origin)

    await grant(service_login, "ann", 7, "next")
    await call(service_login, "gifts.redeem_gift", code=gift["code"], user_id="ann")
    assert (await charge(admin, utc("2024-02-01 00:00")))["charged"] == 1
    assert (await amounts(admin, "ann"))[-3:] == [("grant", 7), ("gift", 5), ("usage", -30)]
    assert (await ledger(admin, "ann"))[-1]["idempotency_key"] == taken[2]


async def replays(
    admin: Connection, service_login: Connection, request: Request
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answers to a call and to the same call again; nothing may change in between."""
    first = await request.send(service_login)
    before = await state(admin)
    again = await request.send(service_login)
    assert await state(admin) == before
    return first, again


@pytest.mark.parametrize("key", [None, "k"])
async def test_the_same_call_after_a_lost_answer_gets_the_same_answer(
    admin: Connection, service_login: Connection, key: str | None
) -> None:
    await grant(service_login, "ann", 1000)
    taken = await debit(service_login, "ann", 5)
    package = await make_package(admin)
    use, refund, reserve = service_requests()
    _use, gift, buy = user_requests(package)
    requests = [use, refund.but(transaction_id=taken["id"]), reserve, gift, buy]
    for place, request in enumerate(requests):
        keyed = request.but(idempotency_key=key and f"{key}{place}", id=uuid4())
        first, again = await replays(admin, service_login, keyed)
        assert again == first
        assert again["replayed"] is False


@pytest.mark.parametrize("key", [None, "k"])
async def test_the_same_call_about_something_made_before_gets_the_same_answer(
    admin: Connection, service_login: Connection, key: str | None
) -> None:
    await grant(service_login, "ann", 1000)
    held = await call(service_login, RESERVE, user_id="ann", amount=5, reason="x")
    gift = await call(service_login, GIFT, user_id="ann", credits=5)
    requests = [
        Request(
            "credits.commit_reservation", {"reservation_id": held["reservation_id"], "amount": 3}
        ),
        Request("gifts.redeem_gift", {"code": gift["code"], "user_id": "bob"}),
    ]
    for request in requests:
        keyed = request.but(id=uuid4(), idempotency_key=key and f"{request.function} {key}")
        first, again = await replays(admin, service_login, keyed)
        assert again == first
        assert again["replayed"] is False


async def test_the_same_grant_after_a_lost_answer_gets_the_same_answer(
    admin: Connection, service_login: Connection
) -> None:
    granted = Request(
        "credits.grant_credits",
        {"user_id": "ann", "amount": 5, "reason": "x", "reference_id": "new", "id": uuid4()},
    )
    first, again = await replays(admin, service_login, granted)
    assert again == first
    assert again["replayed"] is False


async def test_a_refused_attempt_repeated_after_a_lost_answer_is_written_down_once(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 10)
    gift = await call(service_login, GIFT, user_id="ann", credits=5)
    await call(service_login, "gifts.redeem_gift", code=gift["code"], user_id="bob")
    late = Request("gifts.redeem_gift", {"code": gift["code"], "user_id": "cat", "id": uuid4()})
    first, again = await replays(admin, service_login, late)
    assert again == first
    assert first["outcome"] == "failed_depleted"


async def test_the_answer_to_a_repeated_call_tells_what_there_is_now(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 10)
    use = service_requests()[0].but(id=uuid4())
    await use.send(service_login)
    await debit(service_login, "ann", 1)
    assert (await use.send(service_login))["available"] == 4


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_of_a_call_that_makes_no_row_has_bounds_as_well(
    admin: Connection, key: str
) -> None:
    await grant(admin, "ann", 100)
    gift = await call(admin, GIFT, user_id="ann", credits=5)
    held = await call(admin, RESERVE, user_id="ann", amount=5, reason="app")
    for request in (
        Request(COMMIT, {"reservation_id": held["reservation_id"]}),
        Request(RETURN, {"reservation_id": held["reservation_id"]}),
        Request(REDEEM, {"user_id": "bob", "code": gift["code"]}),
        Request(CANCEL, {"user_id": "ann", "gift_id": gift["id"]}),
        Request(ACTIVATE, {"user_id": "ann"}),
    ):
        refused = await request.but(idempotency_key=key).refused(admin)
        assert (refused.sqlstate, refused.field) == ("MC001", "idempotencyKey"), request.function


async def test_a_key_of_somebody_elses_call_that_makes_no_row_is_free(admin: Connection) -> None:
    for user in ("ann", "bob"):
        await grant(admin, user, 100)
    await call(admin, ACTIVATE, user_id="bob", idempotency_key="same")
    gift = await call(admin, GIFT, user_id="ann", credits=5, idempotency_key="same")
    assert gift["total_credits"] == 5
