"""People in front of a browser, and what must not go wrong while they use the pages."""

import contextlib
import dataclasses
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    WebError,
    async_playwright,
)
from playwright.async_api import Error as PlaywrightError

from service.dev.issuer import cookie_name, open_session
from service.dev.login import Person
from tests.support.running import Running

CHROMIUM = "/usr/bin/chromium-headless-shell"
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nobody but this machine is asked anything, not even a name server.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
WIDTHS = {360: 780, 1440: 900}
"""The widths that the pages are made for, each with a height that is usual for it."""

Locale = Literal["en", "de"]
Theme = Literal["light", "dark"]

_REPORT = "reportViolation"
_LISTEN = f"""
document.addEventListener("securitypolicyviolation", (event) => {{
  window.{_REPORT}(`${{event.effectiveDirective}} blocked ${{event.blockedURI}}`);
}});
"""
_RUN_AXE = """
async () => (await axe.run(document, { resultTypes: ["violations"] })).violations.map((rule) => ({
  id: rule.id,
  impact: rule.impact,
  help: rule.help,
  nodes: rule.nodes.map((node) => ({ target: node.target.join(" "), why: node.failureSummary })),
}))
"""


_TOO_WIDE = "document.documentElement.scrollWidth > document.body.getBoundingClientRect().right"


@contextlib.asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Debian's Chromium without a window: the program that has none, which is much lighter."""
    assert os.access(CHROMIUM, os.X_OK), f"no {CHROMIUM}: run service/dev/packages.sh test"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS])
        try:
            yield browser
        finally:
            await browser.close()


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Something that a browser complained about."""

    kind: Literal["answer", "console", "policy", "request", "script", "stranger"]
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclasses.dataclass
class People:
    """Everybody who uses the pages of one service, each with a browser of their own.

    A problem in any of their pages fails the test, unless the test allows it: an answer with an
    error status, a request that fails, an error in the console or a script, a violation of the
    Content-Security-Policy, a request to a host that the pages have no business with.
    """

    browser: Browser
    service: Running
    stripe_url: str | None = None
    problems: list[Problem] = dataclasses.field(default_factory=list)
    _allowed: list[re.Pattern[str]] = dataclasses.field(default_factory=list)
    _contexts: list[BrowserContext] = dataclasses.field(default_factory=list)

    @property
    def issuer_url(self) -> str:
        """Where people sign in."""
        return self.service.settings.auth_url

    def allow(self, pattern: str) -> None:
        """From now on, a problem in whose text the regular expression is found is none.

        The texts are such as `answer: 402 POST http://127.0.0.1:3061/api/v1/credits/use` and
        `script: TypeError: …`.
        """
        self._allowed.append(re.compile(pattern))

    async def sign_in(
        self,
        user_id: str,
        *,
        name: str | None = None,
        email: str | None = None,
        email_verified: bool = True,
        role: str = "user",
        **look: Any,
    ) -> Page:
        """A browser in which a user is signed in, with an empty page; `look` is as for `visit`.

        Without a name, `ann` is called Ann; without an address, it is ann@example.org.
        """
        person = Person(
            sub=user_id,
            name=name or user_id.replace("-", " ").title(),
            email=email or f"{user_id}@example.org",
            email_verified=email_verified,
            role=role,
        )
        page = await self.visit(**look)
        await self.enter(page.context, person)
        return page

    async def enter(self, context: BrowserContext, person: Person) -> None:
        """Let a browser have a session, as the login page would."""
        key = self.service.key
        await context.add_cookies(
            [
                {
                    "name": cookie_name(key),
                    "value": open_session(key, person, self.issuer_url),
                    "url": self.issuer_url,
                    "httpOnly": True,
                    "sameSite": "Lax",
                }
            ]
        )

    async def visit(
        self,
        *,
        locale: Locale = "en",
        theme: Theme = "light",
        width: int = 1440,
        height: int | None = None,
    ) -> Page:
        """A browser in which nobody is signed in, with an empty page.

        A path such as `/gifts` is one of the service. That the issuer answers 401 is no problem.
        """
        context = await self.browser.new_context(
            base_url=self.service.url,
            locale={"en": "en-GB", "de": "de-DE"}[locale],
            timezone_id="Europe/Berlin",
            color_scheme=theme,
            # A transition has colours of its own, which no contrast rule is meant for.
            reduced_motion="reduce",
            viewport={"width": width, "height": height or WIDTHS.get(width, 900)},
        )
        self._contexts.append(context)
        self._watch(context)
        await context.expose_binding(
            _REPORT, lambda _source, said: self._report("policy", str(said))
        )
        await context.add_init_script(_LISTEN)
        return await context.new_page()

    def unexpected(self) -> list[str]:
        """The texts of the problems so far that nothing allows."""
        return [
            str(problem)
            for problem in self.problems
            if not any(pattern.search(str(problem)) for pattern in self._allowed)
        ]

    async def require_no_problems(self) -> None:
        """What the pages complained about until now was allowed."""
        for context in self._contexts:
            for page in context.pages:
                # What happened before the answer to this was reported before it.
                with contextlib.suppress(PlaywrightError):
                    await page.evaluate("null")
        found = self.unexpected()
        assert not found, "\n".join(["The pages complained:", *found])

    async def leave(self) -> None:
        """Close every browser."""
        while self._contexts:
            await self._contexts.pop().close()

    def _report(self, kind: Any, text: str) -> None:
        self.problems.append(Problem(kind, text))

    def _watch(self, context: BrowserContext) -> None:
        context.on("request", self._on_request)
        context.on("requestfailed", self._on_failed)
        context.on("response", self._on_response)
        context.on("console", self._on_console)
        context.on("weberror", self._on_error)

    def _on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("data", "blob", "about"):
            return
        known = [self.service.url, self.issuer_url]
        if self.stripe_url is not None:
            # It calls itself localhost.
            known += [self.stripe_url, self.stripe_url.replace("127.0.0.1", "localhost")]
        if f"{parts.scheme}://{parts.netloc}" not in known:
            self._report("stranger", f"{request.method} {request.url}")

    def _on_failed(self, request: Request) -> None:
        # Whoever leaves a page, or gives up a request, aborts it; that is no failure.
        if request.failure != "net::ERR_ABORTED":
            self._report("request", f"{request.method} {request.url} {request.failure}")

    def _on_response(self, response: Response) -> None:
        asked_who = response.status == 401 and response.url == f"{self.issuer_url}/api/auth/token"
        if response.status >= 400 and not asked_who:
            self._report("answer", f"{response.status} {response.request.method} {response.url}")

    def _on_error(self, error: WebError) -> None:
        self._report("script", f"{error.error.name}: {error.error.message}")

    def _on_console(self, message: ConsoleMessage) -> None:
        # Chromium writes a line for each answer and each request that are reported already.
        if message.type in ("error", "warning") and not message.text.startswith(
            "Failed to load resource:"
        ):
            self._report("console", f"{message.type}: {message.text}")


@contextlib.asynccontextmanager
async def gathered(
    browser: Browser, service: Running, stripe_url: str | None = None
) -> AsyncIterator[People]:
    """People for one test; at its end nothing may have gone wrong in their pages."""
    people = People(browser, service, stripe_url)
    try:
        yield people
        await people.require_no_problems()
    finally:
        await people.leave()


async def require_accessible(page: Page) -> None:
    """axe-core finds nothing wrong with a page as it stands."""
    assert AXE.exists(), f"no {AXE.relative_to(AXE.parents[4])}: run npm ci in tests/web"
    if not await page.evaluate("'axe' in window"):
        # Evaluated, since a page with a strict policy takes no script element from us.
        await page.evaluate(AXE.read_text())
    found: list[dict[str, Any]] = await page.evaluate(_RUN_AXE)
    lines = [f"{page.url} is not accessible:"]
    for rule in found:
        lines.append(f"{rule['id']} ({rule['impact']}): {rule['help']}")
        lines += [f"    {node['target']}: {_in_one_line(node['why'])}" for node in rule["nodes"]]
    assert not found, "\n".join(lines)


async def require_fine(page: Page) -> None:
    """In each width a page as it stands is accessible, and nothing of it sticks out."""
    for width, height in WIDTHS.items():
        await page.set_viewport_size({"width": width, "height": height})
        await require_accessible(page)
        # The body ends where the room for a scroll bar begins.
        assert not await page.evaluate(_TOO_WIDE), f"{page.url} is too wide for {width} pixels"


def _in_one_line(text: str | None) -> str:
    return " ".join((text or "").split())
