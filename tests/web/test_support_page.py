"""The pages for support: the overview, and one user with what is done to him."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Dialog, Locator, Page, Route, expect

from tests.support.databases import Connection
from tests.support.stripe import Shop, intent, made_up
from tests.web.support import Locale, People, Theme, require_fine

XSS = "<img src=x onerror=alert(1)><script>alert(2)</script>"
NBSP = "\u00a0"


async def support(people: People, **look: Any) -> Page:
    """Sue of support in front of an empty page."""
    return await people.sign_in("sue", name="Sue Support", role="admin", **look)


async def used(people: People, user: str, amount: int, description: str = "A question") -> str:
    body = {"amount": amount, "appId": "chat", "description": description}
    answer = await people.service.call("POST", "/credits/use", user=user, json=body)
    assert answer.status == 200, answer.body
    return str(answer.body["transaction"]["id"])


async def given(people: People, user: str, credits: int, **more: Any) -> Mapping[str, Any]:
    """A gift that a user made."""
    answer = await people.service.call(
        "POST",
        "/gifts",
        user=user,
        claims={"name": user.title(), "email": f"{user}@example.org"},
        json={"totalCredits": credits, **more},
    )
    assert answer.status == 201, answer.body
    found: Mapping[str, Any] = answer.body
    return found


async def undelivered(admin: Connection, user: str, state: str, error: str | None = None) -> None:
    """A notice to a user that was not delivered."""
    await admin.execute(
        "INSERT INTO credits.notices (user_id, id, kind, state, data, attempts, last_error,"
        " created_at) VALUES ($1, gen_random_uuid(), 'sync_paused', $2::credits.notice_state,"
        " '{}', 8, $3, now())",
        user,
        state,
        error,
    )


async def ran(
    admin: Connection, job: str, *, did: Any = None, error: str | None = None, ended: bool = True
) -> None:
    """A run of a job a moment ago."""
    await admin.execute(
        "INSERT INTO credits.job_runs (id, job, started_at, ended_at, did, error) VALUES"
        " (gen_random_uuid(), $1, now(), CASE WHEN $4 THEN now() END, $2, $3)",
        job,
        did,
        error,
        ended,
    )


async def failed_event(shop: Shop) -> tuple[dict[str, Any], str]:
    """A purchase and the id of an event about its payment that could not be applied."""
    begun = await shop.buy("ann")
    purchase = await shop.row(begun.body["purchaseId"])
    event = made_up("payment_intent.succeeded", intent(purchase, amount_received=500))
    await shop.admin.execute("UPDATE credits.purchases SET price_euro_cents = 400")
    assert (await shop.tell(event)).status == 200
    assert (await shop.event(event["id"]))["state"] == "failed"
    return purchase, str(event["id"])


def part(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def rows(card: Locator) -> Locator:
    return card.locator("tbody").get_by_role("row")


async def open_dialog(page: Page, button: Locator) -> Locator:
    await button.click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_be_visible()
    return dialog


async def fill_in(dialog: Locator, *, reason: str, credits: str | None = None) -> None:
    if credits is not None:
        await dialog.get_by_label("Credits").fill(credits)
    await dialog.get_by_label("Reason").fill(reason)


# Who may see it


async def test_who_is_no_administrator_is_told_so_kindly(people: People) -> None:
    page = await people.sign_in("ann")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in ("/admin", "/admin/users/ben"):
        await page.goto(path)
        await expect(page.get_by_text("This page is for the people at support.")).to_be_visible()
        await expect(page.get_by_role("navigation").get_by_text("Support")).to_have_count(0)
    assert not [url for url in asked if "/api/v1/admin" in url]
    await page.get_by_role("link", name="To your account").click()
    await expect(page.get_by_role("heading", name="Your credits")).to_be_visible()


async def test_who_is_not_signed_in_goes_there_and_comes_back(people: People) -> None:
    page = await people.visit()
    await page.goto("/admin/users/ann")
    await page.wait_for_url(f"{people.service.settings.login_url}?**")
    form = page.get_by_role("region", name="Somebody else")
    await form.get_by_label("User id").fill("sue")
    await form.get_by_label("Role").select_option("Admin")
    await form.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"{people.service.url}/admin/users/ann")
    await expect(page.get_by_role("heading", name="ann", exact=True)).to_be_visible()
    await page.get_by_role("link", name="All of support").click()
    await expect(part(page, "Find a user")).to_be_visible()


# One user


async def test_credits_are_granted_with_a_reason(people: People) -> None:
    page = await support(people)
    await page.goto("/admin/users/ann")
    await expect(part(page, "Balance")).to_contain_text("Nobody of this id has been seen yet.")
    dialog = await open_dialog(page, page.get_by_role("button", name="Grant credits"))

    await dialog.get_by_label("Credits").fill("1.5")
    await dialog.get_by_role("button", name="Grant credits").click()
    await expect(dialog.get_by_text("A whole number from 1 to 1,000,000,000.")).to_be_visible()
    await expect(dialog.get_by_label("Credits")).to_be_focused()
    await dialog.get_by_label("Credits").fill("50")
    await dialog.get_by_role("button", name="Grant credits").click()
    await expect(dialog.get_by_text("Say why.")).to_be_visible()
    assert await people.service.balance("ann") == 0

    await dialog.get_by_label("Reason").fill("The export failed, ticket 4711")
    await dialog.get_by_role("button", name="Grant credits").click()
    await expect(dialog).to_have_count(0)
    await expect(page.get_by_role("status").get_by_text("Granted: 50")).to_be_visible()
    await expect(part(page, "Balance")).to_contain_text(f"50{NBSP}credits")
    done = rows(part(page, "What support has done"))
    await expect(done).to_have_count(1)
    for text in ("Credits granted", f"50{NBSP}credits", "The export failed, ticket 4711"):
        await expect(done).to_contain_text(text)
    await expect(done).to_contain_text("Sue Support")
    await expect(done).to_contain_text("sue")
    ledger = rows(part(page, "Ledger"))
    await expect(ledger).to_have_count(1)
    await expect(ledger).to_contain_text("+50")

    assert await people.service.balance("ann") == 50
    seen = await people.service.call("GET", "/credits/transactions", user="ann")
    assert "4711" not in str(seen.body)


async def test_a_debit_is_refunded_up_to_what_is_left_of_it(people: People) -> None:
    people.allow("answer: 400 POST .*/admin/users/ann/refund")
    await people.service.grant("ann", 100)
    await used(people, "ann", 25, "A picture")
    page = await support(people)
    await page.goto("/admin/users/ann")
    button = page.get_by_role("button", name=f"Refund A picture, 25{NBSP}credits")
    await expect(page.get_by_role("button", name="Refund")).to_have_count(1)

    dialog = await open_dialog(page, button)
    await expect(dialog).to_contain_text(f"A picture: 25{NBSP}credits were debited.")
    await fill_in(dialog, credits="10", reason="Half of it was grey")
    await dialog.get_by_role("button", name="Refund").click()
    await expect(page.get_by_role("status").get_by_text("Refunded: 10")).to_be_visible()
    await expect(part(page, "Balance")).to_contain_text(f"85{NBSP}credits")

    dialog = await open_dialog(page, button)
    await fill_in(dialog, credits="16", reason="The rest was grey too")
    await dialog.get_by_role("button", name="Refund").click()
    await expect(
        dialog.get_by_text(f"Only 15{NBSP}credits are left of this debit.")
    ).to_be_visible()
    await expect(dialog.get_by_label("Credits")).to_be_focused()
    assert await people.service.balance("ann") == 85
    # With nothing said, all that is left.
    await dialog.get_by_label("Credits").fill("")
    await dialog.get_by_role("button", name="Refund").click()
    await expect(page.get_by_role("status").get_by_text("Refunded: 15")).to_be_visible()
    await expect(part(page, "Balance")).to_contain_text(f"100{NBSP}credits")

    dialog = await open_dialog(page, button)
    await fill_in(dialog, reason="Once more")
    await dialog.get_by_role("button", name="Refund").click()
    await expect(dialog.get_by_text("Nothing is left of this debit")).to_be_visible()
    await dialog.get_by_role("button", name="Cancel").click()
    await expect(dialog).to_have_count(0)
    assert await people.service.balance("ann") == 100

    done = rows(part(page, "What support has done"))
    await expect(done).to_have_count(2)
    await expect(done.first).to_contain_text("The rest was grey too")
    await expect(done.last).to_contain_text("Half of it was grey")
    ledger = rows(part(page, "Ledger"))
    await expect(ledger).to_have_count(4)
    await expect(ledger.first).to_contain_text("+15")


async def test_cloud_sync_is_given_and_the_gift_is_ended(people: People) -> None:
    page = await support(people)
    await page.goto("/admin/users/ann")
    sync = part(page, "Cloud Sync")
    await expect(sync.get_by_text("Off", exact=True)).to_be_visible()
    dialog = await open_dialog(page, sync.get_by_role("button", name="Give it as a gift"))
    await dialog.get_by_role("button", name="Give", exact=True).click()
    await expect(dialog.get_by_text("Say why.")).to_be_visible()
    await fill_in(dialog, reason="For finding the leak")
    await dialog.get_by_role("button", name="Give", exact=True).click()
    await expect(sync.get_by_text("On, as a gift")).to_be_visible()
    await expect(page.get_by_role("status").get_by_text("is a gift now")).to_be_visible()
    status = await people.service.call("GET", "/sync/status", user="ann")
    assert (status.body["active"], status.body["gifted"]) == (True, True)

    dialog = await open_dialog(page, sync.get_by_role("button", name="End the gift"))
    await fill_in(dialog, reason="A year is over")
    await dialog.get_by_role("button", name="End the gift").click()
    await expect(sync.get_by_text("Off", exact=True)).to_be_visible()
    status = await people.service.call("GET", "/sync/status", user="ann")
    assert (status.body["active"], status.body["gifted"]) == (False, False)

    done = rows(part(page, "What support has done"))
    await expect(done).to_have_count(2)
    await expect(done.first).to_contain_text("Gift of Cloud Sync ended")
    await expect(done.first).to_contain_text("A year is over")
    await expect(done.last).to_contain_text("Cloud Sync given")
    await expect(done.last).to_contain_text("For finding the leak")


async def test_a_double_click_grants_once(people: People) -> None:
    page = await support(people)
    await page.goto("/admin/users/ann")
    dialog = await open_dialog(page, page.get_by_role("button", name="Grant credits"))
    await fill_in(dialog, credits="50", reason="Once")
    await dialog.get_by_role("button", name="Grant credits").dblclick()
    await expect(part(page, "Balance")).to_contain_text(f"50{NBSP}credits")
    await expect(rows(part(page, "Ledger"))).to_have_count(1)
    assert await people.service.balance("ann") == 50


async def test_a_dialog_that_is_closed_meanwhile_tells_its_end(people: People) -> None:
    page = await support(people)
    held: list[Route] = []
    await page.route("**/admin/users/ann/grant", lambda route: held.append(route))
    await page.goto("/admin/users/ann")
    dialog = await open_dialog(page, page.get_by_role("button", name="Grant credits"))
    await fill_in(dialog, credits="50", reason="Once")
    async with page.expect_request("**/admin/users/ann/grant"):
        await dialog.get_by_label("Credits").press("Enter")
    await dialog.get_by_role("button", name="Cancel").click()
    await page.keyboard.press("Escape")
    # A browser lets nobody keep a dialog open against a second Escape.
    await page.keyboard.press("Escape")
    await held[0].continue_()
    await expect(page.get_by_role("status").get_by_text("Granted: 50")).to_be_visible()
    await expect(part(page, "Balance")).to_contain_text(f"50{NBSP}credits")
    await expect(dialog).to_have_count(0)


async def test_a_grant_whose_answer_is_lost_is_made_once(people: People) -> None:
    people.allow(r"request: POST .*/admin/users/ann/grant net::ERR_FAILED")
    people.allow(r"answer: 409 POST .*/admin/users/ann/grant")
    page = await support(people)
    lost: list[int] = []

    async def lose(route: Route) -> None:
        lost.append((await route.fetch()).status)
        await route.abort()

    await page.route("**/admin/users/ann/grant", lose)
    await page.goto("/admin/users/ann")
    dialog = await open_dialog(page, page.get_by_role("button", name="Grant credits"))
    await fill_in(dialog, credits="50", reason="Lost on the way")
    await dialog.get_by_role("button", name="Grant credits").click()
    await expect(dialog.get_by_text("It is not known whether this was done.")).to_be_visible(
        timeout=30_000
    )
    assert set(lost) == {200}
    assert await people.service.balance("ann") == 50

    # Over a reload as well, the same again is the one that was begun.
    await page.unroute("**/admin/users/ann/grant")
    await page.reload()
    dialog = await open_dialog(page, page.get_by_role("button", name="Grant credits"))
    await fill_in(dialog, credits="50", reason="Lost on the way")
    await dialog.get_by_role("button", name="Grant credits").click()
    await expect(
        page.get_by_role("status").get_by_text("That had been done before")
    ).to_be_visible()
    await expect(rows(part(page, "What support has done"))).to_have_count(1)
    assert await people.service.balance("ann") == 50

    # It has succeeded: the next one is another.
    dialog = await open_dialog(page, page.get_by_role("button", name="Grant credits"))
    await fill_in(dialog, credits="50", reason="A second one")
    await dialog.get_by_role("button", name="Grant credits").click()
    await expect(part(page, "Balance")).to_contain_text(f"100{NBSP}credits")


async def test_other_values_after_a_lost_answer_are_asked_about(people: People) -> None:
    people.allow(r"request: POST .*/admin/users/ann/grant net::ERR_FAILED")
    people.allow(r"answer: 409 POST .*/admin/users/ann/grant")
    page = await support(people)

    async def lose(route: Route) -> None:
        await route.fetch()
        await route.abort()

    await page.route("**/admin/users/ann/grant", lose)
    await page.goto("/admin/users/ann")
    dialog = await open_dialog(page, page.get_by_role("button", name="Grant credits"))
    await fill_in(dialog, credits="50", reason="Lost")
    await dialog.get_by_role("button", name="Grant credits").click()
    await expect(dialog.get_by_text("It is not known whether this was done.")).to_be_visible(
        timeout=30_000
    )
    await page.unroute("**/admin/users/ann/grant")
    await dialog.get_by_label("Credits").fill("60")
    await dialog.get_by_role("button", name="Grant credits").click()
    await expect(dialog.get_by_text("An earlier attempt was carried out after all")).to_be_visible()
    assert await people.service.balance("ann") == 50
    await expect(part(page, "Balance")).to_contain_text(f"50{NBSP}credits")
    await dialog.get_by_role("button", name="Grant credits").click()
    await expect(part(page, "Balance")).to_contain_text(f"110{NBSP}credits")


async def test_everything_about_a_user_is_there(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 300)
    for number in range(30):
        await used(people, "ann", 1, f"Question {number}")
    held = {"userId": "ann", "amount": 20, "reason": "research:deep"}
    await people.service.call("POST", "/internal/credits/reserve", internal=True, json=held)
    gift = await given(people, "ann", 40, message="For the summer")
    await people.service.call("POST", f"/gifts/{gift['code']}/redeem", user="ben", json={})
    await given(people, "ann", 10)
    purchase = await shop.paid("ann")
    await shop.becomes(str(purchase["id"]), "completed")
    activated = await people.service.call("POST", "/sync/activate", user="ann", json={})
    assert activated.status == 200
    page = await support(people)
    await page.goto("/admin/users/ann")

    balance = part(page, "Balance")
    await expect(balance).to_contain_text(f"670{NBSP}credits")
    await expect(balance).to_contain_text("ann@example.org")
    await expect(balance.get_by_role("table", name="Held credits")).to_contain_text("research:deep")
    await expect(part(page, "Cloud Sync")).to_contain_text("On")
    await expect(part(page, "Cloud Sync")).to_contain_text("Next charge")
    await expect(rows(part(page, "Purchases"))).to_contain_text(["€5.00"])
    gifts = rows(part(page, "Gifts made"))
    await expect(gifts).to_have_count(2)
    await expect(gifts.first).to_contain_text("Not redeemed yet")
    await expect(gifts.last).to_contain_text("For the summer")

    ledger = rows(part(page, "Ledger"))
    await expect(ledger).to_have_count(25)
    await part(page, "Ledger").get_by_role("button", name="Show more").click()
    await expect(ledger).to_have_count(35)
    await part(page, "Ledger").get_by_label("Kind").select_option("Purchase")
    await expect(ledger).to_have_count(1)

    await gifts.last.get_by_role("link", name="ben").click()
    await page.wait_for_url("**/admin/users/ben")
    await expect(part(page, "Balance")).to_contain_text(f"40{NBSP}credits")


@pytest.mark.parametrize("user", ["zoë", "a&b=c;d", "<b>"])
async def test_whoever_has_not_been_seen_has_a_page(people: People, user: str) -> None:
    page = await support(people)
    await page.goto("/admin")
    await page.get_by_role("searchbox").fill(user)
    await page.get_by_role("button", name="Search").click()
    await page.get_by_role("link", name=f"open {user}").click()
    await expect(page.get_by_role("heading", name=user, exact=True)).to_be_visible()
    await expect(part(page, "Balance")).to_contain_text(f"0{NBSP}credits")
    await expect(part(page, "Balance")).to_contain_text("Nobody of this id has been seen yet.")


async def test_what_cannot_be_an_id_is_none(people: People) -> None:
    people.allow("answer: 400 GET .*/api/v1/")
    page = await support(people)
    await page.goto("/admin")
    for query in ("nobody@example.org", "a/b", "100%", ".."):
        await page.get_by_role("searchbox").fill(query)
        await page.get_by_role("button", name="Search").click()
        await expect(page.get_by_text("Nobody fits.")).to_be_visible()
        await expect(part(page, "Find a user").get_by_role("link")).to_have_count(0)
    # An address that somebody has typed.
    await page.goto("/admin/users/a%25b")
    await expect(page.get_by_role("heading", name="a%b", exact=True)).to_be_visible()
    await expect(part(page, "Balance").get_by_role("alert")).to_contain_text("Invalid request")


# The overview


async def test_a_user_is_found_by_what_is_known_of_him(people: People, shop: Shop) -> None:
    await people.service.grant("ann-with-a-long-id", 300)
    debit = await used(people, "ann-with-a-long-id", 5)
    gift = await given(people, "ann-with-a-long-id", 40)
    bought = await shop.buy("ann-with-a-long-id")
    page = await support(people)
    await page.goto("/admin")
    find = part(page, "Find a user")
    for query in (
        "ann-with",
        "ANN-with-a-long-id@example.org",
        bought.body["purchaseId"],
        debit,
        gift["code"].lower(),
    ):
        await find.get_by_role("searchbox").fill(str(query))
        await find.get_by_role("searchbox").press("Enter")
        await expect(find.get_by_text("1 user found")).to_be_visible()
        await expect(rows(find)).to_have_count(1)
        await expect(rows(find)).to_contain_text("255")
        await find.get_by_role("searchbox").fill("nobody at all")
        await find.get_by_role("button", name="Search").click()
        await expect(find.get_by_text("Nobody fits.")).to_be_visible()

    await find.get_by_role("searchbox").fill("ann-with")
    await find.get_by_role("button", name="Search").click()
    await rows(find).get_by_role("link").click()
    await expect(part(page, "Ledger")).to_be_visible()
    await page.go_back()
    await expect(find.get_by_role("searchbox")).to_have_value("ann-with")
    await expect(rows(find)).to_have_count(1)
    # What was asked for stays out of addresses, and so out of logs.
    assert page.url == f"{people.service.url}/admin"


async def test_the_days_are_drawn_and_can_be_read(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 200)
    await used(people, "ann", 70)
    purchase = await shop.paid("ann")
    await shop.becomes(str(purchase["id"]), "completed")
    page = await support(people)
    await page.goto("/admin")
    days = part(page, "Credits per day")
    drawing = days.get_by_role(
        "img",
        name=f"Sold and used in the last 30 days: 500{NBSP}credits and 70{NBSP}credits",
        exact=True,
    )
    await expect(drawing.locator("rect")).to_have_count(2)
    await expect(
        days.get_by_role("img", name=f"Outstanding: 630{NBSP}credits today", exact=True)
    ).to_be_visible()
    await days.get_by_text("As a table").click()
    await expect(rows(days)).to_have_count(30)
    today = await rows(days).first.get_by_role("cell").all_inner_texts()
    assert today[1:] == ["500", "70", "200", "0", "0", "630"]
    await days.get_by_label("Period").focus()
    await days.get_by_label("Period").select_option("7 days")
    await expect(rows(days)).to_have_count(7)
    await expect(days.get_by_label("Period")).to_be_focused()


async def test_what_the_next_run_will_do(people: People, admin: Connection) -> None:
    for user, credits in (("ann", 100), ("ben", 30), ("cleo", 100)):
        await people.service.grant(user, credits)
        answer = await people.service.call("POST", "/sync/activate", user=user, json={})
        assert answer.status == 200
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET anchor_at = anchor_at - interval '1 month',"
        " next_charge_at = now(), paid_until = now() WHERE user_id IN ('ann', 'ben')"
    )
    page = await support(people)
    await page.goto("/admin")
    sync = part(page, "Cloud Sync")
    await expect(sync).to_contain_text("Paying3")
    await expect(sync).to_contain_text("Due2")
    await expect(sync).to_contain_text("Will be charged1")
    await expect(sync).to_contain_text("Will be paused1")
    await expect(sync).to_contain_text(f"Credits charged30{NBSP}credits")

    await admin.execute("CALL credits.run_recurring_charge()")
    await page.reload()
    await expect(sync).to_contain_text("Paying2")
    await expect(sync).to_contain_text("Paused1")
    await expect(sync.get_by_text("It has nothing to do.")).to_be_visible()


async def test_jobs_that_are_late_or_failed_stand_first(people: People, admin: Connection) -> None:
    await ran(admin, "gift-expiry", did={"expired": 3, "errors": 0})
    await ran(admin, "pruning", error=XSS)
    await ran(admin, "charge-notices", ended=False)
    await ran(admin, "ledger-check", did={"violations": 0, "first": []})
    await admin.execute(
        "UPDATE credits.jobs SET since = since - late_after - interval '1 hour'"
        " WHERE job = 'recurring-charge'"
    )
    page = await support(people)
    await page.goto("/admin")
    jobs = rows(part(page, "Jobs"))
    await expect(jobs).to_have_count(6)
    assert {(await jobs.nth(place).locator(".code").inner_text()) for place in range(2)} == {
        "pruning",
        "recurring-charge",
    }
    for name, state in (
        ("pruning", "Failed"),
        ("recurring-charge", "Late"),
        ("charge-notices", "Running"),
        ("gift-expiry", "Fine"),
        ("reservation-expiry", "Not run yet"),
    ):
        await expect(jobs.filter(has_text=name).locator(".badge")).to_have_text([state])
    await expect(jobs.filter(has_text="gift-expiry")).to_contain_text("3 expired")
    await expect(jobs.filter(has_text="pruning").get_by_text(XSS)).to_be_visible()
    await expect(part(page, "What needs a look")).to_contain_text("Sound")


async def test_a_failed_event_is_replayed(people: People, shop: Shop) -> None:
    purchase, event_id = await failed_event(shop)
    page = await support(people)
    await page.goto("/admin")
    health = part(page, "What needs a look")
    await expect(health.get_by_text("1 failed")).to_be_visible()
    events = part(page, "Stripe events")
    await expect(rows(events)).to_contain_text(["payment_intent.succeeded"])
    await events.get_by_role("button", name=f"Replay {event_id}").click()
    await expect(page.get_by_role("status").get_by_text("It failed again:")).to_be_visible()
    await expect(rows(events)).to_contain_text(["2 attempts"])

    await events.get_by_role("button", name="Find its user").click()
    await expect(rows(part(page, "Find a user"))).to_contain_text(["ann"])

    await shop.admin.execute("UPDATE credits.purchases SET price_euro_cents = 500")
    await events.get_by_role("button", name=f"Replay {event_id}").click()
    await expect(page.get_by_role("status").get_by_text("The event was applied.")).to_be_visible()
    await expect(events.get_by_text("There are none.")).to_be_visible()
    await expect(health.get_by_text("1 failed")).to_have_count(0)
    assert (await shop.row(str(purchase["id"])))["status"] == "completed"
    assert await people.service.balance("ann") == 500


async def test_failed_notices_are_sent_again_one_or_all(people: People, admin: Connection) -> None:
    for user in ("ann", "ben", "cleo"):
        await people.service.grant(user, 1)
        await undelivered(admin, user, "failed", "HTTP 500")
    await people.service.grant("dan", 1)
    await undelivered(admin, "dan", "undeliverable")
    page = await support(people)
    await page.goto("/admin")
    health = part(page, "What needs a look")
    await expect(health.get_by_text("3 failed")).to_be_visible()
    await expect(health.get_by_text("1 without an address")).to_be_visible()
    notices = part(page, "Notices")
    await expect(rows(notices)).to_have_count(3)
    await notices.get_by_role("button", name="Send again: Cloud Sync paused, to ben").click()
    await expect(page.get_by_role("status").get_by_text("1 notice is sent again.")).to_be_visible()
    await expect(rows(notices)).to_have_count(2)
    await expect(notices.get_by_role("link", name="ben")).to_have_count(0)
    await expect(health.get_by_text("2 failed")).to_be_visible()

    await notices.get_by_label("Show").select_option("Without an address")
    await expect(rows(notices)).to_contain_text(["dan"])
    await notices.get_by_role("button", name="Send all again").click()
    await expect(page.get_by_role("status").get_by_text("3 notices are sent")).to_be_visible()
    await expect(notices.get_by_text("There are none.")).to_be_visible()
    await expect(notices.get_by_role("button", name="Send all again")).to_have_count(0)
    await expect(health.get_by_text("failed")).to_have_count(0)
    states = await admin.fetch("SELECT DISTINCT state::text FROM credits.notices")
    assert [row["state"] for row in states] in (["pending"], ["pending", "undeliverable"])


async def test_lists_that_go_on_can_be_read_to_their_end(people: People, admin: Connection) -> None:
    await people.service.grant("ann", 1)
    for _ in range(27):
        await undelivered(admin, "ann", "failed")
    page = await support(people)
    await page.goto("/admin")
    notices = part(page, "Notices")
    await expect(rows(notices)).to_have_count(25)
    await notices.get_by_role("button", name="Show more").click()
    await expect(rows(notices)).to_have_count(27)
    await expect(notices.get_by_role("button", name="Show more")).to_have_count(0)


# Both


async def test_words_of_others_are_words(people: People, admin: Connection) -> None:
    await people.service.grant("ann", 100)
    await used(people, "ann", 1, XSS)
    await given(people, "ann", 10, message=XSS)
    await undelivered(admin, "ann", "failed", XSS)
    page = await people.sign_in("sue", name=f"Sue {XSS}"[:64], role="admin")
    said: list[Dialog] = []
    page.on("dialog", lambda dialog: said.append(dialog))
    await page.goto("/admin/users/ann")
    dialog = await open_dialog(page, page.get_by_role("button", name="Grant credits"))
    await fill_in(dialog, credits="5", reason=XSS)
    await dialog.get_by_role("button", name="Grant credits").click()
    done = part(page, "What support has done")
    await expect(done.get_by_text(XSS, exact=True)).to_be_visible()
    await expect(done).to_contain_text("Sue <img")
    await expect(part(page, "Ledger").get_by_text(XSS)).to_be_visible()
    await expect(part(page, "Gifts made").get_by_text(XSS)).to_be_visible()
    dialog = await open_dialog(page, part(page, "Ledger").get_by_role("button", name="Refund"))
    await expect(dialog).to_contain_text(XSS)
    assert await page.locator("img, main script, dialog script").count() == 0

    await page.goto("/admin")
    await expect(part(page, "Notices").get_by_text(XSS)).to_be_visible()
    await page.get_by_role("searchbox").fill(XSS)
    await page.get_by_role("button", name="Search").click()
    await expect(page.get_by_text("Nobody fits.")).to_be_visible()
    assert await page.locator("img, main script").count() == 0
    assert said == []


async def test_it_speaks_german(people: People) -> None:
    people.allow("answer: 400 POST .*/admin/users/ann/refund")
    await people.service.grant("ann", 1500)
    await used(people, "ann", 1200, "Eine Frage")
    page = await support(people, locale="de")
    await page.goto("/admin")
    await expect(part(page, "Benutzer finden")).to_be_visible()
    await expect(part(page, "Credits pro Tag")).to_contain_text("1.200")
    await page.goto("/admin/users/ann")
    dialog = await open_dialog(
        page, page.get_by_role("button", name=f"Eine Frage erstatten, 1.200{NBSP}Credits")
    )
    await dialog.get_by_label("Credits").fill("1300")
    await dialog.get_by_label("Grund").fill("Es war zu viel")
    await dialog.get_by_role("button", name="Erstatten").click()
    await expect(dialog.get_by_text(f"nur noch 1.200{NBSP}Credits übrig")).to_be_visible()
    await dialog.get_by_label("Credits").fill("1000")
    await dialog.get_by_role("button", name="Erstatten").click()
    await expect(page.get_by_role("status").get_by_text("Erstattet: 1.000")).to_be_visible()
    await expect(part(page, "Was der Support getan hat")).to_contain_text("Es war zu viel")


async def test_what_cannot_be_loaded_can_be_tried_again(people: People) -> None:
    people.allow(r"answer: 500 GET .*/api/v1/admin/")
    await people.service.grant("ann", 70)
    broken = {"statusCode": 500, "error": "internal_error", "message": "Internal server error"}
    page = await support(people)

    async def fail(route: Route) -> None:
        await route.fulfill(status=500, json=broken)

    await page.route("**/api/v1/admin/overview?**", fail)
    await page.goto("/admin")
    # What else there is can be used all the same.
    await expect(part(page, "Stripe events").get_by_text("There are none.")).to_be_visible()
    await page.unroute("**/api/v1/admin/overview?**")
    await page.get_by_role("main").get_by_role("button", name="Try again").click()
    await expect(part(page, "Jobs")).to_be_visible()

    await page.route("**/api/v1/admin/users/ann", fail)
    await page.goto("/admin/users/ann")
    balance = part(page, "Balance")
    await expect(balance.get_by_role("alert")).to_contain_text("Internal server error")
    await expect(rows(part(page, "Ledger"))).to_have_count(1)
    await page.unroute("**/api/v1/admin/users/ann")
    await balance.get_by_role("button", name="Try again").click()
    await expect(balance).to_contain_text(f"70{NBSP}credits")


@pytest.mark.parametrize(("locale", "theme"), [("en", "light"), ("de", "dark")])
async def test_the_pages_are_accessible_and_fit(
    people: People, shop: Shop, admin: Connection, locale: Locale, theme: Theme
) -> None:
    await people.service.grant("ann", 100)
    await used(people, "ann", 60, "W" * 300)
    held = {"userId": "ann", "amount": 20, "reason": "research:deep"}
    await people.service.call("POST", "/internal/credits/reserve", internal=True, json=held)
    await given(people, "ann", 10, message="M" * 200, targetEmail=f"{'b' * 60}@example.org")
    await failed_event(shop)
    await undelivered(admin, "ann", "failed", "E" * 300)
    await ran(admin, "pruning", error="E" * 300)
    user = f"u{'-1234567' * 12}"
    grant = {"amount": 5, "reason": "R" * 300}
    for who in ("ann", user):
        answer = await people.service.call(
            "POST",
            f"/admin/users/{who}/grant",
            user="sue",
            claims={"role": "admin", "name": "Sue"},
            json=grant,
        )
        assert answer.status == 200, answer.body
    page = await support(people, locale=locale, theme=theme)
    await page.goto("/admin")
    await page.get_by_role("searchbox").fill("ann")
    await page.get_by_role("searchbox").press("Enter")
    await expect(page.get_by_role("link", name="ann")).not_to_have_count(0)
    await expect(page.locator(".skeleton")).to_have_count(0)
    await page.locator("summary").click()
    await require_fine(page)
    for path in (f"/admin/users/{user}", "/admin/users/ann"):
        await page.goto(path)
        await expect(page.locator("tbody")).not_to_have_count(0)
        await expect(page.locator(".skeleton")).to_have_count(0)
        await require_fine(page)
    await page.locator("td button").click()
    await page.get_by_role("dialog").get_by_role("button").first.click()
    await expect(page.get_by_role("dialog").locator(".problem:not(:empty)")).to_be_visible()
    await require_fine(page)
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    page = await people.sign_in("ben", locale=locale, theme=theme)
    await page.goto("/admin")
    await expect(page.locator(".lead")).to_be_visible()
    await require_fine(page)


async def test_all_that_is_stored_about_a_user_is_saved_as_a_file(
    people: People, shop: Shop
) -> None:
    await people.service.grant("ann", 30)
    await used(people, "ann", 5, "Dear diary")
    page = await support(people)
    await page.goto("/admin/users/ann")
    async with page.expect_download() as downloading:
        await page.get_by_role("button", name="Download everything").click()
    file = await downloading.value
    assert file.suggested_filename == "data of ann.json"
    document = json.loads(await asyncio.to_thread(Path(await file.path()).read_text))
    assert [row["description"] for row in document["transactions"]] == ["test", "Dear diary"]


async def test_a_user_is_erased_only_by_who_names_him(people: People, shop: Shop) -> None:
    await people.service.grant("ann", 30)
    page = await support(people)
    await page.goto("/admin/users/ann")
    await expect(part(page, "Balance")).to_contain_text(f"30{NBSP}credits")
    await page.get_by_role("button", name="Erase the user").click()
    dialog = page.get_by_role("dialog", name="Erase the user")
    await dialog.get_by_label("The user id, to confirm").fill("ben")
    await dialog.get_by_role("button", name="Erase the user").click()
    await expect(dialog).to_contain_text("This is not the id of this user.")
    assert await people.service.balance("ann") == 30
    await dialog.get_by_label("The user id, to confirm").fill("ann")
    await dialog.get_by_role("button", name="Erase the user").click()
    await expect(
        page.get_by_text(f"The user is erased. Forfeited: 30{NBSP}credits.")
    ).to_be_visible()
    await expect(part(page, "Balance")).to_contain_text("Nobody of this id has been seen yet.")
    assert await people.service.balance("ann") == 0
    assert await shop.admin.fetchval("SELECT erased_by FROM credits.erasures") == "sue"
