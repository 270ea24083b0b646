"""What is shown does not jump while the rest of a page arrives."""

import pytest
from playwright.async_api import expect

from tests.support.stripe import Shop
from tests.web.support import WIDTHS, People

GOOD = 0.1
"""What web.dev/cls calls good, of the sum of all shifts."""
WATCH = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (!entry.hadRecentInput) {
      window.shifts.push({
        value: entry.value,
        moved: entry.sources.map(({ node }) => node?.id || node?.className || node?.nodeName),
      });
    }
  }
}).observe({ type: "layout-shift", buffered: true });
"""


@pytest.mark.parametrize("width", WIDTHS)
async def test_nothing_jumps(people: People, shop: Shop, width: int) -> None:
    await people.service.grant("ann", 100)
    used = {"amount": 5, "appId": "chat", "description": "A question"}
    for _ in range(3):
        await people.service.call("POST", "/credits/use", user="ann", json=used)
    gift = await people.service.call("POST", "/gifts", user="ann", json={"totalCredits": 10})
    bought = await shop.paid("ann")
    page = await people.sign_in("ann", width=width, role="admin")
    await page.add_init_script(WATCH)
    for path in (
        "/",
        f"/purchases/{bought['id']}",
        "/settings/sync",
        "/gifts",
        f"/g/{gift.body['code']}",
        "/admin",
        "/admin/users/ann",
    ):
        await page.goto(path)
        await expect(page.locator(".card").first).to_be_visible()
        await expect(page.locator(".skeleton")).to_have_count(0)
        # A shift is told of with the frame after it.
        await page.evaluate(
            "new Promise((told) => requestAnimationFrame(() => requestAnimationFrame(told)))"
        )
        shifts = await page.evaluate("window.shifts")
        assert sum(shift["value"] for shift in shifts) < GOOD, (path, shifts)
