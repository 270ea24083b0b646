"""kill -9 of the service between Stripe's answer and the database's, and what is left of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from service.dev.postgres import Cluster
from service.queries import stripe_events
from tests.support.answers import header
from tests.support.databases import Clone, Connection, as_environment, connect
from tests.support.mortal import Mortal, mortal_service
from tests.support.running import Answer
from tests.support.stripe import SECRET_KEY, WEBHOOK_SECRET, Line, Shop, intent_of, opened
from tests.support.waiting import until

URLS = {"successUrl": "http://localhost:5173/ok", "cancelUrl": "http://localhost:5173/no"}
LISTING = "GET /v1/events"
INTENT = "POST /v1/payment_intents"
SESSION = "POST /v1/checkout/sessions"
CUSTOMER = "POST /v1/customers"
WAKE = f"NOTIFY {stripe_events.CHANNEL}"


@dataclass
class Grave:
    """A shop whose service is killed while Stripe's answers are held up."""

    shop: Shop
    service: Mortal
    holder: Connection

    def hold(self, call: str) -> None:
        """Let Stripe's answers to a call wait from now on."""
        self.shop.line.held[call] = asyncio.Event()

    def release(self) -> None:
        """Let them all go."""
        for event in self.shop.line.held.values():
            event.set()
        self.shop.line.held.clear()

    async def answered(self, call: str, user: str | None = None) -> None:
        """Wait until Stripe has done what a call asked for, and only its answer is missing."""
        await until(lambda: bool(self.made(call, user)))

    def made(self, call: str, user: str | None) -> set[str]:
        """The ids of what Stripe answered to a call, about one user alone."""
        return {
            answer.get("id", "a list")
            for name, answer in self.shop.line.answers
            if name == call and (user is None or answer["metadata"]["userId"] == user)
        }

    async def first_round_is_over(self) -> None:
        """Wait until the reconciliation with which a service starts has ended."""

        async def is_over() -> bool:
            # Longer ahead it would be the lease.
            return bool(
                await self.shop.admin.fetchval(
                    "SELECT next_at - clock_timestamp() BETWEEN '0 s' AND '1 min'"
                    " FROM credits.stripe_listing"
                )
            )

        await until(is_over)


@pytest.fixture
async def grave(
    tmp_path: Path,
    database: Clone,
    cluster: Cluster,
    line: Line,
    stripe_url: str,
    admin: Connection,
) -> AsyncIterator[Grave]:
    """Stripe's list of events is broken, so that no event heals what a test is about."""
    line.broken[LISTING] = 500
    environment = as_environment(
        cluster,
        database.name,
        STRIPE_SECRET_KEY=SECRET_KEY,
        STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET,
        STRIPE_API_BASE=line.url,
    )
    holder = await connect(database.admin_url)
    async with (
        mortal_service(tmp_path, environment) as service,
        opened(service.running, line, stripe_url, admin) as shop,
    ):
        made = Grave(shop, service, holder)
        await made.first_round_is_over()
        yield made
    await holder.close()


async def unanswered(call: Awaitable[Answer]) -> None:
    """The caller saw nothing but a connection that broke."""
    with pytest.raises(aiohttp.ClientError):
        await call


async def credited_once(shop: Shop, user: str, purchase_id: str) -> None:
    """The purchase is complete, and whatever is heard of it again moves nothing."""
    await shop.becomes(purchase_id, "completed")
    intent = (await shop.row(purchase_id))["stripe_payment_intent_id"]
    for _ in range(2):
        assert (await shop.hand_on("payment_intent.succeeded", intent)).status == 200
    assert (await shop.look(user, purchase_id)).body["status"] == "completed"
    assert await shop.service.balance(user) == 500
    moves = "SELECT count(*) FROM credits.transactions WHERE user_id = $1"
    assert await shop.admin.fetchval(moves, user) == 1


@pytest.mark.parametrize("moment", ["unheard", "unwritten", "untold"])
async def test_what_a_killed_service_had_under_way_is_done_once(grave: Grave, moment: str) -> None:
    """Killed before it hears Stripe's answer, before that is written down, or before it can tell.

    Ann and Bob begin to buy, in the app and on Stripe's page, and Cleo is to become a customer of
    Stripe's first; Dan looks at what he paid, Eve's payment is reconciled, Fay's comes by webhook.
    """
    shop = grave.shop
    buyers = {"ann": (INTENT, {}), "bob": (SESSION, URLS), "cleo": (CUSTOMER, {})}
    paid = {user: await shop.paid(user) for user in ("dan", "eve", "fay")}
    asked = {
        user: f"GET /v1/payment_intents/{paid[user]['stripe_payment_intent_id']}"
        for user in ("dan", "eve")
    }

    async def buy(user: str) -> Answer:
        return await shop.buy(user, idempotencyKey=f"of {user}", **buyers[user][1])

    calls: list[asyncio.Task[Answer]] = []
    for user, (call, _) in buyers.items():
        grave.hold(call)
        calls.append(asyncio.create_task(buy(user)))
        await grave.answered(call, user)
    for call in asked.values():
        grave.hold(call)
    calls.append(asyncio.create_task(shop.look("dan", str(paid["dan"]["id"]))))
    due = (
        "UPDATE credits.purchases SET check_at = clock_timestamp()"
        " WHERE user_id = 'eve' AND check_at IS NOT NULL"
    )
    await shop.admin.execute(due)
    await shop.admin.execute(WAKE)
    for user, call in asked.items():
        await grave.answered(call, user)
    letter = await shop.letter("payment_intent.succeeded", paid["fay"]["stripe_payment_intent_id"])

    if moment == "unheard":
        await grave.service.kill()
        grave.release()
    else:
        await grave.holder.execute("BEGIN")
        await grave.holder.execute("SELECT FROM credits.purchases FOR UPDATE")
        await grave.holder.execute("SELECT FROM credits.balances WHERE user_id = 'cleo' FOR UPDATE")
        grave.release()
        calls.append(asyncio.create_task(shop.deliver(*letter)))
        await grave.service.kill_while_writing(
            shop.admin, grave.holder, len(buyers) + len(paid), committed=moment == "untold"
        )
    for call_ in calls:
        await unanswered(call_)
    begun = {
        row["user_id"]: row for row in await shop.admin.fetch("SELECT * FROM credits.purchases")
    }
    written = {
        user
        for user, row in begun.items()
        if (row["stripe_payment_intent_id"] or row["stripe_checkout_session_id"])
        and (user in buyers or row["completed_at"] is not None)
    }
    assert written == ({"ann", "bob", *paid} if moment == "untold" else set())

    # A new service comes when all that waits for a time is due again.
    await shop.admin.execute(due)
    await shop.admin.execute("UPDATE credits.purchases SET polled_at = NULL")
    await grave.service.start()
    for user, (call, urls) in buyers.items():
        answer = await buy(user)
        assert answer.status == 200
        assert answer.body["purchaseId"] == str(begun[user]["id"])
        assert len(grave.made(CUSTOMER, user)) == 1
        if urls:
            (session,) = grave.made(SESSION, user)
            assert (await shop.press(answer.body["checkoutUrl"], "card"))[0] == 303
            assert (await shop.hand_on("checkout.session.completed", session)).status == 200
        else:
            assert grave.made(INTENT, user) == {intent_of(answer.body["clientSecret"])}
            assert await shop.pay(answer.body["clientSecret"]) == "succeeded"
            (intent,) = grave.made(INTENT, user)
            assert (await shop.hand_on("payment_intent.succeeded", intent)).status == 200
        again = await buy(user)
        assert header(again, "Idempotent-Replayed") == "true"
        assert again.body["purchaseId"] == answer.body["purchaseId"]
        assert len(grave.made(call, user)) == 1
    assert (await shop.look("dan", str(paid["dan"]["id"]))).body["status"] == "completed"
    assert (await shop.deliver(*letter)).body == {"received": True}
    for user, row in begun.items():
        await credited_once(shop, user, str(row["id"]))
    assert await shop.admin.fetchval("SELECT count(*) FROM credits.purchases") == len(begun)


@pytest.mark.parametrize("moment", ["unheard", "unwritten"])
async def test_a_killed_reading_of_events_is_taken_up_when_its_lease_is_over(
    grave: Grave, moment: str
) -> None:
    shop = grave.shop
    purchase = await shop.paid("ann")
    due = "UPDATE credits.stripe_listing SET next_at = clock_timestamp()"
    grave.hold(LISTING)
    del shop.line.broken[LISTING]
    await shop.admin.execute(due)
    await shop.admin.execute(WAKE)
    await grave.answered(LISTING)
    if moment == "unheard":
        await grave.service.kill()
        grave.release()
    else:
        await grave.holder.execute("BEGIN")
        await grave.holder.execute("SELECT FROM credits.purchases FOR UPDATE")
        grave.release()
        await grave.service.kill_while_writing(shop.admin, grave.holder, 1, committed=False)
    assert await shop.admin.fetchval(
        "SELECT next_at > clock_timestamp() + interval '1 minute' FROM credits.stripe_listing"
    )
    assert await shop.admin.fetchval("SELECT count(*) FROM credits.stripe_events") == 0

    await shop.admin.execute(due)
    await grave.service.start()
    await credited_once(shop, "ann", str(purchase["id"]))
