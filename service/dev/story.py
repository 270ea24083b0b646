"""The command `mana-credits demo`: the story of the product, told step by step.

It runs against the system that `run` has up, or against one that it starts itself. Every step
does what it says with real money moves, and then looks whether it happened: the exit status is 0
only if all of it did, and otherwise the step that failed is named.
"""

import asyncio
import contextlib
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import psycopg
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from service.dev.postgres import PostgresError
from service.dev.system import (
    Running,
    System,
    SystemFailedError,
    default_data_dir,
    demo_package_ids,
    find_running,
)
from service.settings import Settings

CRON_SECONDS: Final = 75.0
"""pg_cron looks once a minute; a run that takes longer than this is missing."""
EVENT_SECONDS: Final = 30.0
"""For a webhook or a notice."""
CARD: Final = {
    "type": "card",
    "card[number]": "4242424242424242",
    "card[exp_month]": "12",
    "card[exp_year]": "2040",
    "card[cvc]": "123",
}

_Step = Callable[[], Awaitable[None]]


class StepFailedError(Exception):
    """A step did not do what it says; the message tells what was seen instead."""


def main(settings: Settings) -> int:
    """Tell the story; 0 when every step did what it says, 1 naming the one that did not."""
    if settings.production:
        sys.stderr.write("mana-credits: demo moves demo money, and never runs in production\n")
        return 1
    console = Console(highlight=False)
    data_dir = default_data_dir()
    running = find_running(data_dir)
    with contextlib.ExitStack() as stack:
        if running is None:
            console.print("No system is up in this checkout: starting one for the story.\n")
            system = stack.enter_context(System(settings, data_dir, console.print))
            try:
                running = system.start()
            except (SystemFailedError, PostgresError) as error:
                sys.stderr.write(f"mana-credits: {error}\n")
                return 1
        try:
            return asyncio.run(_tell(console, running, data_dir))
        except KeyboardInterrupt:
            return 130


async def _tell(console: Console, running: Running, data_dir: Path) -> int:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        story = Story(console, running, data_dir, session)
        began = time.monotonic()
        for number, (title, step) in enumerate(story.steps, start=1):
            console.print(f"[bold]{number:2}. {escape(title)}[/bold]")
            try:
                await step()
            except (
                StepFailedError,
                aiohttp.ClientError,
                TimeoutError,
                psycopg.Error,
                KeyError,
            ) as error:
                problem = str(error) or type(error).__name__
                console.print(f"    [red]failed:[/red] {escape(problem.strip())}")
                sys.stderr.write(f"mana-credits: step {number} failed: {title}\n")
                return 1
        console.print(
            f"\n[green]Every step did what it says.[/green] {time.monotonic() - began:.0f} s"
        )
        return 0


class Story:
    """Ann buys, spends and gives; Ben is given, subscribes, and runs out of credits."""

    def __init__(
        self, console: Console, running: Running, data_dir: Path, session: aiohttp.ClientSession
    ) -> None:
        self._console = console
        self._running = running
        self._session = session
        # New people for every telling, so that it can be told again on the same data.
        suffix = secrets.token_hex(4)
        self._ann = f"ann-{suffix}"
        self._ben = f"ben-{suffix}"
        self._tokens = {
            user: running.token(
                data_dir, user, name=name, email=f"{user}@example.org", email_verified=True
            )
            for user, name in ((self._ann, "Ann"), (self._ben, "Ben"))
        }
        self.steps: tuple[tuple[str, _Step], ...] = (
            ("Ann buys 500 credits with a card", self._buy),
            ("Ann spends 5 credits on an AI chat, and a repeated call moves nothing", self._spend),
            ("Ann cannot spend what she does not have", self._overspend),
            ("A research service holds 25 of her credits, and commits 20", self._reserve),
            ("Ann gives 50 credits to Ben", self._give),
            ("Ann and Ben turn Cloud Sync on, for 30 credits a month", self._activate),
            ("A month passes, and pg_cron charges Ann and pauses Ben", self._month_passes),
            ("Ben is told that his sync is paused", self._notice),
            ("Ben tops up and turns Cloud Sync on again", self._top_up),
            ("The ledger check finds nothing", self._check),
        )

    def _fact(self, text: str) -> None:
        self._console.print(f"    {escape(text)}")

    async def _call(
        self,
        method: str,
        path: str,
        *,
        user: str | None = None,
        expect: int = 200,
        body: Any = None,
    ) -> Any:
        """Call the API as a user, or with the service key; answers the JSON."""
        headers = (
            {"X-Service-Key": self._running.service_key}
            if user is None
            else {"Authorization": f"Bearer {self._tokens[user]}"}
        )
        url = f"{self._running.base_url}/api/v1{path}"
        async with self._session.request(method, url, json=body, headers=headers) as answer:
            told = await answer.json()
            if answer.status != expect:
                raise StepFailedError(f"{method} {path} answered {answer.status}: {told}")
            return told

    async def _balance(self, user: str) -> int:
        answer = await self._call("GET", "/credits/balance", user=user)
        balance: int = answer["balance"]
        return balance

    async def _buy(self) -> None:
        await self._purchase(self._ann, next(demo_package_ids()), 500)

    async def _purchase(self, user: str, package: str, expected: int) -> None:
        before = await self._balance(user)
        purchase = await self._call(
            "POST", "/credits/purchase", user=user, body={"packageId": package}
        )
        await self._pay(purchase["clientSecret"].partition("_secret_")[0])
        # Only the balance is looked at: asking for the purchase would ask Stripe, and hide a
        # webhook that is missing.
        await self._until(
            EVENT_SECONDS,
            "Stripe's webhook did not bring the credits",
            lambda: self._has_balance(user, before + expected),
        )
        done = await self._call("GET", f"/credits/purchase/{purchase['purchaseId']}", user=user)
        _require(done["status"] == "completed", f"the purchase is {done['status']}")
        self._fact(f"paid {purchase['amount'] / 100:.2f} €, the webhook brought {expected} credits")

    async def _pay(self, intent: str) -> None:
        """Pay as a browser would, with a test card."""
        method = (await self._stripe("payment_methods", CARD))["id"]
        customer = (await self._stripe(f"payment_intents/{intent}"))["customer"]
        await self._stripe(f"payment_methods/{method}/attach", {"customer": customer})
        await self._stripe(f"payment_intents/{intent}", {"payment_method": method})
        paid = await self._stripe(f"payment_intents/{intent}/confirm", {})
        _require(paid["status"] == "succeeded", f"the payment is {paid['status']}")

    async def _stripe(self, path: str, form: dict[str, str] | None = None) -> Any:
        async with self._session.request(
            "GET" if form is None else "POST",
            f"{self._running.stripe_url}/v1/{path}",
            data=form,
            headers={"Authorization": f"Bearer {self._running.stripe_key}"},
        ) as answer:
            told = await answer.json()
            if answer.status != 200:
                raise StepFailedError(f"Stripe answered {answer.status} to {path}: {told}")
            return told

    async def _spend(self) -> None:
        body = {
            "amount": 5,
            "appId": "chat",
            "description": "A question to Claude",
            "idempotencyKey": "question-1",
        }
        first = await self._call("POST", "/credits/use", user=self._ann, body=body)
        again = await self._call("POST", "/credits/use", user=self._ann, body=body)
        _require(
            first["transaction"]["id"] == again["transaction"]["id"]
            and again["newBalance"]["balance"] == 495,
            f"the balance is {again['newBalance']['balance']} after a repeated debit",
        )
        self._fact("495 credits are left")

    async def _overspend(self) -> None:
        body = {"amount": 5000, "appId": "chat", "description": "Too much"}
        refused = await self._call("POST", "/credits/use", user=self._ann, body=body, expect=402)
        self._fact(f"402 {refused['error']}: {refused['details']}")

    async def _reserve(self) -> None:
        hold = await self._call(
            "POST",
            "/internal/credits/reserve",
            body={"userId": self._ann, "amount": 25, "reason": "research:deep"},
        )
        _require(hold["balance"] == 470, f"the balance is {hold['balance']} beside the hold")
        done = await self._call(
            "POST",
            "/internal/credits/commit",
            body={"reservationId": hold["reservationId"], "amount": 20},
        )
        _require(done["balance"] == 475, f"the balance is {done['balance']} after the commit")
        self._fact("470 to spend beside the hold, 475 after the commit: 5 went back")

    async def _give(self) -> None:
        gift = await self._call(
            "POST",
            "/gifts",
            user=self._ann,
            expect=201,
            body={"totalCredits": 50, "message": "For your first month!"},
        )
        redeemed = await self._call(
            "POST", f"/gifts/{gift['code'].lower()}/redeem", user=self._ben, body={}
        )
        _require(
            redeemed["newBalance"] == 50 and await self._balance(self._ann) == 425,
            f"Ben has {redeemed['newBalance']} credits",
        )
        self._fact(f"{gift['url']}: Ben has 50 credits, from {redeemed['creatorName']}")

    async def _activate(self) -> None:
        for user, name in ((self._ann, "Ann"), (self._ben, "Ben")):
            done = await self._call("POST", "/sync/activate", user=user, body={})
            _require(done["amountCharged"] == 30, f"{name} was charged {done['amountCharged']}")
            self._fact(f"{name}: paid until {done['nextChargeAt'][:10]}")

    async def _month_passes(self) -> None:
        self._require_schedule()
        users = [self._ann, self._ben]
        with psycopg.connect(self._running.admin_database_url, autocommit=True) as admin:
            # Time cannot be waited for, so their subscriptions move a month into the past.
            admin.execute(
                """
                UPDATE credits.sync_subscriptions SET
                    anchor_at = anchor_at - interval '1 month',
                    next_charge_at = next_charge_at - interval '1 month',
                    paid_until = paid_until - interval '1 month'
                WHERE user_id = ANY(%s)
                """,
                [users],
            )

        async def charged() -> bool:
            ann = await self._call("GET", "/sync/status", user=self._ann)
            ben = await self._call("GET", "/sync/status", user=self._ben)
            return bool(ann["nextChargeAt"] > _now() and ben["paused"])

        await self._until(CRON_SECONDS, "pg_cron charged nothing", charged, "waiting for pg_cron")
        _require(
            await self._balance(self._ann) == 365 and await self._balance(self._ben) == 20,
            "the charge took something else than 30 credits from Ann alone",
        )
        self._fact("Ann was charged 30 credits; Ben has 20, so that his sync is paused")

    def _require_schedule(self) -> None:
        with psycopg.connect(self._running.cron_database_url, autocommit=True) as cron:
            row = cron.execute(
                "SELECT schedule, active FROM cron.job WHERE jobname = %s",
                ["mana-credits:recurring-charge"],
            ).fetchone()
        if row is None or not row[1]:
            raise StepFailedError(
                "the job mana-credits:recurring-charge is not scheduled:"
                " mana-credits cron install --every-minute recurring-charge"
            )
        if row[0] != "* * * * *":
            raise StepFailedError(
                f"the job mana-credits:recurring-charge runs at {row[0]}, which nobody waits for:"
                " mana-credits cron install --every-minute recurring-charge"
            )

    async def _notice(self) -> None:
        found: list[Any] = []

        async def arrived() -> bool:
            async with self._session.get(
                self._running.mailbox_url, params={"userId": self._ben}
            ) as answer:
                found[:] = await answer.json()
            return bool(found)

        await self._until(EVENT_SECONDS, "no notice came", arrived)
        _require(found[0]["data"]["kind"] == "sync_paused", f"the notice is {found[0]}")
        self._fact(f"to {found[0]['recipient']}: {found[0]['subject']}")

    async def _top_up(self) -> None:
        await self._purchase(self._ben, next(demo_package_ids()), 500)
        done = await self._call("POST", "/sync/activate", user=self._ben, body={})
        _require(
            done["amountCharged"] == 30 and await self._balance(self._ben) == 490,
            f"the activation charged {done['amountCharged']}",
        )
        self._fact(f"paid until {done['nextChargeAt'][:10]}, 490 credits are left")

    async def _check(self) -> None:
        with psycopg.connect(self._running.admin_database_url, autocommit=True) as admin:
            found = admin.execute("SELECT * FROM credits.check_ledger() LIMIT 3").fetchall()
            rows = admin.execute("SELECT count(*) FROM credits.transactions").fetchone()
        _require(not found, f"the ledger is not sound: {found}")
        self._fact(f"{rows[0] if rows else 0} ledger rows, no violation")

    async def _has_balance(self, user: str, balance: int) -> bool:
        return await self._balance(user) == balance

    async def _until(
        self,
        seconds: float,
        problem: str,
        condition: Callable[[], Awaitable[bool]],
        waiting: str | None = None,
    ) -> None:
        """Wait until something holds, with a bar where it takes long."""
        began = time.monotonic()
        with Progress(
            TextColumn("    {task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=waiting is None,
        ) as progress:
            task = progress.add_task(waiting or "", total=seconds)
            while not await condition():
                elapsed = time.monotonic() - began
                if elapsed > seconds:
                    raise StepFailedError(f"{problem} within {seconds:.0f} s")
                progress.update(task, completed=elapsed)
                await asyncio.sleep(0.3)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise StepFailedError(problem)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
