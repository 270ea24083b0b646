"""Purchases as SQL: how they begin, what Stripe's answers and events make of them."""

import asyncio
import itertools
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.support.calls import amounts, available, call, grant, ledger, make_package, refusal, rows
from tests.support.databases import Clone, Connection, connect
from tests.support.races import blocked

START = "credits.start_purchase"
FOLLOW = "credits.follow_payment"
EVENT = "credits.apply_stripe_event"
URLS = {"success_url": "https://app.example/yes", "cancel_url": "https://app.example/no"}


async def start(admin: Connection, connection: Connection, **more: Any) -> asyncpg.Record:
    """Ann begins to buy 1000 credits for 9 euros."""
    return await call(
        connection, START, user_id="ann", package_id=await make_package(admin), **more
    )


async def start_paying(admin: Connection, connection: Connection) -> asyncpg.Record:
    """Ann begins to buy, and Stripe has made the payment pi_1."""
    purchase = await start(admin, connection)
    return await call(
        connection,
        "credits.record_payment_intent",
        user_id="ann",
        purchase_id=purchase["id"],
        stripe_payment_intent_id="pi_1",
        stripe_customer_id="cus_1",
    )


async def follow(
    connection: Connection, purchase: UUID, status: str, **more: Any
) -> asyncpg.Record:
    """Stripe was asked, and answered so."""
    arguments = {
        "user_id": "ann",
        "purchase_id": purchase,
        "stripe_payment_intent_id": "pi_1",
        "stripe_status": status,
        "received_euro_cents": 900,
        "currency": "eur",
        **more,
    }
    return await call(connection, FOLLOW, **arguments)


def intent(purchase: UUID | None = None, **more: Any) -> dict[str, Any]:
    """A PaymentIntent that has received 9 euros."""
    metadata = {} if purchase is None else {"purchaseId": str(purchase)}
    return {
        "object": "payment_intent",
        "id": "pi_1",
        "amount_received": 900,
        "currency": "eur",
        "metadata": metadata,
        **more,
    }


def session(purchase: UUID | None = None, **more: Any) -> dict[str, Any]:
    """A Checkout Session over 9 euros that was paid."""
    metadata = {} if purchase is None else {"purchaseId": str(purchase)}
    return {
        "object": "checkout.session",
        "id": "cs_1",
        "payment_intent": "pi_1",
        "payment_status": "paid",
        "amount_total": 900,
        "currency": "eur",
        "metadata": metadata,
        **more,
    }


async def event(
    connection: Connection, type_: str, about: dict[str, Any], event_id: str | None = None
) -> asyncpg.Record:
    """Stripe sends an event; without an id it is a new one."""
    return await call(
        connection,
        EVENT,
        id=event_id or f"evt_{uuid4().hex}",
        type=type_,
        created_at=await connection.fetchval("SELECT clock_timestamp()"),
        payload={"id": "evt", "type": type_, "data": {"object": about}},
    )


async def status(connection: Connection, purchase: UUID) -> tuple[str, str | None]:
    """Where a purchase stands, and why it failed."""
    row = await call(connection, "credits.get_purchase", user_id="ann", purchase_id=purchase)
    return row["status"], row["failure"]


async def test_a_purchase_is_written_down_before_stripe_is_asked(
    admin: Connection, service_login: Connection
) -> None:
    package = await make_package(admin, 500, 450)
    purchase = await call(
        service_login, START, user_id="ann", package_id=package, email="ann@example.org"
    )
    assert (purchase["credits"], purchase["price_euro_cents"], purchase["status"]) == (
        500,
        450,
        "pending",
    )
    assert purchase["id"].version == 7
    # It keeps the price it began with.
    await admin.execute(
        "UPDATE credits.packages SET credits = 1, price_euro_cents = 1, active = false"
    )
    kept = await call(
        service_login, "credits.get_purchase", user_id="ann", purchase_id=purchase["id"]
    )
    assert (kept["credits"], kept["price_euro_cents"]) == (500, 450)
    assert await admin.fetchval("SELECT email FROM credits.contacts") == "ann@example.org"
    assert await amounts(admin, "ann") == []


async def test_what_is_not_offered_cannot_be_bought(
    admin: Connection, service_login: Connection
) -> None:
    for package in (await make_package(admin, active=False), uuid4()):
        refused = await refusal(service_login, START, user_id="ann", package_id=package)
        assert (refused.sqlstate, refused.facts) == ("MC004", {"resource": "package"})
    assert await admin.fetchval("SELECT count(*) FROM credits.purchases") == 0


async def test_a_key_again_goes_on_with_the_first_purchase(
    admin: Connection, service_login: Connection
) -> None:
    package = await make_package(admin)
    asked = {"user_id": "ann", "package_id": package, "idempotency_key": "k"}
    first = await call(service_login, START, **asked)
    again = await call(service_login, START, **asked)
    assert dict(again) == {**dict(first), "replayed": True}
    # Also when the package is not offered any more.
    await admin.execute("UPDATE credits.packages SET active = false")
    assert (await call(service_login, START, **asked))["id"] == first["id"]


async def test_a_purchase_with_pages_is_another_than_one_without(
    admin: Connection, service_login: Connection
) -> None:
    package = await make_package(admin)
    asked = {"user_id": "ann", "package_id": package}
    for place, (first, second) in enumerate([({}, URLS), (URLS, {})]):
        await call(service_login, START, **asked, **first, idempotency_key=f"{place}")
        refused = await refusal(service_login, START, **asked, **second, idempotency_key=f"{place}")
        assert refused.sqlstate == "MC003"


async def test_a_success_gives_the_credits(admin: Connection, service_login: Connection) -> None:
    purchase = await start_paying(admin, service_login)
    done = await follow(service_login, purchase["id"], "succeeded", currency="EUR")
    assert (done["status"], done["stripe_payment_intent_id"]) == ("completed", "pi_1")
    assert done["completed_at"] is not None
    row = (await ledger(admin, "ann"))[-1]
    assert (row["type"], row["amount"], row["reference_id"], row["description"]) == (
        "purchase",
        1000,
        purchase["id"],
        "Package",
    )
    assert row["metadata"] == {"priceEuroCents": 900}


async def test_poll_and_webhooks_in_any_order_give_the_credits_once(
    admin: Connection, service_login: Connection
) -> None:
    async def polled(purchase: UUID) -> None:
        await follow(
            service_login, purchase, "succeeded", stripe_payment_intent_id=f"pi_{purchase}"
        )

    async def paid(purchase: UUID) -> None:
        await event(
            service_login, "payment_intent.succeeded", intent(purchase, id=f"pi_{purchase}")
        )

    async def page(purchase: UUID) -> None:
        await event(
            service_login,
            "checkout.session.completed",
            session(purchase, payment_intent=f"pi_{purchase}"),
        )

    package = await make_package(admin)
    orders = list(itertools.permutations([polled, paid, page]))
    for number, order in enumerate(orders, 1):
        purchase = await call(service_login, START, user_id="ann", package_id=package)
        for step in order:
            await step(purchase["id"])
        assert (await status(service_login, purchase["id"]))[0] == "completed"
        assert await available(service_login, "ann") == 1000 * number


@pytest.mark.parametrize("with_metadata", [True, False])
async def test_an_event_finds_its_purchase_by_the_payment_or_the_metadata(
    admin: Connection, service_login: Connection, with_metadata: bool
) -> None:
    if with_metadata:
        # Stripe's answer with the payment's id has not been written down yet.
        purchase = await start(admin, service_login)
        about = intent(purchase["id"])
    else:
        purchase = await start_paying(admin, service_login)
        about = intent()
    applied = await event(service_login, "payment_intent.succeeded", about)
    assert dict(applied) == {
        "state": "applied",
        "outcome": "purchase completed",
        "error": None,
        "repeated": False,
        "needs_refunds_of": None,
    }
    assert await available(service_login, "ann") == 1000


async def test_the_payment_says_more_than_the_metadata(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_paying(admin, service_login)
    other = await start(admin, service_login)
    await event(service_login, "payment_intent.succeeded", intent(other["id"]))
    assert (await status(service_login, purchase["id"]))[0] == "completed"
    assert (await status(service_login, other["id"]))[0] == "pending"


async def test_the_same_event_twice_is_applied_once(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_paying(admin, service_login)
    about = intent(purchase["id"])
    first = await event(service_login, "payment_intent.succeeded", about, "evt_1")
    again = await event(service_login, "payment_intent.succeeded", about, "evt_1")
    assert dict(again) == {**dict(first), "repeated": True}
    row = await admin.fetchrow("SELECT state, attempts FROM credits.stripe_events")
    assert row is not None
    assert tuple(row) == ("applied", 1)
    assert await amounts(admin, "ann") == [("purchase", 1000)]


async def test_the_same_event_twice_at_once_is_applied_once(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    purchase = await start_paying(admin, service_login)
    about = intent(purchase["id"])
    other = await connect(database.service_url)
    try:
        async with service_login.transaction():
            await event(service_login, "payment_intent.succeeded", about, "evt_1")
            late = asyncio.create_task(event(other, "payment_intent.succeeded", about, "evt_1"))
            await blocked(admin, other, late)
        assert (await late)["repeated"] is True
    finally:
        await other.close()
    assert await amounts(admin, "ann") == [("purchase", 1000)]


DIFFERENT: list[tuple[dict[str, Any], str]] = [
    ({"amount_received": 899}, "amount"),
    ({"amount_received": 901}, "amount"),
    ({"amount_received": 0}, "amount"),
    ({"amount_received": None}, "amount"),
    ({"currency": "usd"}, "currency"),
    ({"currency": None}, "currency"),
    ({"id": "pi_2"}, "paymentIntent"),
]


async def test_another_amount_currency_or_payment_credits_nothing_and_fails_loudly(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_paying(admin, service_login)
    for place, (different, field) in enumerate(DIFFERENT):
        about = intent(purchase["id"], **different)
        event_id = f"evt_{place}"
        result = await event(service_login, "payment_intent.succeeded", about, event_id)
        assert (result["state"], result["outcome"]) == ("failed", None)
        assert result["error"].startswith(f"MC001 {field} ")
        assert await status(service_login, purchase["id"]) == ("pending", None)
        assert await amounts(admin, "ann") == []
        # It is kept with its error, and tried once more when Stripe sends it again.
        again = await event(service_login, "payment_intent.succeeded", about, event_id)
        assert (again["state"], again["repeated"]) == ("failed", True)
        row = await admin.fetchrow(
            "SELECT state, error, attempts, payload FROM credits.stripe_events WHERE id = $1",
            event_id,
        )
        assert row is not None
        assert tuple(row)[:3] == ("failed", result["error"], 2)
        assert row["payload"]["data"]["object"] == about

        # Whoever asks Stripe meets the same rule.
        refused = await refusal(
            service_login,
            FOLLOW,
            user_id="ann",
            purchase_id=purchase["id"],
            stripe_payment_intent_id=about["id"],
            stripe_status="succeeded",
            received_euro_cents=about["amount_received"],
            currency=about["currency"],
        )
        assert (refused.sqlstate, refused.field) == ("MC001", field)


async def test_an_event_that_failed_is_applied_once_it_can_be(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_paying(admin, service_login)
    about = intent(purchase["id"])
    await admin.execute("UPDATE credits.purchases SET price_euro_cents = 800")
    result = await event(service_login, "payment_intent.succeeded", about, "evt_1")
    assert result["state"] == "failed"
    await admin.execute("UPDATE credits.purchases SET price_euro_cents = 900")
    result = await event(service_login, "payment_intent.succeeded", about, "evt_1")
    assert dict(result) == {
        "state": "applied",
        "outcome": "purchase completed",
        "error": None,
        "repeated": True,
        "needs_refunds_of": None,
    }


async def test_a_second_payment_of_a_completed_purchase_credits_nothing(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_paying(admin, service_login)
    await follow(service_login, purchase["id"], "succeeded")
    second = await event(
        service_login, "payment_intent.succeeded", intent(purchase["id"], id="pi_2")
    )
    assert second["state"] == "failed"
    assert await amounts(admin, "ann") == [("purchase", 1000)]


async def test_an_event_that_is_not_ours_is_ignored(
    admin: Connection, service_login: Connection
) -> None:
    await start(admin, service_login)
    not_ours: list[tuple[str, dict[str, Any]]] = [
        ("payment_intent.succeeded", intent()),
        ("payment_intent.succeeded", intent(uuid4())),
        ("payment_intent.succeeded", intent(metadata={"purchaseId": "1 OR 1=1"})),
        ("payment_intent.succeeded", intent(metadata={"purchaseId": ["x"]})),
        ("payment_intent.succeeded", intent(metadata=None)),
        ("payment_intent.succeeded", {}),
        ("checkout.session.completed", session(payment_intent=None)),
        ("customer.created", intent()),
        ("payment_intent.created", intent()),
        ("", {}),
    ]
    for type_, about in not_ours:
        result = await event(service_login, type_, about)
        assert (result["state"], result["outcome"], result["error"]) == ("ignored", None, None)
    assert await amounts(admin, "ann") == []


async def test_an_event_of_no_interest_about_a_purchase_of_ours_is_ignored(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_paying(admin, service_login)
    result = await event(service_login, "payment_intent.created", intent(purchase["id"]))
    assert result["state"] == "ignored"


async def test_a_lock_that_cannot_be_had_is_raised_so_that_stripe_sends_again(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    purchase = await start_paying(admin, service_login)
    hasty = await connect(database.service_url, lock_timeout="50ms")
    try:
        async with service_login.transaction():
            await follow(service_login, purchase["id"], "processing")
            await service_login.execute(
                "SELECT * FROM credits.fail_purchase('ann', $1, 'x')", purchase["id"]
            )
            with pytest.raises(asyncpg.LockNotAvailableError):
                await event(hasty, "payment_intent.succeeded", intent(purchase["id"]), "evt_1")
        assert await admin.fetchval("SELECT count(*) FROM credits.stripe_events") == 0
        again = await event(hasty, "payment_intent.succeeded", intent(purchase["id"]), "evt_1")
        assert (again["state"], again["repeated"]) == ("applied", False)
    finally:
        await hasty.close()


@pytest.mark.parametrize(
    "condition",
    [
        "serialization_failure",
        "deadlock_detected",
        "lock_not_available",
        "insufficient_resources",
        "operator_intervention",
        "system_error",
    ],
)
async def test_what_passes_by_itself_is_raised_and_is_no_failure_of_the_event(
    admin: Connection, service_login: Connection, condition: str
) -> None:
    purchase = await start_paying(admin, service_login)
    await admin.execute(
        f"""
        CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN RAISE {condition}; END';
        CREATE TRIGGER refuse BEFORE UPDATE ON credits.purchases
        FOR EACH ROW EXECUTE FUNCTION pg_temp.refuse()
        """
    )
    with pytest.raises(asyncpg.PostgresError):
        await event(admin, "payment_intent.succeeded", intent(purchase["id"]), "evt_1")
    assert await admin.fetchval("SELECT count(*) FROM credits.stripe_events") == 0


async def test_what_is_written_of_one_purchase_leaves_the_others_of_its_user_alone(
    admin: Connection, service_login: Connection
) -> None:
    async def others() -> list[asyncpg.Record]:
        return await admin.fetch(
            "SELECT * FROM credits.purchases WHERE id <> ALL ($1) ORDER BY id",
            [paying, paged, failing],
        )

    started = [(await start(admin, service_login, **URLS))["id"] for _ in range(4)]
    paying, paged, failing, _ = started
    about: dict[str, Any] = {"user_id": "ann"}
    before = await others()
    await call(
        service_login,
        "credits.fail_purchase",
        **about,
        purchase_id=failing,
        failure="x",
    )
    await call(
        service_login,
        "credits.record_checkout_session",
        **about,
        purchase_id=paged,
        stripe_checkout_session_id="cs_2",
        stripe_checkout_url="https://stripe.example/cs_2",
        stripe_customer_id="cus_1",
    )
    await call(
        service_login,
        "credits.record_payment_intent",
        **about,
        purchase_id=paying,
        stripe_payment_intent_id="pi_1",
        stripe_customer_id="cus_1",
    )
    await follow(service_login, paying, "succeeded")
    assert await others() == before
    assert [(await status(service_login, purchase))[0] for purchase in started] == (
        ["completed", "pending", "failed", "pending"]
    )
    sessions = await admin.fetch(
        "SELECT id FROM credits.purchases WHERE stripe_checkout_url IS NOT NULL"
    )
    assert [row["id"] for row in sessions] == [paged]


async def start_on_page(admin: Connection, connection: Connection) -> asyncpg.Record:
    """Ann begins to buy on Stripe's page cs_1."""
    purchase = await start(admin, connection, **URLS)
    return await call(
        connection,
        "credits.record_checkout_session",
        user_id="ann",
        purchase_id=purchase["id"],
        stripe_checkout_session_id="cs_1",
        stripe_checkout_url="https://stripe.example/cs_1",
        stripe_customer_id="cus_1",
    )


async def test_a_session_that_is_not_paid_yet_is_pending_until_the_money_comes(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_on_page(admin, service_login)
    unpaid = session(purchase["id"], payment_status="unpaid")
    await event(service_login, "checkout.session.completed", unpaid)
    assert await status(service_login, purchase["id"]) == ("pending", None)
    assert await amounts(admin, "ann") == []
    await event(service_login, "checkout.session.async_payment_succeeded", session(purchase["id"]))
    assert (await status(service_login, purchase["id"]))[0] == "completed"
    assert await amounts(admin, "ann") == [("purchase", 1000)]


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("checkout.session.async_payment_failed", ("failed", "the payment failed")),
        ("checkout.session.expired", ("cancelled", "the checkout session expired")),
    ],
)
async def test_a_session_that_comes_to_nothing_ends_its_purchase(
    admin: Connection, service_login: Connection, type_: str, expected: tuple[str, str]
) -> None:
    purchase = await start_on_page(admin, service_login)
    nothing = session(purchase["id"], payment_status="unpaid", payment_intent=None)
    await event(service_login, type_, nothing)
    assert await status(service_login, purchase["id"]) == expected


async def test_the_first_page_that_is_written_down_stays(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_on_page(admin, service_login)
    again = await call(
        service_login,
        "credits.record_checkout_session",
        user_id="ann",
        purchase_id=purchase["id"],
        stripe_checkout_session_id="cs_2",
        stripe_checkout_url="https://stripe.example/cs_2",
        stripe_customer_id="cus_1",
    )
    assert again["stripe_checkout_session_id"] == "cs_1"
    assert again["stripe_checkout_url"] == "https://stripe.example/cs_1"


async def test_a_session_that_expired_before_it_was_written_down_stays_cancelled(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start(admin, service_login, **URLS)
    nothing = session(purchase["id"], payment_status="unpaid", payment_intent=None)
    await event(service_login, "checkout.session.expired", nothing)
    failed = await call(
        service_login,
        "credits.fail_purchase",
        user_id="ann",
        purchase_id=purchase["id"],
        failure="the answer was lost",
    )
    assert failed["status"] == "cancelled"


async def test_an_expired_session_does_not_touch_what_was_paid(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_on_page(admin, service_login)
    await event(service_login, "checkout.session.completed", session(purchase["id"]))
    late = await event(service_login, "checkout.session.expired", session(purchase["id"]))
    assert (late["state"], late["outcome"]) == ("applied", "nothing to do")
    assert (await status(service_login, purchase["id"]))[0] == "completed"


async def test_the_address_given_on_stripes_page_is_kept_where_none_is_known(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_on_page(admin, service_login)
    # It had nowhere to go until now.
    await admin.execute(
        "SELECT credits._write_notice('ann', 'gift_expired', '{}', clock_timestamp())"
    )
    await admin.execute(
        "UPDATE credits.notices SET state = 'undeliverable', next_attempt_at = NULL"
    )
    for address in ("ann", "ann@example.org", "other@example.org"):
        about = session(purchase["id"], customer_details={"email": address})
        await event(service_login, "checkout.session.completed", about)
    assert await admin.fetchval("SELECT email FROM credits.contacts") == "ann@example.org"
    assert await admin.fetchval("SELECT state::text FROM credits.notices") == "pending"


async def test_stripe_is_asked_about_a_purchase_once_per_ten_seconds(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_paying(admin, service_login)

    async def claimed(user: str = "ann") -> bool:
        turn = await call(
            service_login, "credits.claim_purchase_poll", user_id=user, purchase_id=purchase["id"]
        )
        taken: bool = turn["claim_purchase_poll"]
        return taken

    async def asked(seconds_ago: float) -> datetime:
        at: datetime = await admin.fetchval("SELECT clock_timestamp()")
        await admin.execute(
            "UPDATE credits.purchases SET polled_at = $1", at - timedelta(seconds=seconds_ago)
        )
        return at

    assert await claimed("bob") is False
    assert await claimed() is True
    while True:
        at = await asked(5)
        turn = await claimed()
        # Where this took so long that ten seconds are over, it says nothing.
        if await admin.fetchval("SELECT clock_timestamp()") - at < timedelta(seconds=5):
            assert turn is False
            break
    await asked(10)
    assert await claimed() is True
    await follow(service_login, purchase["id"], "requires_payment_method", failure="declined")
    await asked(10)
    assert await claimed() is True
    await follow(service_login, purchase["id"], "succeeded")
    await asked(10)
    assert await claimed() is False


async def test_the_first_customer_that_is_linked_stays(
    admin: Connection, service_login: Connection
) -> None:
    await call(service_login, "credits.init_balance", user_id="ann")
    link = "credits.link_stripe_customer"

    async def linked(customer: str, **more: str) -> str:
        row = await call(service_login, link, user_id="ann", stripe_customer_id=customer, **more)
        kept: str = row["link_stripe_customer"]
        return kept

    known = await call(service_login, "credits.get_stripe_customer", user_id="ann")
    assert known["get_stripe_customer"] is None
    assert await linked("cus_1") == "cus_1"
    assert await linked("cus_2") == "cus_1"
    # One that Stripe no longer knows is replaced, once.
    assert await linked("cus_3", instead_of="cus_1") == "cus_3"
    assert await linked("cus_4", instead_of="cus_1") == "cus_3"
    known = await call(service_login, "credits.get_stripe_customer", user_id="ann")
    assert known["get_stripe_customer"] == "cus_3"


async def test_two_first_purchases_at_once_use_one_customer(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    await call(service_login, "credits.init_balance", user_id="ann")
    link = "credits.link_stripe_customer"
    other = await connect(database.service_url)
    try:
        async with service_login.transaction():
            await call(service_login, link, user_id="ann", stripe_customer_id="cus_1")
            late = asyncio.create_task(call(other, link, user_id="ann", stripe_customer_id="cus_2"))
            await blocked(admin, other, late)
        assert (await late)["link_stripe_customer"] == "cus_1"
    finally:
        await other.close()


@pytest.mark.parametrize("made", ["payment", "page", None])
async def test_only_a_purchase_without_a_payment_is_marked_failed(
    admin: Connection, service_login: Connection, made: str | None
) -> None:
    if made == "payment":
        purchase = await start_paying(admin, service_login)
    elif made == "page":
        purchase = await start_on_page(admin, service_login)
    else:
        purchase = await start(admin, service_login)
    failed = await call(
        service_login,
        "credits.fail_purchase",
        user_id="ann",
        purchase_id=purchase["id"],
        failure="x" * 501,
    )
    expected = ("pending", None) if made else ("failed", "x" * 500)
    assert (failed["status"], failed["failure"]) == expected


@pytest.mark.parametrize("page", [True, False])
async def test_a_purchase_that_failed_at_stripe_is_resumed(
    admin: Connection, service_login: Connection, page: bool
) -> None:
    purchase = await start(admin, service_login, **(URLS if page else {}))
    asked = {"user_id": "ann", "purchase_id": purchase["id"]}
    await call(service_login, "credits.fail_purchase", failure="time-out", **asked)
    if page:
        resumed = await call(
            service_login,
            "credits.record_checkout_session",
            stripe_checkout_session_id="cs_1",
            stripe_checkout_url="https://stripe.example/cs_1",
            stripe_customer_id="cus_1",
            **asked,
        )
    else:
        resumed = await call(
            service_login,
            "credits.record_payment_intent",
            stripe_payment_intent_id="pi_1",
            stripe_customer_id="cus_1",
            **asked,
        )
    assert (resumed["status"], resumed["failure"]) == ("pending", None)


async def test_an_answer_of_stripes_that_comes_late_changes_no_payment(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start(admin, service_login)
    await event(service_login, "payment_intent.succeeded", intent(purchase["id"]))
    late = await call(
        service_login,
        "credits.record_payment_intent",
        user_id="ann",
        purchase_id=purchase["id"],
        stripe_payment_intent_id="pi_2",
        stripe_customer_id="cus_1",
    )
    assert (late["status"], late["stripe_payment_intent_id"]) == ("completed", "pi_1")


async def test_another_users_purchase_is_not_found(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_paying(admin, service_login)
    asked = {"user_id": "bob", "purchase_id": purchase["id"]}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("credits.get_purchase", {}),
        ("credits.fail_purchase", {"failure": "x"}),
        (
            FOLLOW,
            {
                "stripe_payment_intent_id": "pi_1",
                "stripe_status": "succeeded",
                "received_euro_cents": 900,
                "currency": "eur",
            },
        ),
        (
            "credits.record_payment_intent",
            {"stripe_payment_intent_id": "pi_9", "stripe_customer_id": "cus_9"},
        ),
    ]
    for function, more in calls:
        refused = await refusal(service_login, function, **asked, **more)
        assert (refused.sqlstate, refused.facts) == ("MC004", {"resource": "purchase"})


async def test_purchases_are_listed_newest_first(
    admin: Connection, service_login: Connection
) -> None:
    package = await make_package(admin)
    # Ids tell the order, and are drawn by whoever calls: two of one millisecond have none.
    made = [UUID(int=place) for place in range(3)]
    for purchase_id in made:
        await call(service_login, START, user_id="ann", package_id=package, id=purchase_id)
    await call(service_login, START, user_id="bob", package_id=package)
    listing = "credits.list_purchases"
    listed = await rows(service_login, listing, user_id="ann")
    assert [purchase["id"] for purchase in listed] == made[::-1]
    page = await rows(service_login, listing, user_id="ann", limit=1, offset=1)
    assert [(row["id"], row["package_name"]) for row in page] == [(made[1], "Package")]


async def test_packages_are_listed_in_their_order_without_those_not_offered(
    admin: Connection, service_login: Connection
) -> None:
    first, second = await make_package(admin, 100, 100), await make_package(admin, 50, 50)
    await make_package(admin, active=False)
    listed = await rows(service_login, "credits.list_packages")
    assert [package["id"] for package in listed] == [second, first]
    await admin.execute("UPDATE credits.packages SET sort_order = -1 WHERE id = $1", first)
    listed = await rows(service_login, "credits.list_packages")
    assert [package["id"] for package in listed] == [first, second]


async def test_the_prices_are_those_of_the_product(service_login: Connection) -> None:
    prices = await rows(service_login, "credits.list_operation_prices")
    assert {row["operation"]: (row["cost"], row["per"]) for row in prices} == {
        "ai_chat_gpt4": (5, 1),
        "ai_chat_claude": (5, 1),
        "ai_chat_gemini": (2, 1),
        "ai_chat_qwen": (2, 1),
        "ai_chat_ollama": (1, 10),
        "ai_image_generation": (10, 1),
        "ai_image_upscale": (5, 1),
        "ai_research_quick": (5, 1),
        "ai_research_deep": (25, 1),
        "ai_food_analysis": (3, 1),
        "ai_deck_generation": (20, 1),
        "ai_card_generation": (2, 1),
        "ai_quote_explanation": (2, 1),
        "ai_plant_analysis": (2, 1),
        "ai_guide_generation": (5, 1),
        "ai_context_generation": (2, 1),
        "ai_smart_scheduling": (2, 1),
        "ai_suggestions": (2, 1),
        "ai_enrichment": (2, 1),
        "cloud_sync": (30, 1),
        "bulk_import": (1, 50),
        "pdf_export": (1, 1),
        "premium_theme": (3, 1),
    }
    sync = await rows(service_login, "credits.list_sync_prices")
    assert [(row["billing_interval"], row["months"], row["price"]) for row in sync] == [
        ("monthly", 1, 30),
        ("quarterly", 3, 90),
        ("yearly", 12, 360),
    ]


async def test_what_was_bought_can_be_spent(admin: Connection, service_login: Connection) -> None:
    await grant(service_login, "ann", 5)
    purchase = await start_paying(admin, service_login)
    await follow(service_login, purchase["id"], "succeeded")
    moved = await call(
        service_login,
        "credits.use_credits",
        user_id="ann",
        amount=1005,
        app_id="app",
        description="x",
    )
    assert moved["available"] == 0
