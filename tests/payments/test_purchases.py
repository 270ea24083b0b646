"""Buying credits: intents, checkout sessions, what goes wrong, and what is asked of Stripe."""

import asyncio
import dataclasses
import functools
from typing import Any
from uuid import uuid4

import pytest
import stripe

from service.stripe_gateway import StripeGateway
from tests.support.answers import (
    PURCHASE,
    a_text,
    an_id,
    header,
    require_error,
    require_shape,
    wrong_fields,
)
from tests.support.running import running_service
from tests.support.stripe import (
    DECLINED_AT_ATTACHING,
    DECLINED_AT_CHARGING,
    LARGE,
    PAID,
    RETIRED,
    SEPA,
    SEPA_FAILS,
    SMALL,
    Shop,
    intent_of,
    webhooks,
)
from tests.support.waiting import until

CREATE = "POST /v1/payment_intents"
SESSION = "POST /v1/checkout/sessions"
URLS = {"successUrl": "http://localhost:5173/ok?a=b#c", "cancelUrl": "http://localhost:5173/no"}


async def bought(
    shop: Shop, user: str = "ann", package: str = SMALL, **body: Any
) -> dict[str, Any]:
    answer = await shop.buy(user, package, **body)
    assert answer.status == 200, answer.body
    started: dict[str, Any] = answer.body
    return started


async def ask_again(shop: Shop) -> None:
    """Let the ten seconds pass in which Stripe is not asked again."""
    await shop.admin.execute(
        "UPDATE credits.purchases SET polled_at = polled_at - interval '10 seconds'"
    )


# PaymentIntents


async def test_a_card_buys_credits(shop: Shop) -> None:
    async with webhooks(shop):
        started = await bought(shop, package=LARGE)
        require_shape(
            started,
            {"purchaseId": an_id, "clientSecret": a_text, "amount": 1000, "credits": 1100},
        )
        assert await shop.service.balance("ann") == 0

        assert await shop.pay(started["clientSecret"], PAID) == "succeeded"
        await shop.becomes(started["purchaseId"], "completed")

    assert await shop.service.balance("ann") == 1100
    purchase = await shop.look("ann", started["purchaseId"])
    assert purchase.status == 200
    require_shape(purchase.body, PURCHASE)
    assert purchase.body["id"] == started["purchaseId"]
    assert (purchase.body["userId"], purchase.body["packageId"]) == ("ann", LARGE)
    assert (purchase.body["credits"], purchase.body["priceEuroCents"]) == (1100, 1000)
    assert purchase.body["status"] == "completed"
    assert purchase.body["stripePaymentIntentId"] == intent_of(started["clientSecret"])
    assert purchase.body["stripeCustomerId"].startswith("cus_")
    assert purchase.body["completedAt"] >= purchase.body["createdAt"]
    (row,) = (await shop.service.call("GET", "/credits/transactions", user="ann")).body
    assert (row["type"], row["amount"], row["description"]) == ("purchase", 1100, "1100 credits")


async def test_what_stripe_is_told(shop: Shop) -> None:
    started = await bought(shop)

    made = shop.line.first(CREATE)
    assert (made["amount"], made["currency"]) == (500, "eur")
    assert made["payment_method_types"] == ["card", "sepa_debit"]
    assert made["metadata"]["purchaseId"] == started["purchaseId"]
    assert made["metadata"]["userId"] == "ann"
    customer = shop.line.first("POST /v1/customers")
    assert made["customer"] == customer["id"]
    assert (customer["email"], customer["metadata"]) == ("ann@example.org", {"userId": "ann"})
    # The purchase's id is Stripe's idempotency key.
    assert dict(shop.line.keys)[CREATE] == started["purchaseId"]


async def test_what_is_pending_says_so(shop: Shop) -> None:
    started = await bought(shop)

    purchase = await shop.look("ann", started["purchaseId"])

    require_shape(purchase.body, PURCHASE)
    assert (purchase.body["status"], purchase.body["completedAt"]) == ("pending", None)
    assert await shop.service.balance("ann") == 0


async def test_declined_cards_and_then_one_that_pays(shop: Shop) -> None:
    async with webhooks(shop):
        started = await bought(shop)
        customer = shop.line.first("POST /v1/customers")["id"]
        with pytest.raises(stripe.CardError):
            await shop.stripe.v1.payment_methods.attach_async(
                await shop.method(DECLINED_AT_ATTACHING), {"customer": customer}
            )
        for number in (DECLINED_AT_ATTACHING, DECLINED_AT_CHARGING):
            with pytest.raises(stripe.CardError):
                await shop.pay(started["clientSecret"], number)
            await shop.becomes(started["purchaseId"], "failed")
        assert await shop.service.balance("ann") == 0

        assert await shop.pay(started["clientSecret"], PAID) == "succeeded"
        await shop.becomes(started["purchaseId"], "completed")

    assert await shop.service.balance("ann") == 500


async def test_a_debit_is_credited_when_the_money_is_there(shop: Shop) -> None:
    started = await bought(shop)
    intent = intent_of(started["clientSecret"])
    assert await shop.pay(started["clientSecret"], SEPA) == "processing"

    assert (await shop.hand_on("payment_intent.processing", intent)).status == 200
    pending = await shop.row(started["purchaseId"])
    before = await shop.service.balance("ann")
    assert (await shop.hand_on("payment_intent.succeeded", intent)).status == 200

    assert (pending["status"], before) == ("pending", 0)
    assert (await shop.row(started["purchaseId"]))["status"] == "completed"
    assert await shop.service.balance("ann") == 500


async def test_a_debit_that_the_bank_returns(shop: Shop) -> None:
    started = await bought(shop)
    intent = intent_of(started["clientSecret"])
    await shop.pay(started["clientSecret"], SEPA_FAILS)
    await shop.hand_on("payment_intent.processing", intent)
    await shop.hand_on("payment_intent.payment_failed", intent)

    assert (await shop.row(started["purchaseId"]))["status"] == "failed"
    assert await shop.service.balance("ann") == 0


async def test_a_new_attempt_at_a_failed_purchase_is_pending(shop: Shop) -> None:
    started = await bought(shop)
    intent = intent_of(started["clientSecret"])
    with pytest.raises(stripe.CardError):
        await shop.pay(started["clientSecret"], DECLINED_AT_CHARGING)
    await shop.hand_on("payment_intent.payment_failed", intent)
    # Of one second the failure would be the last word.
    await shop.admin.execute(
        "UPDATE credits.purchases SET stripe_status_at = stripe_status_at - interval '1 second'"
    )
    await shop.pay(started["clientSecret"], SEPA)

    await shop.hand_on("payment_intent.processing", intent)

    assert (await shop.row(started["purchaseId"]))["status"] == "pending"


# Checkout Sessions


async def test_a_checkout_session_is_paid_on_stripes_page(shop: Shop) -> None:
    async with webhooks(shop):
        started = await bought(shop, **URLS)
        require_shape(
            started,
            {"purchaseId": an_id, "checkoutUrl": a_text, "amount": 500, "credits": 500},
        )
        async with shop.api.get(started["checkoutUrl"]) as page:
            assert page.status == 200
            assert "5.00 EUR" in await page.text()

        pressed = await shop.press(started["checkoutUrl"], "card")
        await shop.becomes(started["purchaseId"], "completed")

    assert pressed == (303, URLS["successUrl"])
    assert await shop.service.balance("ann") == 500
    purchase = (await shop.look("ann", started["purchaseId"])).body
    assert purchase["stripePaymentIntentId"].startswith("pi_")
    paid = await shop.stripe.v1.payment_intents.retrieve_async(purchase["stripePaymentIntentId"])
    assert paid.metadata is not None
    assert paid.metadata["purchaseId"] == started["purchaseId"]


async def test_a_declined_card_on_stripes_page_and_then_one_that_pays(shop: Shop) -> None:
    async with webhooks(shop):
        started = await bought(shop, **URLS)
        assert (await shop.press(started["checkoutUrl"], "card_declined"))[0] == 402
        await shop.becomes(started["purchaseId"], "failed")
        assert (await shop.press(started["checkoutUrl"], "card"))[0] == 303
        await shop.becomes(started["purchaseId"], "completed")

    assert await shop.service.balance("ann") == 500


async def test_a_debit_on_stripes_page_is_credited_when_the_money_is_there(shop: Shop) -> None:
    started = await bought(shop, **URLS)
    session = shop.line.first("POST /v1/checkout/sessions")["id"]
    assert (await shop.press(started["checkoutUrl"], "sepa"))[0] == 303

    await shop.hand_on("checkout.session.completed", session)
    pending = await shop.row(started["purchaseId"])
    await shop.hand_on("checkout.session.async_payment_succeeded", session)

    assert pending["status"] == "pending"
    assert (await shop.row(started["purchaseId"]))["status"] == "completed"
    assert await shop.service.balance("ann") == 500


async def test_a_session_that_expires_cancels_its_purchase(shop: Shop) -> None:
    started = await bought(shop, **URLS)
    session = shop.line.first("POST /v1/checkout/sessions")["id"]
    await shop.stripe.v1.checkout.sessions.expire_async(session)

    await shop.hand_on("checkout.session.expired", session)

    assert (await shop.row(started["purchaseId"]))["status"] == "cancelled"


async def test_own_origins_are_taken(shop: Shop) -> None:
    for url in (
        "http://localhost:5173",
        "http://localhost:5173/",
        "HTTP://LOCALHOST:5173/x",
        "https://app.example.org/thanks?session={CHECKOUT_SESSION_ID}",
        "https://app.example.org:443/x",
        "https://credits.example.org/x",
    ):
        answer = await shop.buy("ann", successUrl=url, cancelUrl=url)
        assert answer.status == 200, (url, answer.body)


async def test_foreign_origins_are_refused(shop: Shop) -> None:
    own = "http://localhost:5173/x"
    for url in (
        "https://evil.example/",
        "https://app.example.org.evil.example/",
        "https://evil.example/app.example.org",
        "https://evil.example/?https://app.example.org",
        "https://evil.example#https://app.example.org",
        "https://app.example.org@evil.example/",
        "https://app.example.org:443@evil.example/",
        "https://user@app.example.org/",
        "https://user:pass@app.example.org/",
        "https://:@app.example.org/",
        "https://evil.example\\@app.example.org/",
        "https://app.example.org\\@evil.example/",
        "https:\\\\evil.example/",
        "https://app.example.org/\\evil",
        "http://app.example.org/",
        "https://app.example.org:8443/",
        "https://app.example.org:99999/",
        "http://localhost/",
        "http://localhost:51730/",
        "//app.example.org/",
        "/relative",
        "app.example.org",
        "https:app.example.org",
        "https:///app.example.org",
        "javascript:alert(1)//https://app.example.org",
        "data:text/html,x",
        "https://app.example.org /",
        " https://app.example.org/",
        "https://app.example.org/\n",
        "https://app\t.example.org/",
        "https://[::1",
        "https://app.example.org%2f@evil.example/",
        "https://app\u3002example.org/",
        "\U0001f600",
    ):
        for name, other in (("successUrl", "cancelUrl"), ("cancelUrl", "successUrl")):
            answer = await shop.buy("ann", **{name: url, other: own})
            assert wrong_fields(answer) == [name], url
    both = await shop.buy(
        "ann", successUrl="https://evil.example", cancelUrl="https://evil.example"
    )

    assert wrong_fields(both) == ["cancelUrl", "successUrl"]
    assert shop.line.calls == []
    assert await shop.admin.fetchval("SELECT count(*) FROM credits.purchases") == 0


async def test_one_address_needs_the_other(shop: Shop) -> None:
    for given, missing in (("successUrl", "cancelUrl"), ("cancelUrl", "successUrl")):
        absent: list[dict[str, Any]] = [{}, {missing: None}]
        for rest in absent:
            answer = await shop.buy("ann", **{given: URLS[given], **rest})
            assert wrong_fields(answer) == [missing]


# Replays


@pytest.mark.parametrize("urls", [{}, URLS])
async def test_the_same_key_answers_the_same_purchase(shop: Shop, urls: dict[str, str]) -> None:
    first = await shop.buy("ann", idempotencyKey="key", **urls)

    second = await shop.buy("ann", idempotencyKey="key", **urls)

    assert second.status == first.status == 200
    assert header(second, "Idempotent-Replayed") == "true"
    assert second.body == {**first.body, "message": "Transaction already processed"}
    assert await shop.admin.fetchval("SELECT count(*) FROM credits.purchases") == 1
    assert shop.line.count("POST", "payment_intents") + shop.line.count("POST", "checkout") == 1


async def test_the_same_key_for_another_purchase_is_refused(shop: Shop) -> None:
    await bought(shop, idempotencyKey="key")

    require_error(await shop.buy("ann", LARGE, idempotencyKey="key"), 409, "idempotency_key_reused")
    require_error(
        await shop.buy("ann", idempotencyKey="key", **URLS), 409, "idempotency_key_reused"
    )
    used = await shop.service.call(
        "POST",
        "/credits/use",
        user="ann",
        json={"amount": 1, "appId": "app", "description": "x", "idempotencyKey": "key"},
    )
    require_error(used, 409, "idempotency_key_reused")
    assert (await shop.buy("bob", idempotencyKey="key")).status == 200


async def test_one_key_at_the_same_moment_buys_once(shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.buy("ann", idempotencyKey="key") for _ in range(20)))

    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["purchaseId"] for answer in answers}) == 1
    assert len({answer.body["clientSecret"] for answer in answers}) == 1
    assert await shop.admin.fetchval("SELECT count(*) FROM credits.purchases") == 1


async def test_without_a_key_every_call_is_a_purchase(shop: Shop) -> None:
    first, second = await bought(shop), await bought(shop)

    assert first["purchaseId"] != second["purchaseId"]
    assert first["clientSecret"] != second["clientSecret"]


async def test_what_is_not_sold(shop: Shop) -> None:
    for package in (str(uuid4()), RETIRED):
        require_error(await shop.buy("ann", package), 404, "not_found")

    assert shop.line.calls == []
    assert await shop.admin.fetchval("SELECT count(*) FROM credits.purchases") == 0


async def test_a_price_stays_as_it_was_when_the_purchase_began(shop: Shop) -> None:
    started = await bought(shop, idempotencyKey="key")
    await shop.admin.execute("UPDATE credits.packages SET credits = 1, price_euro_cents = 9999")
    again = await bought(shop, idempotencyKey="key")

    await shop.pay(started["clientSecret"])
    answer = await shop.look("ann", started["purchaseId"])

    assert (again["amount"], again["credits"]) == (500, 500)
    assert answer.body["status"] == "completed"
    assert await shop.service.balance("ann") == 500


# Stripe away


@pytest.mark.parametrize("urls", [{}, URLS])
async def test_stripe_away_fails_a_purchase_and_the_same_key_resumes_it(
    shop: Shop, urls: dict[str, str]
) -> None:
    await shop.line.cut()
    refused = await shop.buy("ann", idempotencyKey="key", **urls)
    (failed,) = (await shop.service.call("GET", "/credits/purchases", user="ann")).body
    await shop.line.connect()

    resumed = await shop.buy("ann", idempotencyKey="key", **urls)

    require_error(refused, 502, "payment_provider_error")
    require_shape(failed, PURCHASE)
    assert (failed["status"], failed["stripePaymentIntentId"]) == ("failed", None)
    assert resumed.status == 200
    assert resumed.body["purchaseId"] == failed["id"]
    assert (await shop.row(failed["id"]))["status"] == "pending"
    if urls:
        await shop.press(resumed.body["checkoutUrl"], "card")
    else:
        await shop.pay(resumed.body["clientSecret"])
    assert (await shop.look("ann", failed["id"])).body["status"] == "completed"


async def test_a_stripe_that_refuses_is_a_502(shop: Shop) -> None:
    for status in (400, 401, 402, 429, 500, 503):
        shop.line.broken[CREATE] = status
        refused = await shop.buy("ann", idempotencyKey=f"key-{status}")
        shop.line.broken.clear()
        resumed = await shop.buy("ann", idempotencyKey=f"key-{status}")

        require_error(refused, 502, "payment_provider_error")
        assert "Something went wrong" not in str(refused.body)
        assert resumed.status == 200

    assert shop.line.count("POST", "customers") == 1
    assert await shop.admin.fetchval("SELECT count(*) FROM credits.purchases") == 6


async def test_an_answer_that_is_lost_makes_no_second_payment(shop: Shop) -> None:
    shop.line.deaf.add(CREATE)
    refused = await shop.buy("ann", idempotencyKey="key")
    shop.line.deaf.clear()

    resumed = await shop.buy("ann", idempotencyKey="key")

    require_error(refused, 502, "payment_provider_error")
    made = {answer["id"] for call, answer in shop.line.answers if call == CREATE}
    assert made == {intent_of(resumed.body["clientSecret"])}


@pytest.mark.parametrize("urls", [{}, URLS])
@pytest.mark.parametrize("where", ["stalled", "held"])
async def test_a_stripe_that_hangs_is_a_502_and_the_same_key_resumes_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, where: str, urls: dict[str, str]
) -> None:
    """Before it has done anything, or when only its answer is missing."""
    call = SESSION if urls else CREATE

    def told() -> list[str]:
        return [answer["id"] for name, answer in shop.line.answers[before:] if name == call]

    # Of another service the time-out is short, and only the call that hangs is made through it.
    await bought(shop)
    before = len(shop.line.answers)
    with monkeypatch.context() as patched:
        hasty = functools.partial(StripeGateway.connected, call_seconds=0.2)
        patched.setattr(StripeGateway, "connected", hasty)
        async with running_service(shop.service.settings) as impatient:
            hangs: dict[str, asyncio.Event] = getattr(shop.line, where)
            hangs[call] = asyncio.Event()
            refused = await dataclasses.replace(shop, service=impatient).buy(
                "ann", idempotencyKey="key", **urls
            )
    require_error(refused, 502, "payment_provider_error")
    failed = await shop.admin.fetchrow("SELECT * FROM credits.purchases WHERE status = 'failed'")
    assert failed is not None

    hung = hangs.pop(call)
    resumed = await shop.buy("ann", idempotencyKey="key", **urls)
    assert resumed.status == 200
    assert resumed.body["purchaseId"] == str(failed["id"])
    # What hung goes on as well, too late for whoever asked. He had asked twice.
    hung.set()
    await until(lambda: len(told()) == 3)

    assert len(set(told())) == 1
    if urls:
        await shop.press(resumed.body["checkoutUrl"], "card")
    else:
        assert {intent_of(resumed.body["clientSecret"])} == set(told())
        await shop.pay(resumed.body["clientSecret"])
    assert (await shop.look("ann", resumed.body["purchaseId"])).body["status"] == "completed"
    assert await shop.service.balance("ann") == 500


async def test_a_customer_that_stripe_forgot_is_replaced(shop: Shop) -> None:
    await bought(shop)
    before = shop.line.first("POST /v1/customers")["id"]
    await shop.stripe.v1.customers.delete_async(before)

    started = await bought(shop)

    linked = await shop.admin.fetchval("SELECT stripe_customer_id FROM credits.stripe_customers")
    assert linked != before
    assert (await shop.row(started["purchaseId"]))["stripe_customer_id"] == linked


async def test_racing_first_purchases_share_one_customer(shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.buy("racer") for _ in range(20)))

    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["purchaseId"] for answer in answers}) == 20
    assert await shop.admin.fetchval("SELECT count(*) FROM credits.stripe_customers") == 1
    used = await shop.admin.fetch("SELECT DISTINCT stripe_customer_id FROM credits.purchases")
    made = {answer["id"] for call, answer in shop.line.answers if call == "POST /v1/customers"}
    assert made == {row["stripe_customer_id"] for row in used}
    assert len(made) == 1


# Looking


async def test_a_lost_webhook_leaves_nobody_waiting(shop: Shop) -> None:
    started = await bought(shop)
    await shop.pay(started["clientSecret"])

    answer = await shop.look("ann", started["purchaseId"])

    assert answer.body["status"] == "completed"
    assert await shop.service.balance("ann") == 500
    # The webhook comes after all, and changes nothing.
    late = await shop.hand_on("payment_intent.succeeded", intent_of(started["clientSecret"]))
    assert (late.status, await shop.service.balance("ann")) == (200, 500)


async def test_a_lost_webhook_of_stripes_page_leaves_nobody_waiting(shop: Shop) -> None:
    started = await bought(shop, **URLS)
    before = await shop.look("ann", started["purchaseId"])
    await shop.press(started["checkoutUrl"], "card")
    await ask_again(shop)

    after = await shop.look("ann", started["purchaseId"])

    assert (before.body["status"], before.body["stripePaymentIntentId"]) == ("pending", None)
    assert after.body["status"] == "completed"
    assert after.body["stripePaymentIntentId"].startswith("pi_")
    assert await shop.service.balance("ann") == 500


async def test_a_failed_purchase_is_looked_up_as_well(shop: Shop) -> None:
    started = await bought(shop)
    with pytest.raises(stripe.CardError):
        await shop.pay(started["clientSecret"], DECLINED_AT_CHARGING)
    failed = await shop.look("ann", started["purchaseId"])
    await shop.pay(started["clientSecret"], PAID)
    await ask_again(shop)

    paid = await shop.look("ann", started["purchaseId"])

    assert (failed.body["status"], paid.body["status"]) == ("failed", "completed")


async def test_an_expired_session_is_seen_by_looking(shop: Shop) -> None:
    started = await bought(shop, **URLS)
    session = shop.line.first("POST /v1/checkout/sessions")["id"]
    await shop.stripe.v1.checkout.sessions.expire_async(session)

    answer = await shop.look("ann", started["purchaseId"])

    assert answer.body["status"] == "cancelled"


async def test_stripe_is_asked_at_most_once_in_ten_seconds(shop: Shop) -> None:
    started = await bought(shop)

    async def asked() -> int:
        before = shop.line.count("GET", "payment_intents")
        answers = await asyncio.gather(
            *(shop.look("ann", started["purchaseId"]) for _ in range(10))
        )
        assert {answer.status for answer in answers} == {200}
        return shop.line.count("GET", "payment_intents") - before

    first = await asked()
    # Well inside the ten seconds, however slow this machine is.
    await shop.admin.execute("UPDATE credits.purchases SET polled_at = now() + interval '1 hour'")
    inside = await asked()
    await shop.admin.execute(
        "UPDATE credits.purchases SET polled_at = now() - interval '10 seconds'"
    )
    behind = await asked()

    assert (first, inside, behind) == (1, 0, 1)


async def test_stripe_is_not_asked_about_what_is_done(shop: Shop) -> None:
    started = await bought(shop)
    await shop.pay(started["clientSecret"])
    await shop.look("ann", started["purchaseId"])
    await ask_again(shop)
    before = len(shop.line.calls)

    assert (await shop.look("ann", started["purchaseId"])).body["status"] == "completed"
    assert len(shop.line.calls) == before


async def test_looking_while_stripe_is_away_shows_what_is_known(shop: Shop) -> None:
    started = await bought(shop)
    await shop.line.cut()

    answer = await shop.look("ann", started["purchaseId"])

    assert (answer.status, answer.body["status"]) == (200, "pending")


@pytest.mark.usefixtures("silent_services")
async def test_a_payment_that_does_not_fit_credits_nothing(shop: Shop) -> None:
    changes: list[dict[str, Any]] = [{"amount_received": 499}, {"currency": "usd"}, {"id": "pi_2"}]
    for change in changes:
        shop.line.change = lambda _call, _answer: None
        started = await bought(shop)
        await shop.pay(started["clientSecret"])
        shop.line.change = lambda _call, answer, change=change: answer.update(change)  # type: ignore[misc]
        answer = await shop.look("ann", started["purchaseId"])
        assert (answer.status, answer.body["status"]) == (200, "pending"), change

    assert await shop.service.balance("ann") == 0


async def test_a_purchase_is_its_buyers_alone(shop: Shop) -> None:
    started = await bought(shop)

    require_error(await shop.look("bob", started["purchaseId"]), 404, "not_found")
    require_error(await shop.look("ann", str(uuid4())), 404, "not_found")
    assert (await shop.service.call("GET", "/credits/purchases", user="bob")).body == []
    assert shop.line.count("GET", "payment_intents") == 0


async def test_purchases_are_listed_newest_first(shop: Shop) -> None:
    ids = [(await bought(shop))["purchaseId"] for _ in range(3)]

    listed = await shop.service.call("GET", "/credits/purchases", user="ann")
    page = await shop.service.call("GET", "/credits/purchases?limit=1&offset=1", user="ann")

    for purchase in listed.body:
        require_shape(purchase, PURCHASE)
    assert [purchase["id"] for purchase in listed.body] == ids[::-1]
    assert [purchase["id"] for purchase in page.body] == [ids[1]]
