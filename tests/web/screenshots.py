"""Pictures of every page in both widths and both themes, to be looked at.

    python -m tests.web.screenshots FOLDER [--locale de] [--only NAME …]

It brings up a shop in full swing of its own, and ends it again.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Page

from service import logs
from service.dev.postgres import temporary_cluster
from service.migrate import migrate
from tests.support.databases import as_settings, connect
from tests.support.running import running_service
from tests.support.stripe import SECRET_KEY, WEBHOOK_SECRET, Line, local_stripe, opened, webhooks
from tests.web.scene import Scene, furnish
from tests.web.support import WIDTHS, Locale, People, Theme, open_browser

_DATABASE = "screenshots"
_FOR_EVER = 86_400.0
THEMES: tuple[Theme, ...] = ("light", "dark")


@dataclass(frozen=True, slots=True)
class Shot:
    """A page, and whose it is; without a `who`, that of somebody who has not signed in."""

    name: str
    path: str | Callable[[Scene], str]
    who: str | None = None
    role: str = "user"
    refused: bool = False
    """What the page asks for is refused, which it has to make the best of."""

    def path_in(self, scene: Scene) -> str:
        """Where it is; an address with a host is not the service's."""
        return self.path if isinstance(self.path, str) else self.path(scene)


def _purchase(state: str) -> Shot:
    return Shot(f"purchase-{state}", lambda scene: f"/purchases/{scene.purchases[state]}", "ann")


def _gift(name: str, state: str, who: str | None) -> Shot:
    return Shot(f"gift-{name}", lambda scene: f"/g/{scene.codes[state]}", who)


SHOTS: tuple[Shot, ...] = (
    Shot("login", "{login}?redirectTo={service}/"),
    Shot("docs", "/docs"),
    Shot("account", "/", "ann"),
    Shot("account-empty", "/", "nora"),
    Shot("account-paused", "/", "ben"),
    *map(
        _purchase,
        (
            "pending",
            "processing",
            "completed",
            "failed",
            "cancelled",
            "refunded",
            "partially_refunded",
            "disputed",
        ),
    ),
    Shot(
        "purchase-of-somebody-else",
        lambda scene: f"/purchases/{scene.purchases['pending']}",
        "ben",
        refused=True,
    ),
    Shot("sync-active", "/settings/sync", "ann"),
    Shot("sync-paused", "/settings/sync", "ben"),
    Shot("sync-gifted", "/settings/sync", "cleo"),
    Shot("sync-off", "/settings/sync", "nora"),
    Shot("gifts", "/gifts", "ann"),
    Shot("gifts-received", "/gifts", "ben"),
    Shot("gifts-empty", "/gifts", "nora"),
    _gift("active-stranger", "active", None),
    _gift("active", "active", "nora"),
    _gift("own", "active", "ann"),
    _gift("personalized", "personalized", "ben"),
    _gift("for-somebody-else", "personalized", "nora"),
    _gift("redeemed", "redeemed", "nora"),
    _gift("expired", "expired", "nora"),
    _gift("cancelled", "cancelled", "nora"),
    Shot("gift-unknown", "/g/ABCDEFGHJKLM", "nora", refused=True),
    Shot("admin", "/admin", "support", "admin"),
    Shot("admin-refused", "/admin", "ann", refused=True),
    Shot("admin-user", "/admin/users/ann", "support", "admin"),
    Shot("admin-user-paused", "/admin/users/ben", "support", "admin"),
    Shot("admin-user-unknown", "/admin/users/nobody", "support", "admin", refused=True),
)


async def photograph(
    people: People, scene: Scene, folder: Path, shots: Sequence[Shot], locale: Locale
) -> list[str]:
    """Take the pictures; what was wrong, a line each."""
    wrong: list[str] = []
    for shot in shots:
        path = shot.path_in(scene).format(
            login=people.service.settings.login_url, service=people.service.url
        )
        for width in WIDTHS:
            for theme in THEMES:
                page = await (
                    people.visit(locale=locale, theme=theme, width=width)
                    if shot.who is None
                    else people.sign_in(
                        shot.who,
                        name=f"{shot.who.title()} Example",
                        role=shot.role,
                        locale=locale,
                        theme=theme,
                        width=width,
                    )
                )
                name = f"{shot.name}-{width}-{theme}.png"
                wrong += [f"{name}: {what}" for what in await _take(page, path, folder / name)]
                wrong += [
                    f"{name}: {problem}"
                    for problem in people.problems
                    if not (shot.refused and problem.kind == "answer")
                ]
                people.problems.clear()
                await people.leave()
    return wrong


async def _take(page: Page, path: str, file: Path) -> list[str]:
    # An idle network is the one sign of a finished page that all of them have in common.
    answer = await page.goto(path, wait_until="networkidle")
    await page.screenshot(path=file, full_page=True, animations="disabled")
    wrong = []
    if answer is None or not answer.ok:
        wrong.append(f"answered {answer and answer.status}")
    wide = await page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    if wide[0] > wide[1]:
        wrong.append(f"is {wide[0]} wide")
    return wrong


async def _run(folder: Path, shots: Sequence[Shot], locale: Locale) -> list[str]:
    with tempfile.TemporaryDirectory() as data, temporary_cluster() as cluster:
        cluster.ensure_database(_DATABASE)
        settings = as_settings(cluster, _DATABASE)
        migrate(settings)
        with local_stripe(Path(data) / "stripe", sepa_delay=_FOR_EVER) as stripe_url:
            line = Line(stripe_url)
            settings = as_settings(
                cluster,
                _DATABASE,
                STRIPE_SECRET_KEY=SECRET_KEY,
                STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET,
                STRIPE_API_BASE=line.url,
                # Only that of which nobody knows: some of the story goes wrong on purpose.
                LOG_LEVEL="critical",
            )
            logs.configure(settings)
            await line.connect()
            admin = await connect(settings.require_admin_database_url())
            try:
                async with (
                    running_service(settings, for_browsers=True) as service,
                    opened(service, line, stripe_url, admin) as shop,
                    webhooks(shop),
                    open_browser() as browser,
                ):
                    scene = await furnish(shop)
                    people = People(browser, service, stripe_url)
                    return await photograph(people, scene, folder, shots, locale)
            finally:
                await admin.close()
                await line.cut()


def main() -> int:
    """Take the pictures that were asked for; 1 when a page had something to complain about."""
    parser = argparse.ArgumentParser(prog="python -m tests.web.screenshots", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--locale", choices=("en", "de"), default="en")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="pages whose names begin so")
    options = parser.parse_args()
    wanted = tuple(options.only or [""])
    shots = [shot for shot in SHOTS if shot.name.startswith(wanted)]
    options.folder.mkdir(parents=True, exist_ok=True)
    wrong = asyncio.run(_run(options.folder, shots, options.locale))
    print(f"{len(shots) * len(WIDTHS) * len(THEMES)} pictures in {options.folder}")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
