"""The page of Cloud Sync, and the banner that every page has while it is paused."""

import pytest
from playwright.async_api import Page, expect

from tests.support.databases import Connection
from tests.support.stripe import Shop
from tests.web.support import Locale, People, Theme, require_fine

BANNER = "Cloud Sync is paused"
PASS = """
UPDATE credits.sync_subscriptions
SET next_charge_at = next_charge_at - interval '1 month',
    paid_until = paid_until - interval '1 month',
    anchor_at = anchor_at - interval '1 month'
WHERE user_id = $1
"""


async def a_month_passes(admin: Connection, user: str) -> None:
    """Time is moved in the database, and what pg_cron calls is called."""
    assert await admin.execute(PASS, user) == "UPDATE 1"
    await admin.execute("CALL credits.run_recurring_charge()")


async def runs_out(people: People, admin: Connection, user: str) -> None:
    """Sync is paused, because a month went by and nothing is left."""
    await people.service.grant(user, 30)
    answer = await people.service.call("POST", "/sync/activate", user=user, json={})
    assert answer.status == 200, answer.body
    await a_month_passes(admin, user)


async def state(page: Page) -> str:
    return await page.get_by_role("region", name="State").inner_text()


async def test_activate_run_out_top_up_activate_again(
    people: People, shop: Shop, admin: Connection
) -> None:
    await people.service.grant("ann", 40)
    page = await people.sign_in("ann")
    await page.goto("/settings/sync")
    stands = page.get_by_role("region", name="State")
    await expect(stands).to_contain_text("Only on this device")
    await expect(stands).to_contain_text("40\u00a0credits")
    await expect(page.get_by_role("radio", name="Monthly")).to_be_checked()
    await expect(page.get_by_text("30\u00a0credits a month")).to_be_visible()
    await page.get_by_role("button", name="Turn on").click()
    await expect(stands.get_by_text("On", exact=True)).to_be_visible()
    await expect(stands).to_contain_text("20\u00a0credits are missing")
    assert await people.service.balance("ann") == 10

    await a_month_passes(admin, "ann")
    await page.reload()
    banner = page.get_by_role("region", name=BANNER)
    await expect(banner).to_be_visible()
    await expect(stands).to_contain_text("Paused")
    await banner.get_by_role("link", name="Top up").click()
    await expect(banner).to_be_visible()
    await page.get_by_role("radio", name="500 credits").check()
    await page.get_by_role("button", name="Buy", exact=True).click()
    await page.get_by_role("button", name="4242").click()
    await expect(page.get_by_text("Thank you!")).to_be_visible()
    await page.get_by_role("link", name="Sync settings").click()
    await page.get_by_role("button", name="Turn on again").click()
    await expect(stands.get_by_text("On", exact=True)).to_be_visible()
    await expect(banner).to_have_count(0)
    assert await people.service.balance("ann") == 480


async def test_too_few_credits_are_told_in_numbers(people: People, shop: Shop) -> None:
    people.allow("answer: 402 POST .*/sync/activate")
    await people.service.grant("ann", 12)
    page = await people.sign_in("ann")
    await page.goto("/settings/sync")
    await page.get_by_role("radio", name="Yearly").check()
    await page.get_by_role("button", name="Turn on").click()
    await expect(
        page.get_by_text("This takes 360\u00a0credits, and you have 12\u00a0credits.")
    ).to_be_visible()
    await expect(page.get_by_role("radio", name="Yearly")).to_be_checked()


async def test_the_interval_changes_from_the_next_charge_on(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 100)
    await people.service.call("POST", "/sync/activate", user="ann", json={})
    page = await people.sign_in("ann")
    await page.goto("/settings/sync")
    await page.get_by_role("radio", name="Quarterly").check()
    await page.get_by_role("button", name="Change the interval").click()
    await expect(page.get_by_text("The new interval holds from")).to_be_visible()
    stands = page.get_by_role("region", name="State")
    await expect(stands).to_contain_text("Quarterly")
    await expect(stands).to_contain_text("Price90\u00a0credits")
    assert await people.service.balance("ann") == 70


async def test_turning_it_off_says_what_it_means_and_can_be_thought_over(
    people: People, shop: Shop
) -> None:
    await people.service.grant("ann", 30)
    await people.service.call("POST", "/sync/activate", user="ann", json={})
    page = await people.sign_in("ann")
    await page.goto("/settings/sync")
    stands = page.get_by_role("region", name="State")
    dialog = page.get_by_role("dialog", name="Turn Cloud Sync off?")
    await stands.get_by_role("button", name="Turn off").click()
    await expect(dialog).to_contain_text("Your data stays on this device.")
    await expect(dialog).to_contain_text("Nothing is refunded.")
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(stands.get_by_text("On", exact=True)).to_be_visible()

    await stands.get_by_role("button", name="Turn off").click()
    await dialog.get_by_role("button", name="Turn off").click()
    await expect(stands).to_contain_text("Only on this device")
    await expect(stands).to_contain_text("Paid until")
    # Inside the paid period, nothing is charged.
    await page.get_by_role("button", name="Turn on").click()
    await expect(stands.get_by_text("On", exact=True)).to_be_visible()
    assert await people.service.balance("ann") == 0


async def test_a_gift_can_only_be_enjoyed(people: People, shop: Shop) -> None:
    answer = await people.service.call(
        "POST", "/admin/sync/ann/gift", user="root", claims={"role": "admin"}, json={}
    )
    assert answer.status == 200
    page = await people.sign_in("ann")
    await page.goto("/settings/sync")
    await expect(page.get_by_role("region", name="State")).to_contain_text("On, as a gift")
    for name in ("Turn on", "Turn off", "Change the interval"):
        await expect(page.get_by_role("button", name=name)).to_have_count(0)


async def test_two_tabs_say_the_same(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 100)
    page = await people.sign_in("ann")
    other = await page.context.new_page()
    for tab in (page, other):
        await tab.goto("/settings/sync")
        await expect(tab.get_by_role("button", name="Turn on")).to_be_visible()
    await page.get_by_role("button", name="Turn on").click()
    await expect(page.get_by_role("button", name="Turn off")).to_be_visible()
    # The other one has not heard of it yet, and is told so; nothing is charged twice.
    people.allow("answer: 400 POST .*/sync/activate")
    await other.get_by_role("button", name="Turn on").click()
    await expect(other.get_by_role("button", name="Turn off")).to_be_visible()
    assert await people.service.balance("ann") == 70


async def test_a_double_click_turns_it_on_once(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 100)
    page = await people.sign_in("ann")
    await page.goto("/settings/sync")
    await page.get_by_role("button", name="Turn on").dblclick()
    await expect(page.get_by_role("button", name="Turn off")).to_be_visible()
    history = await people.service.call("GET", "/credits/transactions?type=usage", user="ann")
    assert [move["amount"] for move in history.body] == [-30]


async def test_no_connection_in_the_middle_and_then_again(people: People, shop: Shop) -> None:
    people.allow("net::ERR_INTERNET_DISCONNECTED")
    await people.service.grant("ann", 100)
    page = await people.sign_in("ann")
    await page.goto("/settings/sync")
    turn_on = page.get_by_role("button", name="Turn on")
    await expect(turn_on).to_be_visible()
    await page.context.set_offline(True)
    await turn_on.click()
    await expect(page.get_by_role("main").get_by_role("alert").filter(has_text="e")).to_be_visible(
        timeout=40_000
    )
    await page.context.set_offline(False)
    await turn_on.click()
    await expect(page.get_by_role("button", name="Turn off")).to_be_visible()
    assert await people.service.balance("ann") == 70


@pytest.mark.parametrize("path", ["/", "/gifts", "/settings/sync"])
async def test_the_banner_is_on_every_page_and_comes_back_after_a_day(
    people: People, shop: Shop, admin: Connection, path: str
) -> None:
    await runs_out(people, admin, "ann")
    page = await people.sign_in("ann")
    await page.goto(path)
    banner = page.get_by_role("region", name=BANNER)
    await expect(banner).to_contain_text("Your credits ran out")
    await expect(banner.get_by_role("link", name="Sync settings")).to_be_visible()
    await banner.get_by_role("button", name="Close for a day").click()
    await expect(banner).to_have_count(0)
    await page.reload()
    await expect(page.locator(".skeleton")).to_have_count(0)
    await expect(banner).to_have_count(0)
    await page.evaluate(
        "for (const key of Object.keys(localStorage))"
        " if (key.startsWith('mana-banner'))"
        " localStorage.setItem(key, String(Number(localStorage.getItem(key)) - 86_400_000))"
    )
    await page.reload()
    await expect(banner).to_be_visible()


@pytest.mark.parametrize(("locale", "theme"), [("en", "light"), ("de", "dark")])
async def test_it_is_accessible_and_fits(
    people: People, shop: Shop, admin: Connection, locale: Locale, theme: Theme
) -> None:
    await runs_out(people, admin, "paused")
    await people.service.grant("active", 30)
    await people.service.call("POST", "/sync/activate", user="active", json={})
    for user in ("nobody", "paused", "active"):
        page = await people.sign_in(user, locale=locale, theme=theme)
        await page.goto("/settings/sync")
        await expect(page.locator(".card")).to_have_count(2)
        if user == "paused":
            await expect(page.locator(".banner")).to_be_visible()
        await require_fine(page)
        await page.context.close()
