"""Everything at once: twenty callers, few users, every operation in a random order."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.databases import Clone, Connection, connect
from tests.support.races import make_due, outcome, require_sound
from tests.support.running import Answer, Running

CALLERS = 20
STEPS = 25
USERS = [f"user-{number}" for number in range(5)]
FUTURE = "clock_timestamp() + interval '400 days'"


@dataclass
class World:
    """What the callers know of each other's moves, and what they were told."""

    holds: list[str] = field(default_factory=list)
    gifts: list[dict[str, Any]] = field(default_factory=list)
    debits: list[dict[str, Any]] = field(default_factory=list)
    moves: list[str] = field(default_factory=list)
    """The ids of the ledger rows of debits, commits, refunds and grants, once per move."""
    outcomes: Counter[str] = field(default_factory=Counter)

    def note(self, name: str, answer: Answer) -> None:
        """Remember an answer, and what it made."""
        told = outcome(answer)
        self.outcomes[f"{name}: {told}"] += 1
        if answer.status not in (200, 201):
            return
        body = answer.body
        if "replayed" not in told:
            if "transaction" in body:
                self.moves.append(body["transaction"]["id"])
            elif "transactionId" in body:
                self.moves.append(body["transactionId"])
        if name == "use":
            self.debits.append(body["transaction"])
        elif name == "reserve":
            self.holds.append(body["reservationId"])
        elif name == "give":
            self.gifts.append(body)


class Caller:
    """One of the callers, with dice of his own."""

    def __init__(self, service: Running, world: World, dice: random.Random) -> None:
        self._service = service
        self._world = world
        self._dice = dice

    async def run(self) -> None:
        """Take a number of random steps."""
        names = ["use", "serve", "grant", "reserve", "commit", "refund_hold", "refund", "give"]
        names += ["redeem", "cancel", "pending", "activate", "deactivate", "interval", "charge"]
        names += ["gift_sync", "revoke_sync", "init", "balance"]
        weights = [6, 4, 3, 5, 5, 3, 3, 4, 5, 2, 1, 3, 2, 1, 1, 1, 1, 1, 2]
        for _ in range(STEPS):
            (name,) = self._dice.choices(names, weights)
            answer = await self._take(name)
            if answer is not None:
                self._world.note(name, answer)

    async def _take(self, name: str) -> Answer | None:
        dice, world = self._dice, self._world
        user = dice.choice(USERS)
        amount = dice.choice([1, 2, 5, 10, 40])
        key: dict[str, Any] = {}
        if dice.random() < 0.4:
            key = {"idempotencyKey": f"key-{dice.randrange(8)}"}
        debit = {"amount": amount, "appId": "chat", "description": "a debit", **key}
        match name:
            case "use":
                return await self._as(user, "POST", "/credits/use", debit)
            case "serve":
                return await self._internal("credits/use", {"userId": user, **debit})
            case "grant":
                body = {"userId": user, "amount": amount, "reason": "x"}
                reference = {"referenceId": f"quest-{dice.randrange(30)}"}
                return await self._internal("credits/grant", {**body, **reference})
            case "reserve":
                body = {"userId": user, "amount": amount, "reason": "chat:held", **key}
                return await self._internal("credits/reserve", body)
            case "commit" if world.holds:
                body = {"reservationId": dice.choice(world.holds), **key}
                return await self._internal("credits/commit", body)
            case "refund_hold" if world.holds:
                body = {"reservationId": dice.choice(world.holds), **key}
                return await self._internal("credits/refund-reservation", body)
            case "refund" if world.debits:
                made = dice.choice(world.debits)
                body = {"userId": made["userId"], "amount": 1, "description": "x", **key}
                return await self._internal("credits/refund", {**body, "transactionId": made["id"]})
            case "give":
                target = {"targetEmail": f"{user}@example.org"} if dice.random() < 0.3 else {}
                body = {"totalCredits": amount, **target, **key}
                return await self._as(dice.choice(USERS), "POST", "/gifts", body)
            case "redeem" if world.gifts:
                code = dice.choice(world.gifts[-6:])["code"]
                return await self._as(user, "POST", f"/gifts/{code}/redeem", key)
            case "cancel" if world.gifts:
                gift = dice.choice(world.gifts[-6:])
                return await self._as(gift["creatorId"], "DELETE", f"/gifts/{gift['id']}", None)
            case "pending":
                body = {"userId": user, "email": f"{user}@example.org"}
                return await self._internal("gifts/redeem-pending", body)
            case "activate":
                return await self._as(user, "POST", "/sync/activate", key)
            case "deactivate":
                return await self._as(user, "POST", "/sync/deactivate", {})
            case "interval":
                body = {"interval": dice.choice(["monthly", "quarterly"])}
                return await self._as(user, "POST", "/sync/change-interval", body)
            case "charge":
                return await self._internal("sync/charge-recurring", {})
            case "gift_sync":
                return await self._admin("POST", user)
            case "revoke_sync":
                return await self._admin("DELETE", user)
            case "init":
                return await self._internal("credits/init", {"userId": user})
            case "balance":
                return await self._as(user, "GET", "/credits/balance", None)
        return None

    async def _as(self, user: str, method: str, path: str, body: object) -> Answer:
        # An address that changes is written down again and again.
        claims = {"email": f"{user}@example.{self._dice.choice(['org', 'net'])}", "name": user}
        return await self._service.call(method, path, user=user, claims=claims, json=body)

    async def _internal(self, path: str, body: object) -> Answer:
        return await self._service.call("POST", f"/internal/{path}", internal=True, json=body)

    async def _admin(self, method: str, user: str) -> Answer:
        return await self._service.call(
            method, f"/admin/sync/{user}/gift", user="root", claims={"role": "admin"}
        )


async def jobs(database: Clone, stopping: asyncio.Event, dice: random.Random) -> None:
    """Let time pass for some, and run the jobs over and over, each on its own."""
    connection = await connect(database.admin_url)
    try:
        while not stopping.is_set():
            await make_due(connection, [dice.choice(USERS)], dice.randrange(1, 700))
            await connection.fetchrow("SELECT * FROM credits.charge_due_subscriptions(2)")
            # Not all the time: most holds and gifts are to be had until somebody has them.
            if dice.random() < 0.2:
                await connection.fetchrow(
                    f"SELECT * FROM credits._expire_reservations({FUTURE}, 2, '-infinity', '')"
                )
                await connection.fetchrow(
                    f"SELECT * FROM gifts._expire_gifts({FUTURE}, 2, '-infinity', '')"
                )
            await connection.fetchrow("SELECT * FROM credits.announce_charges()")
            # In the middle of it all: moves under way are no damage.
            await require_sound(connection)
    finally:
        await connection.close()


@pytest.mark.parametrize("seed", range(3))
async def test_everything_at_once_leaves_the_books_sound(
    service: Running, database: Clone, admin: Connection, seed: int
) -> None:
    world = World()
    for user in USERS:
        await service.grant(user, 300)
    dice = random.Random(seed)
    callers = [Caller(service, world, random.Random(dice.random())) for _ in range(CALLERS)]
    stopping = asyncio.Event()
    running = [
        asyncio.create_task(jobs(database, stopping, random.Random(dice.random())))
        for _ in range(2)
    ]

    try:
        await asyncio.gather(*(caller.run() for caller in callers))
    finally:
        stopping.set()
        await asyncio.gather(*running)

    refused = [told for told in world.outcomes if ": 5" in told]
    assert refused == []
    rows = await admin.fetch(
        "SELECT id FROM credits.transactions"
        " WHERE type IN ('usage', 'refund', 'grant') AND app_id <> 'sync'"
        " AND idempotency_key IS DISTINCT FROM 'grant:start'"
    )
    # What is in the ledger was told to somebody, and what somebody was told is in the ledger.
    assert sorted(world.moves) == sorted(str(row["id"]) for row in rows)
    await require_sound(admin)
