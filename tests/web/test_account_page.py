"""The account's page, and a purchase followed to its end."""

import re

import pytest
from playwright.async_api import Page, expect

from tests.support.stripe import DECLINED, SEPA, SMALL, Shop
from tests.support.waiting import until
from tests.web.support import WIDTHS, Locale, People, Theme, require_accessible

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
    await page.get_by_role("button", name="declined").click()
    await expect(page.get_by_text(re.compile("declined", re.I)).first).to_be_visible()
    assert await people.service.balance("ann") == 0


async def test_a_debit_that_takes_days_says_so_and_then_comes(people: People, shop: Shop) -> None:
    page = await people.sign_in("ann")
    await page.goto("/")
    await choose_package(page, "500 credits")
    await page.get_by_role("button", name="SEPA").first.click()
    await page.wait_for_url("**/purchases/*")
    await expect(page.get_by_text("takes a few days")).to_be_visible()
    await expect(page.get_by_text("Bank debit under way")).to_be_visible()
    assert await people.service.balance("ann") == 0
