"""Giving credits, the lists of gifts, and the page that a gift link opens."""

import datetime
import re
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from service.dev.login import Person
from tests.support.databases import Connection
from tests.support.running import Running
from tests.support.stripe import Shop
from tests.web.support import Locale, People, Theme, require_accessible, require_fine

XSS = "<img src=x onerror=alert(1)><script>alert(2)</script>"
NBSP = "\u00a0"
REDEEM = "**/api/v1/gifts/*/redeem"


async def given(service: Running, user: str = "ann", **wanted: Any) -> dict[str, Any]:
    """A gift of 100 credits, unless it says otherwise, of somebody who had them."""
    body = {"totalCredits": 100, **wanted}
    await service.grant(user, body["totalCredits"], reference=f"for {await made_by(service, user)}")
    answer = await service.call(
        "POST", "/gifts", user=user, claims={"name": user.title()}, json=body
    )
    assert answer.status == 201, answer.body
    gift: dict[str, Any] = answer.body
    return gift


async def made_by(service: Running, user: str) -> int:
    """How many gifts somebody has made."""
    return len((await service.call("GET", "/gifts/me/created", user=user)).body)


async def redeemed(service: Running, gift: dict[str, Any], user: str) -> None:
    answer = await service.call("POST", f"/gifts/{gift['code']}/redeem", user=user, json={})
    assert answer.status == 200, answer.body


async def expired(admin: Connection, gift: dict[str, Any]) -> None:
    await admin.execute(
        "UPDATE gifts.gift_codes SET created_at = created_at - interval '1 year',"
        " expires_at = now() - interval '1 minute' WHERE code = $1",
        gift["code"],
    )


async def open_gifts(people: People, user: str = "ann", **look: Any) -> Page:
    page = await people.sign_in(user, **look)
    await page.goto("/gifts")
    return page


def form_of(page: Page) -> Any:
    return page.get_by_role("region", name="Give credits")


async def fill_in(page: Page, amount: int) -> None:
    await page.get_by_role("spinbutton", name="Credits").fill(str(amount))


# Giving


async def test_a_simple_gift_is_made_and_its_link_copied(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 500)
    page = await open_gifts(people)
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    form = form_of(page)
    await expect(form.get_by_text(f"You have 500{NBSP}credits.")).to_be_visible()
    await fill_in(page, 120)
    await expect(
        form.get_by_text(f"This takes 120{NBSP}credits of your 500{NBSP}credits; 380 will be left.")
    ).to_be_visible()
    assert await people.service.balance("ann") == 500
    await form.get_by_label("Message").fill("For you")
    await form.get_by_role("button", name="Create gift").click()
    await expect(form.get_by_role("heading", name="Your gift is ready")).to_be_focused()

    created = (await people.service.call("GET", "/gifts/me/created", user="ann")).body
    assert [(one["totalCredits"], one["type"], one["message"]) for one in created] == [
        (120, "simple", "For you")
    ]
    gift = created[0]
    assert await people.service.balance("ann") == 380
    assert gift["creatorName"] == "Ann"
    await expect(form.get_by_role("link", name=gift["url"])).to_be_visible()
    await form.get_by_role("button", name="Copy link").click()
    await expect(page.get_by_text("Copied", exact=True)).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == gift["url"]
    await form.get_by_role("button", name="Copy code").click()
    await page.wait_for_function(
        "async (code) => await navigator.clipboard.readText() === code", arg=gift["code"]
    )

    listed = page.get_by_role("region", name="Gifts that you made").get_by_role("row").nth(1)
    for text in ("120", "Whoever has the link", "For you", "Not redeemed yet", gift["code"]):
        await expect(listed).to_contain_text(text)
    await listed.get_by_role("button", name="Copy link").click()
    await page.wait_for_function(
        "async (url) => await navigator.clipboard.readText() === url", arg=gift["url"]
    )

    await form.get_by_role("button", name="Create another gift").click()
    await expect(form.get_by_text(f"You have 380{NBSP}credits.")).to_be_visible()
    await expect(page.get_by_role("spinbutton", name="Credits")).to_have_value("")
    await expect(form.get_by_label("Message")).to_have_value("")
    await expect(form.get_by_label("Can be redeemed for")).to_have_value("90")


async def test_a_personalized_gift_until_a_day(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 500)
    page = await open_gifts(people)
    form = form_of(page)
    await expect(form.get_by_label("The recipient's e-mail address")).to_be_hidden()
    await fill_in(page, 1)
    await form.get_by_role("radio", name="One person").check()
    await form.get_by_label("The recipient's e-mail address").fill("Ben@example.org")
    await form.get_by_label("Can be redeemed for").select_option("Until a date")
    day = datetime.date.today() + datetime.timedelta(days=40)
    await form.get_by_label("Last day").fill(day.isoformat())
    await form.get_by_role("button", name="Create gift").click()
    await expect(form.get_by_text(f"1{NBSP}credit for ben@example.org")).to_be_visible()

    (gift,) = (await people.service.call("GET", "/gifts/me/created", user="ann")).body
    assert (gift["type"], gift["targetEmail"]) == ("personalized", "ben@example.org")
    # The last moment of that day where the reader is, which is Berlin.
    until = datetime.datetime.fromisoformat(gift["expiresAt"]) + datetime.timedelta(
        milliseconds=1, hours=2
    )
    assert until.date() == day + datetime.timedelta(days=1)
    assert until.hour in (0, 1)
    await expect(page.get_by_role("region", name="Gifts that you made")).to_contain_text(
        "ben@example.org"
    )


async def test_each_number_of_days_is_what_it_says(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 500)
    page = await open_gifts(people)
    form = form_of(page)
    for days, label in ((7, "7 days"), (365, "1 year")):
        await fill_in(page, days)
        await form.get_by_label("Can be redeemed for").select_option(label)
        await form.get_by_role("button", name="Create gift").click()
        await form.get_by_role("button", name="Create another gift").click()
        gift = (await people.service.call("GET", "/gifts/me/created", user="ann")).body[0]
        begin, end = (
            datetime.datetime.fromisoformat(gift[name]) for name in ("createdAt", "expiresAt")
        )
        assert (gift["totalCredits"], (end - begin).days) == (days, days)


async def test_what_is_wrong_is_said_beside_it_and_nothing_is_sent(
    people: People, shop: Shop
) -> None:
    await people.service.grant("ann", 20_000)
    page = await open_gifts(people)
    form = form_of(page)
    create = form.get_by_role("button", name="Create gift")
    amount = page.get_by_role("spinbutton", name="Credits")
    for value in ("", "0", "-5", "1.5", "10001"):
        await amount.fill(value)
        await create.click()
        await expect(form.get_by_text("A whole number from 1 to 10,000.")).to_be_visible()
        await expect(amount).to_be_focused()
        await expect(amount).to_have_attribute("aria-invalid", "true")
    await amount.fill("100")
    await expect(form.get_by_text("A whole number from 1 to 10,000.")).to_be_hidden()

    await form.get_by_role("radio", name="One person").check()
    for value in ("", "ben", "b en@example.org"):
        await form.get_by_label("e-mail address").last.fill(value)
        await create.click()
        await expect(form.get_by_text("An e-mail address, such as")).to_be_visible()
    await form.get_by_role("radio", name="Whoever has the link").check()

    # Each of these is one character to the service, and two to a browser.
    await form.get_by_label("Message").fill("🎁" * 500)
    await expect(form.get_by_text("500 of 500 characters")).to_be_visible()
    await expect(form.get_by_text("too many")).to_be_hidden()
    await form.get_by_label("Message").fill("x" * 502)
    await expect(form.get_by_text("2 characters too many.")).to_be_visible()
    await create.click()
    await expect(form.get_by_label("Message")).to_be_focused()
    await form.get_by_label("Message").fill("")

    await form.get_by_label("Can be redeemed for").select_option("Until a date")
    for day in ("", "2020-01-01", "2099-01-01"):
        await form.get_by_label("Last day").fill(day)
        await create.click()
        await expect(form.get_by_text("A day from today on")).to_be_visible()
    assert await made_by(people.service, "ann") == 0


async def test_a_message_as_long_as_may_be(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 100)
    page = await open_gifts(people)
    await fill_in(page, 100)
    await form_of(page).get_by_label("Message").fill("🎁" * 500)
    await form_of(page).get_by_role("button", name="Create gift").click()
    await expect(form_of(page).get_by_text("Your gift is ready")).to_be_visible()
    (gift,) = (await people.service.call("GET", "/gifts/me/created", user="ann")).body
    assert gift["message"] == "🎁" * 500


async def test_too_few_credits_are_said_before_and_after(people: People, shop: Shop) -> None:
    people.allow("answer: 402 POST .*/api/v1/gifts")
    await people.service.grant("ann", 50)
    page = await open_gifts(people)
    form = form_of(page)
    await fill_in(page, 80)
    await expect(
        form.get_by_text(f"You have 50{NBSP}credits; for this gift, 30{NBSP}credits are missing.")
    ).to_be_visible()
    await expect(form.get_by_role("link", name="Top up")).to_have_attribute("href", "/#top-up")
    await form.get_by_role("button", name="Create gift").click()
    await expect(
        form.get_by_text(f"This takes 80{NBSP}credits, and you have 50{NBSP}credits.")
    ).to_be_visible()
    # After topping up elsewhere, the same form goes through.
    await people.service.grant("ann", 50, reference="topped up")
    await form.get_by_role("button", name="Create gift").click()
    await expect(form.get_by_text("Your gift is ready")).to_be_visible()
    assert await people.service.balance("ann") == 20


async def test_a_double_click_makes_one_gift(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 500)
    page = await open_gifts(people)
    await fill_in(page, 100)
    await form_of(page).get_by_role("button", name="Create gift").dblclick()
    await expect(form_of(page).get_by_text("Your gift is ready")).to_be_visible()
    assert await made_by(people.service, "ann") == 1
    assert await people.service.balance("ann") == 400


async def test_offline_in_the_middle_and_again_makes_one_gift(people: People, shop: Shop) -> None:
    people.allow(r"^request: (GET|POST) .* net::ERR_(FAILED|INTERNET_DISCONNECTED)")
    await people.service.grant("ann", 500)
    page = await open_gifts(people)
    form = form_of(page)
    await expect(form.get_by_text(f"You have 500{NBSP}credits.")).to_be_visible()
    reached: list[int] = []

    async def lose(route: Route) -> None:
        if route.request.method == "POST" and not reached:
            # It gets there, and the network goes before the answer comes back.
            reached.append((await route.fetch()).status)
            await page.context.set_offline(True)
            await route.abort()
        else:
            await route.continue_()

    await page.route("**/api/v1/gifts", lose)
    await fill_in(page, 100)
    await form.get_by_label("Message").fill("Once")
    await form.get_by_role("button", name="Create gift").click()
    await expect(form.get_by_text("No answer came, so it is not known")).to_be_visible()
    assert reached == [201]

    await page.context.set_offline(False)
    # Back online, the list shows it by itself.
    await expect(page.get_by_role("region", name="Gifts that you made")).to_contain_text("Once")
    await form.get_by_role("button", name="Create gift").click()
    await expect(form.get_by_text("Your gift is ready")).to_be_visible()
    assert await made_by(people.service, "ann") == 1
    assert await people.service.balance("ann") == 400

    # What has succeeded is over: the same once more is another gift.
    await form.get_by_role("button", name="Create another gift").click()
    await fill_in(page, 100)
    await form.get_by_label("Message").fill("Once")
    await form.get_by_role("button", name="Create gift").click()
    await expect(form.get_by_text("Your gift is ready")).to_be_visible()
    assert await made_by(people.service, "ann") == 2


# The lists


async def test_a_gift_is_taken_back(people: People, shop: Shop) -> None:
    gift = await given(people.service, totalCredits=1234)
    page = await open_gifts(people)
    listed = page.get_by_role("region", name="Gifts that you made")
    await listed.get_by_role("button", name="Take back").click()
    dialog = page.get_by_role("dialog", name="Take this gift back?")
    await expect(dialog).to_contain_text(f"1,234{NBSP}credits come back to your account")
    await require_accessible(page)
    await dialog.get_by_role("button", name="Cancel").click()
    await expect(dialog).to_be_hidden()
    assert await people.service.balance("ann") == 0

    await listed.get_by_role("button", name="Take back").click()
    await dialog.get_by_role("button", name="Take back").dblclick()
    await expect(page.get_by_text(f"1,234{NBSP}credits are back in your account.")).to_be_visible()
    await expect(listed.get_by_text("Cancelled")).to_be_visible()
    await expect(listed.get_by_role("button", name="Take back")).to_have_count(0)
    await expect(form_of(page).get_by_text(f"You have 1,234{NBSP}credits.")).to_be_visible()
    assert await people.service.balance("ann") == 1234
    assert (await people.service.call("GET", f"/gifts/{gift['code']}")).body["status"] == (
        "cancelled"
    )


async def test_a_gift_that_was_just_redeemed_cannot_be_taken_back(
    people: People, shop: Shop
) -> None:
    people.allow("answer: 400 DELETE .*/api/v1/gifts/")
    gift = await given(people.service)
    page = await open_gifts(people)
    listed = page.get_by_role("region", name="Gifts that you made")
    await listed.get_by_role("button", name="Take back").click()
    await redeemed(people.service, gift, "ben")
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Take back").click()
    await expect(dialog).to_contain_text("It has just been redeemed")
    await dialog.get_by_role("button", name="Cancel").click()
    await expect(listed.get_by_text("Redeemed", exact=True)).to_be_visible()
    assert await people.service.balance("ann") == 0


async def test_a_gift_past_its_time_is_shown_as_expired(
    people: People, shop: Shop, admin: Connection
) -> None:
    await expired(admin, await given(people.service))
    page = await open_gifts(people)
    listed = page.get_by_role("region", name="Gifts that you made")
    await expect(listed.get_by_text("Expired")).to_be_visible()
    await expect(listed.get_by_role("button")).to_have_count(0)


async def test_long_lists_go_on(people: People, shop: Shop, admin: Connection) -> None:
    await people.service.grant("ann", 100)
    for number in range(1, 28):
        body = {"totalCredits": 1, "message": f"Number {number}"}
        gift = (await people.service.call("POST", "/gifts", user="ann", json=body)).body
        # Over HTTP nobody redeems that many in a minute.
        await admin.execute(
            "SELECT * FROM gifts.redeem_gift(p_code => $1, p_user_id => 'ben')", gift["code"]
        )
    ann, ben = await open_gifts(people), await open_gifts(people, "ben")
    for page, name in ((ann, "Gifts that you made"), (ben, "Gifts that you received")):
        part = page.get_by_role("region", name=name)
        rows = part.locator("tbody").get_by_role("row")
        await expect(rows).to_have_count(25)
        await part.get_by_role("button", name="Show more").click()
        await expect(rows).to_have_count(27)
        await expect(rows.last).to_contain_text("Number 1")


async def test_lists_that_do_not_come_offer_another_try(people: People, shop: Shop) -> None:
    people.allow("answer: 500 GET .*/gifts/me/created")
    gift = await given(people.service)
    page = await people.sign_in("ann")
    broken = {"statusCode": 500, "error": "internal_error", "message": "Internal server error"}
    await page.route(
        "**/gifts/me/created?*", lambda route: route.fulfill(status=500, json=broken), times=1
    )
    await page.goto("/gifts")
    listed = page.get_by_role("region", name="Gifts that you made")
    await listed.get_by_role("button", name="Try again").click()
    await expect(listed).to_contain_text(gift["code"])


# Redeeming a code


async def test_a_code_is_redeemed_however_it_is_written(people: People, shop: Shop) -> None:
    page = await open_gifts(people, "ben")
    part = page.get_by_role("region", name="Redeem a code")
    received = page.get_by_role("region", name="Gifts that you received").get_by_role("row")
    for number in range(4):
        gift = await given(people.service, totalCredits=10 + number, message=f"Number {number}")
        code = gift["code"]
        typed = [
            code,
            f"  {code[:4].lower()} {code[4:8]} {code[8:].lower()} ",
            f"{code[:5]}-{code[5:]}".lower(),
            gift["url"],
        ]
        await part.get_by_label("Code").fill(typed[number])
        await part.get_by_label("Code").press("Enter")
        await expect(
            part.get_by_role("heading", name=f"You have received {10 + number}{NBSP}credits.")
        ).to_be_focused()
        for text in ("From Ann", f"Number {number}", f"{credits_of(number)}{NBSP}credits"):
            await expect(part).to_contain_text(text)
        await expect(received.nth(1)).to_contain_text("Ann")
        await expect(received.nth(1)).to_contain_text(f"Number {number}")
    assert await people.service.balance("ben") == credits_of(3)


def credits_of(number: int) -> int:
    """What the gifts up to this one are worth."""
    return sum(10 + before for before in range(number + 1))


async def test_a_code_that_cannot_be_redeemed(
    people: People, shop: Shop, admin: Connection
) -> None:
    people.allow("answer: (400|403|404) POST .*/redeem")
    used = await given(people.service)
    await redeemed(people.service, used, "eve")
    back = await given(people.service)
    await people.service.call("DELETE", f"/gifts/{back['id']}", user="ann")
    late = await given(people.service)
    await expired(admin, late)
    other = await given(people.service, targetEmail="eve@example.org")
    page = await open_gifts(people, "ben")
    part = page.get_by_role("region", name="Redeem a code")
    redeem = part.get_by_role("button", name="Redeem")
    for code, said in (
        ("", "The code of the gift."),
        (" - ", "The code of the gift."),
        ("NOSUCHCODE22", "There is no gift with this code."),
        ("../../sync", "There is no gift with this code."),
        (used["code"], "already been redeemed by somebody else"),
        (back["code"], "taken back"),
        (late["code"], "has expired"),
        (other["code"], "meant for another e-mail address"),
    ):
        await part.get_by_label("Code").fill(code)
        await redeem.click()
        await expect(part.get_by_role("alert").filter(has_text=said)).to_be_visible()
    assert await people.service.balance("ben") == 0


# The page of a gift


async def test_a_visitor_sees_all_signs_in_and_redeems(people: People, shop: Shop) -> None:
    gift = await given(people.service, message="Happy birthday!")
    page = await people.visit()
    await page.goto(f"/g/{gift['code']}")
    for text in ("Ann gives you", f"100{NBSP}credits", "Happy birthday!", "Can be redeemed until"):
        await expect(page.get_by_role("main")).to_contain_text(text)
    assert await page.title() == "A gift of credits · Mana Credits"
    stored = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    assert gift["code"] not in await page.evaluate(stored)

    await page.get_by_role("button", name="Sign in to redeem").click()
    await page.wait_for_url(f"{people.service.settings.login_url}?**")
    await page.get_by_role("button", name="Ben Example").click()
    await page.wait_for_url(gift["url"])
    redeem = page.get_by_role("button", name="Redeem", exact=True)
    await expect(redeem).to_be_visible()
    await expect(page.get_by_text("You are signed in as ben@example.org.")).to_be_visible()
    # Coming back redeems nothing by itself.
    assert await people.service.balance("ben") == 0
    await redeem.click()
    await expect(
        page.get_by_role("heading", name=f"You have received 100{NBSP}credits.")
    ).to_be_focused()
    await expect(page.get_by_role("main")).to_contain_text(f"Your balance now100{NBSP}credits")
    assert gift["code"] not in await page.title()
    assert gift["code"] not in await page.evaluate(stored)
    await page.get_by_role("link", name="To your account").click()
    await expect(page.get_by_role("region", name="Balance")).to_contain_text(f"100{NBSP}credits")
    assert await people.service.balance("ben") == 100


async def test_a_double_click_redeems_once(people: People, shop: Shop) -> None:
    gift = await given(people.service)
    page = await people.sign_in("ben")
    sent: list[str] = []
    page.on("request", lambda one: sent.append(one.url) if one.method == "POST" else None)
    await page.goto(f"/g/{gift['code']}")
    await page.get_by_role("button", name="Redeem").dblclick()
    await expect(page.get_by_text("You have received")).to_be_visible()
    assert len(sent) == 1
    assert await people.service.balance("ben") == 100


async def test_a_lost_answer_is_asked_for_again(people: People, shop: Shop) -> None:
    people.allow(r"^request: POST .* net::ERR_(FAILED|INTERNET_DISCONNECTED)")
    gift = await given(people.service)
    page = await people.sign_in("ben")
    reached: list[int] = []

    async def lose(route: Route) -> None:
        if not reached:
            reached.append((await route.fetch()).status)
            await page.context.set_offline(True)
            await route.abort()
        else:
            await route.continue_()

    await page.route(REDEEM, lose)
    await page.goto(f"/g/{gift['code']}")
    await page.get_by_role("button", name="Redeem").click()
    await expect(page.get_by_text("No answer came. Press again")).to_be_visible()
    await page.context.set_offline(False)
    await page.get_by_role("button", name="Redeem").click()
    await expect(page.get_by_text(f"You have received 100{NBSP}credits.")).to_be_visible()
    assert reached == [200]
    assert await people.service.balance("ben") == 100


async def test_a_code_in_small_letters_and_hyphens_opens_the_gift(
    people: People, shop: Shop
) -> None:
    gift = await given(people.service)
    page = await people.visit()
    await page.goto(f"/g/{gift['code'][:6].lower()}-{gift['code'][6:].lower()}")
    await expect(page.get_by_role("main")).to_contain_text("Ann gives you")


async def test_who_has_redeemed_it_sees_it_again(people: People, shop: Shop) -> None:
    gift = await given(people.service, message="Enjoy")
    await redeemed(people.service, gift, "ben")
    page = await people.sign_in("ben")
    await page.goto(f"/g/{gift['code']}")
    await expect(page.get_by_role("heading", name="You have this gift")).to_be_visible()
    for text in (f"100{NBSP}credits went to your account", "Enjoy", "Ann"):
        await expect(page.get_by_role("main")).to_contain_text(text)
    await expect(page.get_by_role("link", name="To your account")).to_be_visible()


@pytest.mark.parametrize("signed_in", [True, False])
async def test_a_gift_that_cannot_be_had(
    people: People, shop: Shop, admin: Connection, signed_in: bool
) -> None:
    people.allow("answer: 404 GET .*/api/v1/gifts/")
    used = await given(people.service, message="Not for you")
    await redeemed(people.service, used, "eve")
    back = await given(people.service)
    await people.service.call("DELETE", f"/gifts/{back['id']}", user="ann")
    late = await given(people.service)
    await expired(admin, late)
    page = await (people.sign_in("ben") if signed_in else people.visit())
    for code, heading in (
        (used["code"], "This gift has been redeemed"),
        (back["code"], "This gift was taken back"),
        (late["code"], "This gift has expired"),
        ("NOSUCHCODE22", "There is no such gift"),
        ("%3Cscript%3E", "There is no such gift"),
        ("%zz", "There is no such gift"),
    ):
        await page.goto(f"/g/{code}")
        main = page.get_by_role("main")
        await expect(main.get_by_role("heading", name=heading)).to_be_visible()
        await expect(main.get_by_role("button", name="Redeem")).to_have_count(0)
        await expect(main).not_to_contain_text("Not for you")
    await page.goto(f"/g/{used['code']}")
    if signed_in:
        await page.get_by_role("link", name="Enter another code").click()
        await expect(page.get_by_role("region", name="Redeem a code")).to_be_visible()
    else:
        # It may have been the visitor who redeemed it.
        await page.get_by_role("main").get_by_role("button", name="Sign in").click()
        await page.wait_for_url(f"{people.service.settings.login_url}?**")


@pytest.mark.parametrize("end", ["redeemed", "cancelled", "expired"])
async def test_a_gift_that_ends_while_it_is_looked_at(
    people: People, shop: Shop, admin: Connection, end: str
) -> None:
    people.allow("answer: 400 POST .*/redeem")
    gift = await given(people.service)
    page = await people.sign_in("ben")
    await page.goto(f"/g/{gift['code']}")
    redeem = page.get_by_role("button", name="Redeem")
    await expect(redeem).to_be_visible()
    match end:
        case "redeemed":
            await redeemed(people.service, gift, "eve")
            heading = "This gift has been redeemed"
        case "cancelled":
            await people.service.call("DELETE", f"/gifts/{gift['id']}", user="ann")
            heading = "This gift was taken back"
        case _:
            await expired(admin, gift)
            heading = "This gift has expired"
    await redeem.click()
    await expect(page.get_by_role("heading", name=heading)).to_be_focused()
    assert await people.service.balance("ben") == 0


async def test_a_gift_for_somebody_else(people: People, shop: Shop) -> None:
    people.allow("answer: 403 POST .*/redeem")
    gift = await given(people.service, targetEmail="ben@example.org")
    page = await people.sign_in("eve")
    await page.goto(f"/g/{gift['code']}")
    await expect(page.get_by_text("This gift is meant for one person")).to_be_visible()
    await page.get_by_role("button", name="Redeem").click()
    refused = page.get_by_role("alert").filter(has_text="another e-mail address than")
    await expect(refused).to_contain_text("eve@example.org")
    await expect(page.get_by_role("main")).not_to_contain_text("ben@example.org")
    await require_accessible(page)

    await page.get_by_role("button", name="Sign in as somebody else").click()
    await page.wait_for_url(f"{people.service.settings.login_url}?**")
    await page.get_by_role("button", name="Ben Example").click()
    await page.wait_for_url(gift["url"])
    await page.get_by_role("button", name="Redeem", exact=True).click()
    await expect(page.get_by_text(f"You have received 100{NBSP}credits.")).to_be_visible()
    assert await people.service.balance("ben") == 100


async def test_an_address_that_is_not_confirmed(people: People, shop: Shop) -> None:
    people.allow("answer: 403 POST .*/redeem")
    gift = await given(people.service, targetEmail="ben@example.org")
    page = await people.sign_in("ben", email_verified=False)
    await page.goto(f"/g/{gift['code']}")
    await page.get_by_role("button", name="Redeem").click()
    await expect(page.get_by_role("alert").filter(has_text="not confirmed yet")).to_be_visible()
    assert await people.service.balance("ben") == 0


async def test_ones_own_gift(people: People, shop: Shop) -> None:
    gift = await given(people.service)
    personal = await given(people.service, targetEmail="ben@example.org")
    page = await people.sign_in("ann")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.goto(f"/g/{personal['code']}")
    await expect(page.get_by_role("heading", name="You made this gift")).to_be_visible()
    await expect(page.get_by_role("button", name="Redeem it yourself")).to_have_count(0)
    await page.goto(f"/g/{gift['code']}")
    await page.get_by_role("button", name="Copy link").click()
    await expect(page.get_by_text("Copied", exact=True)).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == gift["url"]
    await page.get_by_role("button", name="Redeem it yourself").click()
    await expect(page.get_by_text(f"You have received 100{NBSP}credits.")).to_be_visible()
    assert await people.service.balance("ann") == 100

    await redeemed_by_ben(people, personal)
    await page.goto(f"/g/{personal['code']}")
    await expect(page.get_by_text("somebody has redeemed your gift")).to_be_visible()
    await page.get_by_role("link", name="To your gifts").click()
    await expect(page.get_by_role("region", name="Gifts that you made")).to_be_visible()


async def redeemed_by_ben(people: People, gift: dict[str, Any]) -> None:
    answer = await people.service.call(
        "POST",
        f"/gifts/{gift['code']}/redeem",
        user="ben",
        claims={"email": "ben@example.org"},
        json={},
    )
    assert answer.status == 200, answer.body


async def test_too_many_looks_say_how_long_to_wait(
    people: People, shop: Shop, admin: Connection
) -> None:
    people.allow("answer: 429 GET .*/api/v1/gifts/")
    gift = await given(people.service)
    for _ in range(30):
        await people.service.call(
            "GET", f"/gifts/{gift['code']}", headers={"X-Forwarded-For": "127.0.0.1"}
        )
    page = await people.visit()
    await page.goto(f"/g/{gift['code']}")
    limited = page.get_by_role("alert").filter(
        has_text=re.compile(r"Too many attempts\. Try again in \d+ seconds?\.")
    )
    await expect(limited).to_be_visible()
    await admin.execute("DELETE FROM credits.rate_limits")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("main")).to_contain_text("Ann gives you")


async def test_too_many_redemptions_say_how_long_to_wait(
    people: People, shop: Shop, admin: Connection
) -> None:
    people.allow("answer: 429 POST .*/redeem")
    gift = await given(people.service)
    page = await people.sign_in("ben")
    await page.goto(f"/g/{gift['code']}")
    for _ in range(10):
        await people.service.call("POST", "/gifts/NOSUCHCODE22/redeem", user="ben", json={})
    redeem = page.get_by_role("button", name="Redeem")
    await redeem.click()
    await expect(page.get_by_text(re.compile(r"Try again in \d+ seconds?\."))).to_be_visible()
    assert await people.service.balance("ben") == 0
    await admin.execute("DELETE FROM credits.rate_limits")
    await redeem.click()
    await expect(page.get_by_text(f"You have received 100{NBSP}credits.")).to_be_visible()


async def test_a_session_that_has_ended_leads_back(people: People, shop: Shop) -> None:
    people.allow("answer: 401 POST .*/redeem")
    gift = await given(people.service)
    page = await people.sign_in("ben")
    await page.goto(f"/g/{gift['code']}")
    redeem = page.get_by_role("button", name="Redeem")
    await expect(redeem).to_be_visible()
    await page.context.clear_cookies()
    refusal = {"statusCode": 401, "error": "unauthorized", "message": "The token has expired"}
    await page.route(REDEEM, lambda route: route.fulfill(status=401, json=refusal), times=1)
    await redeem.click()
    await page.wait_for_url(f"{people.service.settings.login_url}?**")
    await page.get_by_role("button", name="Ben Example").click()
    await page.wait_for_url(gift["url"])
    await page.get_by_role("button", name="Redeem", exact=True).click()
    await expect(page.get_by_text(f"You have received 100{NBSP}credits.")).to_be_visible()


# What all of it has to be


async def test_text_from_people_stays_text(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 100)
    ann = await open_gifts(people, name=XSS)
    await fill_in(ann, 100)
    await form_of(ann).get_by_label("Message").fill(XSS)
    await form_of(ann).get_by_role("button", name="Create gift").click()
    await expect(ann.get_by_role("region", name="Gifts that you made")).to_contain_text(XSS)
    (gift,) = (await people.service.call("GET", "/gifts/me/created", user="ann")).body

    ben = await people.sign_in("ben")
    await ben.goto(f"/g/{gift['code']}")
    await expect(
        ben.get_by_role("heading", name=f"{gift['creatorName']} gives you")
    ).to_be_visible()
    await expect(ben.locator("blockquote")).to_have_text(XSS)
    await ben.get_by_role("button", name="Redeem").click()
    await expect(ben.get_by_text("You have received")).to_be_visible()
    await expect(ben.get_by_role("main")).to_contain_text(f"From {gift['creatorName']}")
    await ben.goto("/gifts")
    received = ben.get_by_role("region", name="Gifts that you received")
    await expect(received).to_contain_text(gift["creatorName"])
    await expect(received).to_contain_text(XSS)
    for page in (ann, ben):
        assert await page.locator("main img, main script").count() == 0


async def test_in_german(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 2000)
    ann = await open_gifts(people, locale="de")
    form = ann.get_by_role("region", name="Credits verschenken")
    await ann.get_by_role("spinbutton", name="Credits").fill("1500")
    await expect(
        form.get_by_text(f"1.500{NBSP}Credits von deinen 2.000{NBSP}Credits")
    ).to_be_visible()
    await form.get_by_role("button", name="Geschenk erstellen").click()
    await expect(form.get_by_text("Dein Geschenk ist fertig")).to_be_visible()
    listed = ann.get_by_role("region", name="Geschenke von dir")
    await expect(listed.get_by_text("Noch nicht eingelöst")).to_be_visible()
    (gift,) = (await people.service.call("GET", "/gifts/me/created", user="ann")).body

    ben = await people.visit(locale="de")
    await ben.goto(f"/g/{gift['code']}")
    await expect(ben.get_by_role("main")).to_contain_text(f"Ann schenkt dir 1.500{NBSP}Credits")
    await ben.get_by_role("button", name="Anmelden und einlösen").click()
    await ben.get_by_role("button", name="Ben Example").click()
    await ben.wait_for_url(gift["url"])
    await ben.get_by_role("button", name="Einlösen", exact=True).click()
    await expect(ben.get_by_text(f"Du hast 1.500{NBSP}Credits bekommen.")).to_be_visible()
    await expect(ben.get_by_text("Zu deinem Konto")).to_be_visible()


@pytest.mark.parametrize(("locale", "theme"), [("en", "light"), ("de", "dark")])
async def test_the_pages_are_accessible_and_fit(
    people: People, shop: Shop, locale: Locale, theme: Theme
) -> None:
    await people.service.grant("ann", 500)
    active = await given(
        people.service, message="word " * 90 + "W" * 40, targetEmail=f"{'b' * 60}@example.org"
    )
    used = await given(people.service, message="Enjoy")
    await redeemed(people.service, used, "ben")
    await redeemed(people.service, await given(people.service, user="eve"), "ann")
    page = await people.sign_in("ann", locale=locale, theme=theme)
    await page.goto("/gifts")
    await expect(page.get_by_text(active["code"])).to_be_visible()
    await expect(page.get_by_text("Eve", exact=True)).to_be_visible()
    await page.get_by_role("spinbutton").fill("999")
    await page.get_by_role("radio").last.check()
    await page.get_by_role("button", name=re.compile("^(Create gift|Geschenk erstellen)")).click()
    await require_fine(page)

    ben = await people.sign_in("ben", locale=locale, theme=theme)
    visitor = await people.visit(locale=locale, theme=theme)
    for one, gift in (
        (ben, active),
        (ben, used),
        (visitor, active),
        (visitor, used),
        (page, active),
    ):
        await one.goto(f"/g/{gift['code']}")
        await expect(one.get_by_role("heading", level=2)).to_be_visible()
        await require_fine(one)


async def test_the_keyboard_is_enough(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 100)
    page = await open_gifts(people)
    amount = page.get_by_role("spinbutton", name="Credits")
    await amount.focus()
    await page.keyboard.type("40")
    await page.keyboard.press("Tab")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Tab")
    await page.keyboard.type("ben@example.org")
    await page.keyboard.press("Enter")
    await expect(form_of(page).get_by_role("heading", name="Your gift is ready")).to_be_focused()
    (gift,) = (await people.service.call("GET", "/gifts/me/created", user="ann")).body
    assert (gift["totalCredits"], gift["targetEmail"]) == (40, "ben@example.org")


async def test_motion_is_for_those_who_like_it(people: People, shop: Shop) -> None:
    gift = await given(people.service)
    page = await people.sign_in("ben")
    await page.goto(f"/g/{gift['code']}")
    await page.get_by_role("button", name="Redeem").click()
    lid = page.locator(".joy .lid")
    await expect(lid).to_have_css("animation-name", "none")
    await page.emulate_media(reduced_motion="no-preference")
    await expect(lid).to_have_css("animation-name", "open")


async def test_a_shared_link_gives_nothing_away(people: People, shop: Shop) -> None:
    gift = await given(people.service, message="A secret")
    base = people.service.url
    async with people.service.session.get(gift["url"]) as answer:
        html = await answer.text()
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    for secret in (gift["code"], "A secret", "Ann", "100"):
        assert secret not in html
    assert '<meta property="og:title" content="A gift of credits">' in html
    assert '<meta name="robots" content="noindex">' in html
    # With an address in it, the shared link would lead there, and not to the gift.
    assert "og:url" not in html
    image = f"{base}/assets/gift.png"
    assert f'<meta property="og:image" content="{image}">' in html
    async with people.service.session.get(image) as answer:
        body = await answer.read()
        assert answer.headers["Content-Type"] == "image/png"
    assert body.startswith(b"\x89PNG")
    assert int.from_bytes(body[16:20]) == 1200
    assert int.from_bytes(body[20:24]) == 630
    assert len(body) < 32_000

    async with people.service.session.get(f"{base}/gifts") as answer:
        assert f'<meta property="og:url" content="{base}/gifts">' in await answer.text()


async def test_a_page_left_open_while_somebody_else_signs_in(people: People, shop: Shop) -> None:
    """The name on the page is whose account gets the credits."""
    gift = await given(people.service)
    page = await people.sign_in("ben")
    await page.goto(f"/g/{gift['code']}")
    await expect(page.get_by_text("You are signed in as ben@example.org.")).to_be_visible()
    await people.enter(page.context, Person(sub="eve", name="Eve", email="eve@example.org"))
    await page.get_by_role("button", name="Redeem").click()
    await expect(page.get_by_text("You have received")).to_be_visible()
    assert (await people.service.balance("ben"), await people.service.balance("eve")) == (100, 0)
