"""What the other tests of this folder rely on: people get in, and nothing goes wrong unseen."""

import dataclasses
import re
from typing import Any

import jwt
import pytest
from playwright.async_api import Page, expect

from tests.support.stripe import SMALL, Shop
from tests.support.waiting import until
from tests.web.support import Locale, People, Theme, require_accessible, require_fine

BARE = "/health"
"""A document of the service's origin that has no policy of its own."""
FETCH_TOKEN = """
async (issuer) => {
  const answer = await fetch(`${issuer}/api/auth/token`, { credentials: "include" });
  return { status: answer.status, body: await answer.json() };
}
"""
FETCH_BALANCE = """
async (token) => {
  const headers = { Authorization: `Bearer ${token}` };
  const answer = await fetch("/api/v1/credits/balance", { headers });
  return { status: answer.status, body: await answer.json() };
}
"""


async def fetch_token(page: Page, people: People) -> dict[str, Any]:
    said: dict[str, Any] = await page.evaluate(FETCH_TOKEN, people.issuer_url)
    return said


def login_of(people: People, back_to: str) -> str:
    return f"{people.service.settings.login_url}?redirectTo={people.service.url}{back_to}"


async def test_who_signs_in_on_the_page_comes_back_with_a_session(people: People) -> None:
    page = await people.visit()
    await page.goto(login_of(people, f"{BARE}?from=login"))
    await page.get_by_role("button", name="Ann Example").click()
    await page.wait_for_url(f"{people.service.url}{BARE}?from=login")

    said = await fetch_token(page, people)
    assert said["status"] == 200
    claims = jwt.decode(said["body"]["token"], options={"verify_signature": False})
    assert (claims["sub"], claims["email"], claims["role"]) == ("ann", "ann@example.org", "user")
    assert await page.evaluate("document.cookie") == ""

    await people.service.grant("ann", 70)
    balance = await page.evaluate(FETCH_BALANCE, said["body"]["token"])
    assert (balance["status"], balance["body"]["balance"]) == (200, 70)


async def test_anybody_can_be_entered(people: People) -> None:
    page = await people.visit(locale="de")
    await page.goto(login_of(people, BARE))
    form = page.get_by_role("region", name="Jemand anderes")
    await form.get_by_label("Benutzer-ID").fill("zoë")
    await form.get_by_label("Name").fill("<b>Zoë</b>")
    await form.get_by_label("Rolle").select_option("Admin")
    await form.get_by_label("bestätigt").uncheck()
    await form.get_by_role("button", name="Anmelden").click()
    await page.wait_for_url(people.service.url + BARE)

    claims = jwt.decode(
        (await fetch_token(page, people))["body"]["token"], options={"verify_signature": False}
    )
    assert claims["sub"] == "zoë"
    assert claims["role"] == "admin"
    assert claims["email_verified"] is False
    assert "email" not in claims

    await page.goto(login_of(people, "/docs"))
    await expect(page.get_by_text("Gerade angemeldet: <b>Zoë</b>")).to_be_visible()


async def test_each_person_has_a_browser_of_their_own(people: People) -> None:
    ann = await people.sign_in("ann")
    stranger = await people.visit()
    await ann.goto(BARE)
    await stranger.goto(BARE)
    assert (await fetch_token(ann, people))["status"] == 200
    assert await fetch_token(stranger, people) == {
        "status": 401,
        "body": {"message": "Not signed in"},
    }

    signed_out = await ann.evaluate(
        "async (issuer) => (await fetch(`${issuer}/api/auth/sign-out`,"
        " { method: 'POST', credentials: 'include' })).status",
        people.issuer_url,
    )
    assert signed_out == 200
    assert (await fetch_token(ann, people))["status"] == 401


async def test_a_purchase_is_paid_in_the_browser(people: People, shop: Shop) -> None:
    page = await people.sign_in("ann")
    begun = await shop.buy(
        "ann",
        successUrl=f"{people.service.url}/docs?paid",
        cancelUrl=f"{people.service.url}/docs?cancelled",
    )
    await page.goto(begun.body["checkoutUrl"])
    await page.get_by_role("button", name="4242").click()
    await page.wait_for_url("**/docs?paid")
    await shop.becomes(begun.body["purchaseId"], "completed")
    assert await people.service.balance("ann") == 500
    assert (await shop.row(begun.body["purchaseId"]))["package_id"].hex == SMALL.replace("-", "")


@pytest.mark.parametrize(("locale", "theme"), [("en", "light"), ("de", "dark")])
async def test_the_login_page_is_accessible_and_fits(
    people: People, locale: Locale, theme: Theme
) -> None:
    page = await people.sign_in("ann", locale=locale, theme=theme)
    await page.goto(login_of(people, "/docs"))
    await expect(page.locator("html")).to_have_attribute("lang", locale)
    await require_fine(page)


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_the_page_of_the_contract_is_accessible(people: People, theme: Theme) -> None:
    page = await people.visit(theme=theme)
    await page.goto("/docs")
    await expect(page.locator("details").first).to_be_visible()
    await require_accessible(page)


async def test_what_is_not_accessible_is_told(people: People) -> None:
    page = await people.visit()
    await page.goto(login_of(people, "/docs"))
    await page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    with pytest.raises(AssertionError, match=r"button-name \(critical\)"):
        await require_accessible(page)


async def test_what_sticks_out_is_told(people: People) -> None:
    page = await people.visit()
    await page.goto(login_of(people, "/docs"))
    await page.evaluate("document.querySelector('main').style.width = '400px'")
    with pytest.raises(AssertionError, match="too wide for 360 pixels"):
        await require_fine(page)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("console.error('oh dear')", "console: error: oh dear"),
        ("setTimeout(() => { throw new Error('oh no') })", "script: Error: oh no"),
        ("setTimeout(() => Promise.reject(new Error('oh no')))", "script: Error: oh no"),
        ("fetch('/nowhere')", r"answer: 404 GET http://127\.0\.0\.1:\d+/nowhere"),
        (
            "document.body.append(document.createElement('iframe')); "
            "document.querySelector('iframe').src = '/docs'",
            "policy: frame-src blocked",
        ),
        ("fetch('https://example.org/').catch(() => null)", "policy: connect-src blocked"),
        ("location.assign('https://example.org/')", "stranger: GET https://example.org/"),
        ("location.assign('http://127.0.0.1:1/')", "request: GET .* net::ERR_UNSAFE_PORT"),
    ],
)
async def test_what_goes_wrong_is_seen(people: People, script: str, problem: str) -> None:
    page = await people.visit()
    await page.goto("/docs")
    await page.evaluate(script)
    await until(lambda: any(re.match(problem, str(one)) for one in people.problems))
    with pytest.raises(AssertionError, match=problem):
        await people.require_no_problems()

    def is_held_against_it() -> bool:
        return any(re.match(problem, text) for text in people.unexpected())

    people.allow("of another kind")
    assert is_held_against_it()
    people.allow(f"^{problem}")
    assert not is_held_against_it()
    # Some of them are told twice, now or later, as the browser has words of its own for them.
    people.allow(".")


async def test_the_service_is_the_one_that_browsers_know(people: People) -> None:
    settings = people.service.settings
    assert settings.base_url == people.service.url
    assert settings.login_url == f"{settings.auth_url}/login"
    assert dataclasses.asdict(settings)["stripe"] is not None
