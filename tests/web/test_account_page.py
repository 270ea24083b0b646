"""The account's page, and a purchase followed to its end."""

import asyncio
import re

import pytest
from playwright.async_api import Page, Request, Route, expect

from tests.support.stripe import Shop
from tests.web.support import Locale, People, Theme, require_fine

XSS = "<img src=x onerror=alert(1)><script>alert(2)</script>"


async def used(people: People, user: str, amount: int, **more: str) -> None:
    body = {"amount": amount, "appId": "chat", "description": "A question", **more}
    answer = await people.service.call("POST", "/credits/use", user=user, json=body)
    assert answer.status == 200, answer.body


async def choose_package(page: Page, name: str) -> None:
    await page.get_by_role("radio", name=name).check()
    await page.get_by_role("button", name="Buy", exact=True).click()
    await page.wait_for_url("**/c/pay/**")


async def test_who_is_not_signed_in_goes_there_and_comes_back(people: People, shop: Shop) -> None:
    page = await people.visit()
    await page.goto("/")
    await page.wait_for_url(f"{people.service.settings.login_url}?**")
    await page.get_by_role("button", name="Ann Example").click()
    await page.wait_for_url(f"{people.service.url}/")
    await expect(page.get_by_role("heading", name="Your credits")).to_be_visible()
    await expect(page.get_by_text("Ann Example")).to_be_visible()

    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_url(f"{people.service.settings.login_url}?**")


async def test_a_session_that_the_browser_keeps_back_does_not_go_round_and_round(
    people: People, shop: Shop
) -> None:
    page = await people.visit()
    await page.goto("/")
    await page.wait_for_url(f"{people.service.settings.login_url}?**")
    await page.goto("/")
    await expect(page.get_by_text("You are signed out.")).to_be_visible()
    await page.get_by_role("main").get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"{people.service.settings.login_url}?**")


async def test_the_balance_and_what_is_held(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 1234)
    await used(people, "ann", 34)
    held = {"userId": "ann", "amount": 200, "reason": "research:deep"}
    answer = await people.service.call(
        "POST", "/internal/credits/reserve", internal=True, json=held
    )
    assert answer.status == 200
    page = await people.sign_in("ann")
    await page.goto("/")
    balance = page.get_by_role("region", name="Balance")
    await expect(balance).to_contain_text("1,000\u00a0credits")
    await expect(balance).to_contain_text("Held200")
    await expect(balance).to_contain_text("Received in all1,234")
    await expect(balance).to_contain_text("Spent in all34")


async def test_a_card_that_works(people: People, shop: Shop) -> None:
    page = await people.sign_in("ann")
    await page.goto("/")
    await choose_package(page, "500 credits")
    await page.get_by_role("button", name="4242").click()
    await page.wait_for_url("**/purchases/*")
    await expect(page.get_by_text("Thank you! The credits are in your account.")).to_be_visible()
    await page.get_by_role("link", name="To your account").click()
    await expect(page.get_by_role("region", name="Balance")).to_contain_text("500\u00a0credits")
    bought = page.get_by_role("region", name="Purchases")
    await expect(bought.get_by_text("Completed")).to_be_visible()
    await expect(bought.get_by_text("€5.00")).to_be_visible()


async def test_a_card_that_is_declined(people: People, shop: Shop) -> None:
    page = await people.sign_in("ann")
    await page.goto("/")
    await choose_package(page, "500 credits")
    people.allow("answer: 402 POST .*/c/pay/")
    await page.get_by_role("button", name="declined").click()
    await expect(page.get_by_text(re.compile("declined", re.IGNORECASE)).first).to_be_visible()
    assert await people.service.balance("ann") == 0


async def test_a_debit_that_takes_days_says_so_and_then_comes(people: People, shop: Shop) -> None:
    page = await people.sign_in("ann")
    await page.goto("/")
    await choose_package(page, "500 credits")
    await page.get_by_role("button", name="DE89").click()
    await page.wait_for_url("**/purchases/*")
    await expect(page.get_by_text("takes a few days")).to_be_visible()
    await expect(page.get_by_text("Bank debit under way")).to_be_visible()
    assert await people.service.balance("ann") == 0
    purchase = await people.service.call("GET", "/credits/purchases", user="ann")
    assert purchase.body[0]["metadata"] == {"payment": "processing"}
    await shop.config(f"debits/{purchase.body[0]['stripePaymentIntentId']}")
    await shop.becomes(purchase.body[0]["id"], "completed")
    await page.reload()
    await expect(page.get_by_text("Thank you! The credits are in your account.")).to_be_visible()
    assert await people.service.balance("ann") == 500


async def test_a_page_that_waits_sees_the_end_by_itself(people: People, shop: Shop) -> None:
    begun = await shop.buy("ann")
    page = await people.sign_in("ann")
    await page.goto(f"/purchases/{begun.body['purchaseId']}")
    await expect(page.get_by_text("We are waiting for your payment.")).to_be_visible()
    await shop.pay(begun.body["clientSecret"])
    await expect(page.get_by_text("Thank you! The credits are in your account.")).to_be_visible(
        timeout=60_000
    )


async def test_a_strangers_purchase_is_not_shown(people: People, shop: Shop) -> None:
    begun = await shop.buy("ann")
    page = await people.sign_in("ben")
    people.allow(r"answer: 404 GET .*/api/v1/credits/purchase/")
    for purchase_id in (begun.body["purchaseId"], "nonsense", "%3Cscript%3E"):
        await page.goto(f"/purchases/{purchase_id}")
        await expect(page.get_by_text("There is no such purchase in your account.")).to_be_visible()
        await expect(page.get_by_role("link", name="To your account")).to_be_visible()


async def test_the_back_button_from_stripes_page_goes_on_with_the_same_purchase(
    people: People, shop: Shop
) -> None:
    page = await people.sign_in("ann")
    await page.goto("/")
    await choose_package(page, "500 credits")
    checkout = page.url
    await page.go_back()
    await expect(page.get_by_role("button", name="Buy", exact=True)).to_be_enabled()
    await choose_package(page, "500 credits")
    assert page.url == checkout
    # Cancelling leads back as well, and does not end the session either.
    await page.get_by_role("button", name="Cancel and go back").click()
    await page.wait_for_url("**/#top-up")
    await choose_package(page, "500 credits")
    assert page.url == checkout
    await page.get_by_role("button", name="4242").click()
    await expect(page.get_by_text("Thank you! The credits are in your account.")).to_be_visible()
    # What is paid is paid: the next one is another purchase.
    await page.get_by_role("link", name="To your account").click()
    await choose_package(page, "500 credits")
    assert page.url != checkout
    purchases = await people.service.call("GET", "/credits/purchases", user="ann")
    assert sorted(one["status"] for one in purchases.body) == ["completed", "pending"]


async def test_a_double_click_buys_once(people: People, shop: Shop) -> None:
    page = await people.sign_in("ann")
    await page.goto("/")
    await page.get_by_role("button", name="Buy", exact=True).dblclick()
    await page.wait_for_url("**/c/pay/**")
    purchases = await people.service.call("GET", "/credits/purchases", user="ann")
    assert len(purchases.body) == 1


async def test_a_purchase_whose_answer_is_lost_is_begun_once(people: People, shop: Shop) -> None:
    people.allow(r"request: POST .*/credits/purchase net::ERR_FAILED|Failed to fetch")
    page = await people.sign_in("ann")
    await page.goto("/")
    dropped: list[int] = []

    async def lose(route: Route) -> None:
        if route.request.method == "POST" and len(dropped) < 2:
            dropped.append((await route.fetch()).status)
            await route.abort()
        else:
            await route.continue_()

    await page.route("**/api/v1/credits/purchase", lose)
    await choose_package(page, "500 credits")
    assert dropped == [200, 200]
    purchases = await people.service.call("GET", "/credits/purchases", user="ann")
    assert len(purchases.body) == 1


async def test_a_shop_without_stripe_says_so(people: People, shop: Shop) -> None:
    people.allow("answer: 503 POST .*/credits/purchase")
    page = await people.sign_in("ann")
    await page.goto("/")
    refusal = {"statusCode": 503, "error": "stripe_not_configured", "message": "x"}
    await page.route(
        "**/api/v1/credits/purchase", lambda route: route.fulfill(status=503, json=refusal)
    )
    await page.get_by_role("button", name="Buy", exact=True).click()
    await expect(page.get_by_text("Buying is switched off here.")).to_be_visible()
    await expect(page.get_by_role("button", name="Buy", exact=True)).to_be_enabled()


async def test_the_history_goes_on_to_its_end_and_can_be_filtered(
    people: People, shop: Shop
) -> None:
    await people.service.grant("ann", 1000)
    for number in range(1, 61):
        await used(people, "ann", number % 9 + 1, description=f"Question {number}")
    await used(people, "ann", 5, appId="notes", description="A note")
    page = await people.sign_in("ann")
    await page.goto("/")
    history = page.get_by_role("region", name="History")
    rows = history.locator("tbody").get_by_role("row")
    await expect(rows).to_have_count(25)
    await expect(rows.first).to_contain_text("A note")
    for count in (50, 62):
        await history.get_by_role("button", name="Show more").click()
        await expect(rows).to_have_count(count)
    await expect(rows.last).to_contain_text("+1,000")
    await expect(history.get_by_role("button", name="Show more")).to_have_count(0)
    texts = await rows.all_inner_texts()
    assert len(set(texts)) == len(texts)

    await history.get_by_label("App").fill("notes")
    await history.get_by_role("button", name="Filter").click()
    await expect(rows).to_have_count(1)
    await history.get_by_label("App").fill("")
    await history.get_by_label("Kind").select_option("Credited")
    await expect(rows).to_have_count(1)
    await history.get_by_label("App").fill("nothing")
    await history.get_by_role("button", name="Filter").click()
    await expect(history.get_by_text("There is nothing here yet.")).to_be_visible()


async def test_usage_is_drawn_and_can_be_read(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 1000)
    for number in range(7):
        await used(people, "ann", 10 + number, appId=f"app{number}")
    page = await people.sign_in("ann")
    await page.goto("/")
    usage = page.get_by_role("region", name="Usage")
    drawing = usage.get_by_role("img", name="Used in the last 30 days: 91\u00a0credits")
    await expect(drawing.locator("rect")).to_have_count(7)
    await expect(usage.locator(".legend li")).to_have_text(
        ["app6", "app5", "app4", "app3", "Other apps"]
    )
    await usage.get_by_text("As a table").click()
    await expect(usage.locator("tbody").get_by_role("row")).to_have_count(7)
    await usage.get_by_label("Period").select_option("7 days")
    await expect(
        usage.get_by_role("img", name="Used in the last 7 days: 91\u00a0credits")
    ).to_be_visible()


async def test_words_of_others_are_words(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 100)
    await used(people, "ann", 1, description=XSS, appId="<b>app</b>")
    page = await people.sign_in("ann", name=f"Ann {XSS}")
    await page.goto("/")
    await expect(page.get_by_role("region", name="History").get_by_text(XSS)).to_be_visible()
    await expect(page.get_by_role("banner").get_by_text(XSS)).to_be_visible()
    assert await page.locator("img, main script, main b").count() == 0


async def test_what_cannot_be_loaded_can_be_tried_again(people: People, shop: Shop) -> None:
    people.allow(r"request: GET .*/credits/balance net::ERR_FAILED")
    await people.service.grant("ann", 70)
    page = await people.sign_in("ann")
    await page.route("**/api/v1/credits/balance", lambda route: route.abort())
    await page.goto("/")
    balance = page.get_by_role("region", name="Balance")
    await expect(balance.get_by_text("There is no connection to the service.")).to_be_visible(
        timeout=30_000
    )
    await page.unroute("**/api/v1/credits/balance")
    await balance.get_by_role("button", name="Try again").click()
    await expect(balance).to_contain_text("70\u00a0credits")


async def test_the_auth_service_away_is_no_sign_out(people: People, shop: Shop) -> None:
    people.allow(r"answer: 503 GET .*/api/auth/token")
    page = await people.sign_in("ann")
    await page.route("**/api/auth/token", lambda route: route.fulfill(status=503))
    await page.goto("/")
    await expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("went wrong")
    await page.unroute("**/api/auth/token")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("region", name="Balance")).to_contain_text("0\u00a0credits")


async def test_the_language_and_the_theme_can_be_chosen(people: People, shop: Shop) -> None:
    page = await people.sign_in("ann")
    await page.goto("/")
    await page.get_by_role("button", name="Deutsch").click()
    await expect(page.get_by_role("heading", name="Deine Credits")).to_be_visible()
    await expect(page.locator("html")).to_have_attribute("lang", "de")
    await page.get_by_label("Darstellung").select_option("Dunkel")
    await page.reload()
    await expect(page.get_by_role("heading", name="Deine Credits")).to_be_visible()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    kept = await page.evaluate("Object.keys(localStorage).sort()")
    assert kept == ["mana-language", "mana-theme"]


async def test_no_token_is_kept_or_sent_in_an_address(people: People, shop: Shop) -> None:
    page = await people.sign_in("ann")
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    async with page.expect_request("**/api/v1/credits/balance") as asked:
        await page.goto("/")
    token = (await (await asked.value).header_value("Authorization") or "").removeprefix("Bearer ")
    assert token.count(".") == 2
    await expect(page.get_by_role("region", name="Balance")).to_contain_text("0\u00a0credits")
    kept = await page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert token not in kept
    assert not [address for address in addresses if token in address]


async def test_the_first_page_is_light(people: People, shop: Shop) -> None:
    page = await people.sign_in("ann")
    sizes: list[int] = []

    async def weigh(request: Request) -> None:
        told = await request.sizes()
        sizes.append(told["responseHeadersSize"] + told["responseBodySize"])

    waiting: list[asyncio.Task[None]] = []
    page.on(
        "requestfinished", lambda request: waiting.append(asyncio.ensure_future(weigh(request)))
    )
    await page.goto("/", wait_until="networkidle")
    await asyncio.gather(*waiting)
    assert len(sizes) > 10
    assert sum(sizes) < 100_000


@pytest.mark.parametrize(("locale", "theme"), [("en", "light"), ("de", "dark")])
async def test_the_pages_are_accessible_and_fit(
    people: People, shop: Shop, locale: Locale, theme: Theme
) -> None:
    await shop.paid("ann")
    await people.service.grant("ann", 100)
    await used(people, "ann", 60, description="W" * 300)
    bought = await shop.paid("ann")
    page = await people.sign_in("ann", locale=locale, theme=theme)
    for path in ("/", f"/purchases/{bought['id']}"):
        await page.goto(path)
        await expect(page.locator(".skeleton")).to_have_count(0)
        await require_fine(page)
