"""The ways to drive the product: the SQL functions, and the HTTP API over them.

A driver has each operation of the model under the same name, with the same arguments, and answers
in the same words, so that one set of rules drives both. The jobs, the time and the look into the
tables are the database's in either case.
"""

import asyncio
import itertools
import json
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
from aiohttp import web

from tests.model.model import STATUS, Gift, Hold, Purchase, RefusedError, Row, email_of
from tests.support.batches import Call, run_batch
from tests.support.calls import BATCH_OPERATIONS, statement
from tests.support.databases import Connection, detail
from tests.support.running import Answer, Running
from tests.support.stripe import intent_of, made_up, sign

UNKNOWN_CODE = "ZZZZZZZZZZZZ"
SQLSTATES = {
    "MC001": "invalid_request",
    "MC002": "insufficient_credits",
    "MC003": "idempotency_key_reused",
    "MC004": "not_found",
    "MC005": "gift_not_active",
    "MC006": "gift_expired",
    "MC008": "sync_already_active",
    "MC009": "sync_already_gifted",
    "MC010": "sync_not_active",
    "MC011": "sync_gifted",
    "MC012": "sync_not_gifted",
    "MC013": "reservation_resolved",
}
OUTCOMES = {
    "failed_wrong_user": "gift_wrong_recipient",
    "failed_expired": "gift_expired",
    "failed_depleted": "gift_not_active",
    "failed_cancelled": "gift_not_active",
}
EVENTS = {
    "succeeded": "payment_intent.succeeded",
    "failed": "payment_intent.payment_failed",
    "canceled": "payment_intent.canceled",
    "processing": "payment_intent.processing",
}
EPOCH = 1_767_225_600
"""The beginning of Stripe's time in the model, in Unix seconds."""
STAYS = ("packages", "operation_prices", "sync_prices", "jobs", "stripe_listing")
"""Tables that no user fills."""


class Driver:
    """What both ways share; `admin` is a superuser's connection."""

    words: ClassVar[str]
    """How it drives, for whoever reads a failure."""

    def __init__(self, runner: asyncio.Runner, admin: Connection) -> None:
        self._runner = runner
        self.admin = admin

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """One operation of the model's; raises RefusedError."""
        method = getattr(self, operation)
        answer: dict[str, Any] = self._runner.run(method(**arguments))
        return answer

    def reset(self, prices: Mapping[str, int]) -> None:
        """As if nothing had ever happened; the ledger is not append-only for a replica."""
        self._runner.run(self._reset(prices))

    async def _reset(self, prices: Mapping[str, int]) -> None:
        tables = await self.admin.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables"
            " WHERE schemaname IN ('credits', 'gifts') AND tablename <> ALL ($1)",
            STAYS,
        )
        deletes = "; ".join(f"DELETE FROM {table['name']}" for table in tables)
        await self.admin.execute(
            f"BEGIN; SET LOCAL session_replication_role = replica; {deletes}; COMMIT"
        )
        for interval, price in prices.items():
            await self.change_price(interval, price)

    # Jobs and time

    async def expire_holds(self) -> dict[str, Any]:
        return {"done": await self._batches("credits.expire_reservations")}

    async def expire_gifts(self) -> dict[str, Any]:
        return {"done": await self._batches("gifts.expire_gifts")}

    async def announce(self) -> dict[str, Any]:
        return {"done": await self._batches("credits.announce_charges")}

    async def _batches(self, function: str) -> int:
        """Call a job's function in batches so small that there are several."""
        done, after, after_key = 0, None, ""
        while True:
            batch = await self.admin.fetchrow(
                f"SELECT * FROM {function}(1, coalesce($1, '-infinity'::timestamptz), $2)",
                after,
                after_key,
            )
            assert batch is not None
            assert batch["errors"] == 0
            done += int(batch["done"])
            if not batch["more"]:
                return done
            after, after_key = batch["last_at"], batch["last_key"]

    async def change_price(self, interval: str, price: int) -> dict[str, Any]:
        await self.admin.execute(
            "UPDATE credits.sync_prices SET price = $2 WHERE billing_interval = $1::text"
            "::credits.sync_interval",
            interval,
            price,
        )
        return {}

    async def pass_time(self, hours: int) -> dict[str, Any]:
        await self._forget_attempts()
        await self.admin.execute(
            f"""
            BEGIN;
            UPDATE credits.reservations SET expires_at = expires_at - interval '{hours} hours';
            UPDATE gifts.gift_codes SET expires_at = expires_at - interval '{hours} hours';
            UPDATE credits.sync_subscriptions SET
                anchor_at = anchor_at - interval '{hours} hours',
                next_charge_at = next_charge_at - interval '{hours} hours',
                paid_until = paid_until - interval '{hours} hours',
                announced_for = announced_for - interval '{hours} hours';
            COMMIT
            """
        )
        return {}

    async def _forget_attempts(self) -> None:
        """The limits on tries of codes are no part of the model."""
        await self.admin.execute("DELETE FROM credits.rate_limits")

    async def _anchor(self, user: str) -> datetime:
        anchor: datetime = await self.admin.fetchval(
            "SELECT anchor_at FROM credits.sync_subscriptions WHERE user_id = $1", user
        )
        return anchor

    # What Stripe says

    async def _tell(self, event: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    async def payment_event(
        self, event: str, kind: str, at: int, purchase: Purchase, cents: int, currency: str
    ) -> dict[str, Any]:
        about = {
            "id": purchase.intent,
            "object": "payment_intent",
            "status": kind,
            "amount": cents,
            "amount_received": cents if kind == "succeeded" else 0,
            "currency": currency,
            "metadata": {"purchaseId": purchase.id, "userId": purchase.user},
        }
        return await self._tell(made_up(EVENTS[kind], about, event) | {"created": EPOCH + at})

    async def refund_event(
        self, event: str, purchase: Purchase, refund: str, cents: int, status: str
    ) -> dict[str, Any]:
        kind = {"pending": "refund.created", "failed": "refund.failed"}.get(
            status, "refund.updated"
        )
        about = _reversal("refund", purchase, refund, cents, status)
        return await self._tell(made_up(kind, about, event))

    async def dispute_event(
        self, event: str, purchase: Purchase, dispute: str, cents: int, type_: str, status: str
    ) -> dict[str, Any]:
        about = _reversal("dispute", purchase, dispute, cents, status)
        return await self._tell(made_up(type_, about, event))

    async def foreign_event(self, event: str) -> dict[str, Any]:
        about = {"id": f"pi_of_another_shop_{event}", "object": "payment_intent", "metadata": {}}
        return await self._tell(made_up("payment_intent.succeeded", about, event))

    async def _event_state(self, event: str) -> dict[str, Any]:
        state = await self.admin.fetchval(
            "SELECT state::text FROM credits.stripe_events WHERE id = $1", event
        )
        return {"state": state}

    # Looking into the tables

    def state(self, users: list[str]) -> dict[str, Any]:
        """What stands in the database."""
        return self._runner.run(self._state(users))

    def violations(self) -> list[dict[str, Any]]:
        """What the ledger check finds in the whole database."""
        return self._runner.run(self._violations())

    def deadlocks(self) -> int:
        """How often transactions waited in a circle."""
        return self._runner.run(self._deadlocks())

    async def _deadlocks(self) -> int:
        number: int = await self.admin.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
        return number

    async def _violations(self) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.admin.fetch("SELECT * FROM credits.check_ledger()")]

    async def _state(self, users: list[str]) -> dict[str, Any]:
        async def rows(query: str) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await self.admin.fetch(query)]

        balances = await rows(
            "SELECT user_id, balance, reserved, total_earned, total_spent FROM credits.balances"
        )
        ledger: dict[str, list[Any]] = {user: [] for user in users}
        for user, *row in await rows(
            "SELECT user_id, id::text, type::text, origin::text, amount, balance_before,"
            " balance_after, app_id, CASE WHEN origin <> 'system' THEN idempotency_key END"
            " FROM credits.transactions ORDER BY user_id, seq"
        ):
            ledger[user].append(tuple(row))
        attempts: dict[str, list[Any]] = {}
        for user, *row in await rows(
            "SELECT user_id, gift_id::text, outcome::text FROM gifts.gift_redemptions"
            ' ORDER BY user_id, gift_id::text COLLATE "C", outcome::text COLLATE "C"'
        ):
            attempts.setdefault(user, []).append(tuple(row))
        notices: dict[str, dict[str, int]] = {}
        for user, kind, number in await rows(
            "SELECT user_id, kind::text, count(*) FROM credits.notices GROUP BY 1, 2"
        ):
            notices.setdefault(user, {})[kind] = number
        sync = await rows(
            "SELECT user_id, active, gifted, paused_at IS NOT NULL, anchor_at, next_charge_at,"
            " paid_until FROM credits.sync_subscriptions"
        )

        async def by_first(query: str) -> dict[str, tuple[Any, ...]]:
            return {first: tuple(rest) for first, *rest in await rows(query)}

        return {
            "balances": dict.fromkeys(users, (0, 0, 0, 0))
            | {user: tuple(row) for user, *row in balances},
            "ledger": ledger,
            "debit refunds": dict(
                await rows("SELECT debit_id::text, refunded FROM credits.debit_refunds")
            ),
            "holds": await by_first(
                "SELECT id::text, user_id, amount, status::text, committed_amount"
                " FROM credits.reservations"
            ),
            "gifts": await by_first(
                "SELECT id::text, creator_id, total_credits, status::text, redeemed_by"
                " FROM gifts.gift_codes"
            ),
            "attempts": attempts,
            "sync": dict.fromkeys(users, (False, False, False, None, None, None))
            | {user: tuple(row) for user, *row in sync},
            "purchases": await by_first(
                "SELECT id::text, user_id, status::text, transaction_id IS NOT NULL"
                " FROM credits.purchases"
            ),
            "reversals": await by_first(
                "SELECT id, purchase_id::text, 'refund', credits FROM credits.stripe_refunds"
                " UNION ALL"
                " SELECT id, purchase_id::text, 'dispute', credits FROM credits.stripe_disputes"
            ),
            "notices": notices,
            "events": dict(await rows("SELECT id, state::text FROM credits.stripe_events")),
        }


class SqlDriver(Driver):
    """The functions, called by the service's login."""

    words = "SQL"

    def __init__(self, runner: asyncio.Runner, admin: Connection, login: Connection) -> None:
        super().__init__(runner, admin)
        self._login = login
        self._numbers = itertools.count(1)

    async def _rows(self, function: str, **arguments: Any) -> list[asyncpg.Record]:
        try:
            return await self._login.fetch(statement(function, arguments), *arguments.values())
        except asyncpg.PostgresError as error:
            if error.sqlstate not in SQLSTATES:
                raise
            raise _refused(error.sqlstate, detail(error)) from None

    async def _row(self, function: str, **arguments: Any) -> asyncpg.Record:
        (row,) = await self._rows(function, **arguments)
        return row

    async def use(
        self, user: str, origin: str, amount: int, app: str, key: str | None
    ) -> dict[str, Any]:
        move = await self._row(
            "credits.use_credits",
            user_id=user,
            amount=amount,
            app_id=app,
            description="Use",
            idempotency_key=key,
            origin=origin,
        )
        return _moved(move)

    async def refund(
        self, user: str, amount: int, app: str, key: str | None, debit: Row | None
    ) -> dict[str, Any]:
        move = await self._row(
            "credits.refund_credits",
            user_id=user,
            amount=amount,
            app_id=app,
            description="Refund",
            idempotency_key=key,
            transaction_id=None if debit is None else debit.id,
        )
        return _moved(move)

    async def grant(self, user: str, amount: int, reference: str) -> dict[str, Any]:
        move = await self._row(
            "credits.grant_credits",
            user_id=user,
            amount=amount,
            reason="model",
            reference_id=reference,
        )
        return {
            "replayed": move["replayed"],
            "transaction": str(move["id"]),
            "available": move["available"],
        }

    async def init(self, user: str) -> dict[str, Any]:
        row = await self._row("credits.init_balance", user_id=user)
        return {
            "available": row["available"],
            "earned": row["total_earned"],
            "spent": row["total_spent"],
        }

    async def reserve(
        self, user: str, amount: int, reason: str, hours: int, key: str | None
    ) -> dict[str, Any]:
        hold = await self._row(
            "credits.reserve_credits",
            user_id=user,
            amount=amount,
            reason=reason,
            expires_in_seconds=hours * 3600,
            idempotency_key=key,
        )
        return {
            "replayed": hold["replayed"],
            "hold": str(hold["reservation_id"]),
            "expires": hold["expires_at"],
            "available": hold["available"],
        }

    async def commit(
        self, hold: Hold, user: str | None, amount: int | None, key: str | None
    ) -> dict[str, Any]:
        done = await self._row(
            "credits.commit_reservation",
            reservation_id=hold.id,
            user_id=user,
            amount=amount,
            idempotency_key=key,
        )
        return {
            "replayed": done["replayed"],
            "transaction": str(done["transaction_id"]),
            "amount": done["amount"],
            "available": done["available"],
        }

    async def give_back(self, hold: Hold, user: str | None, key: str | None) -> dict[str, Any]:
        done = await self._row(
            "credits.refund_reservation",
            reservation_id=hold.id,
            user_id=user,
            idempotency_key=key,
        )
        return {"replayed": done["replayed"], "available": done["available"]}

    async def give(
        self, user: str, credits: int, address: str | None, days: int, key: str | None
    ) -> dict[str, Any]:
        gift = await self._row(
            "gifts.create_gift",
            user_id=user,
            credits=credits,
            type="simple" if address is None else "personalized",
            target_email=address,
            expiration_days=days,
            idempotency_key=key,
            email=email_of(user),
        )
        return {"replayed": gift["replayed"], **_sql_gift(gift)}

    async def look_up(self, gift: Gift | None) -> dict[str, Any]:
        seen = await self._row("gifts.get_gift", code=UNKNOWN_CODE if gift is None else gift.code)
        return {
            "type": seen["type"],
            "status": seen["status"],
            "credits": seen["total_credits"],
            "expires": seen["expires_at"],
        }

    async def redeem(
        self, gift: Gift | None, user: str, email: str, verified: bool | None, key: str | None
    ) -> dict[str, Any]:
        got = await self._row(
            "gifts.redeem_gift",
            code=UNKNOWN_CODE if gift is None else _typed(gift.code),
            user_id=user,
            email=email,
            email_verified=verified,
            idempotency_key=key,
        )
        if got["outcome"] != "success":
            raise RefusedError(OUTCOMES[got["outcome"]], outcome=got["outcome"])
        return {
            "replayed": got["replayed"],
            "credits": got["credits"],
            "available": got["available"],
        }

    async def redeem_pending(self, user: str, email: str, verified: bool | None) -> dict[str, Any]:
        got = await self._row(
            "gifts.redeem_pending_gifts", user_id=user, email=email, email_verified=verified
        )
        return {"redeemed": got["redeemed"], "credits": got["total_credits"]}

    async def cancel(self, gift: Gift, user: str, key: str | None) -> dict[str, Any]:
        done = await self._row(
            "gifts.cancel_gift", user_id=user, gift_id=gift.id, idempotency_key=key
        )
        return {"replayed": done["replayed"], "credits": done["refunded_credits"]}

    async def activate(self, user: str, interval: str, key: str | None) -> dict[str, Any]:
        done = await self._row(
            "credits.activate_sync",
            user_id=user,
            interval=interval,
            idempotency_key=key,
            email=email_of(user),
        )
        anchor = {} if done["replayed"] else {"anchor": await self._anchor(user)}
        return {
            "replayed": done["replayed"],
            "interval": done["billing_interval"],
            "charged": done["amount_charged"],
            "next": done["next_charge_at"],
            **anchor,
        }

    async def deactivate(self, user: str) -> dict[str, Any]:
        await self._row("credits.deactivate_sync", user_id=user)
        return {}

    async def change_interval(self, user: str, interval: str) -> dict[str, Any]:
        done = await self._row("credits.change_sync_interval", user_id=user, interval=interval)
        return {
            "interval": done["billing_interval"],
            "price": done["price"],
            "effective": done["effective_at"],
        }

    async def gift_sync(self, user: str) -> dict[str, Any]:
        done = await self._row("credits.gift_sync", user_id=user)
        return {"active": done["active"], "gifted": done["gifted"]}

    async def revoke_sync(self, user: str) -> dict[str, Any]:
        done = await self._row("credits.revoke_sync_gift", user_id=user)
        return {"active": done["active"], "gifted": done["gifted"]}

    async def charge(self) -> dict[str, Any]:
        # What was planned is what is done.
        planned = [row["action"] for row in await self._rows("credits.preview_charge")]
        did = {"charged": 0, "paused": 0, "errors": 0}
        more = True
        while more:
            batch = await self._row("credits.charge_due_subscriptions", batch_size=2)
            did = {name: did[name] + batch[name] for name in did}
            more = batch["more"]
        assert (planned.count("charge"), planned.count("pause")) == (did["charged"], did["paused"])
        return did

    async def start_purchase(self, user: str, package: str, key: str | None) -> dict[str, Any]:
        made = await self._row(
            "credits.start_purchase",
            user_id=user,
            package_id=package,
            idempotency_key=key,
            email=email_of(user),
        )
        intent = made["stripe_payment_intent_id"]
        if intent is None:
            recorded = await self._row(
                "credits.record_payment_intent",
                user_id=user,
                purchase_id=made["id"],
                stripe_payment_intent_id=f"pi_{next(self._numbers)}",
                stripe_customer_id="cus_1",
            )
            intent = recorded["stripe_payment_intent_id"]
        return {
            "replayed": made["replayed"],
            "id": str(made["id"]),
            "intent": intent,
            "credits": made["credits"],
            "cents": made["price_euro_cents"],
        }

    async def erase(self, user: str) -> dict[str, Any]:
        id_ = uuid4()
        done = await self._row("credits.erase_user", user_id=user, id=id_)
        # Whoever never got the answer calls again.
        assert await self._row("credits.erase_user", user_id=user, id=id_) == done
        return {
            "forfeited": done["forfeited_credits"],
            "written off": done["written_off_credits"],
            "gifts": done["cancelled_gifts"],
            "holds": done["released_holds"],
            "pseudonym": f"erased-{id_}" if done["erased_at"] else None,
        }

    async def _tell(self, event: dict[str, Any]) -> dict[str, Any]:
        result = await self._row(
            "credits.apply_stripe_event",
            id=event["id"],
            type=event["type"],
            created_at=datetime.fromtimestamp(event["created"], UTC),
            payload=event,
        )
        return {"state": result["state"]}

    async def view(self, user: str) -> dict[str, Any]:
        balance = await self._row("credits.get_balance", user_id=user)
        sync = await self._row("credits.get_sync_status", user_id=user)
        usage: dict[str, tuple[int, int]] = {}
        for row in await self._rows("credits.list_usage", user_id=user, days=366):
            credits, operations = usage.get(row["app_id"], (0, 0))
            usage[row["app_id"]] = (credits + row["credits_used"], operations + row["operations"])
        moves = await self._rows("credits.list_transactions", user_id=user, limit=500)
        created = await self._rows("gifts.list_created_gifts", user_id=user, limit=500)
        received = await self._rows("gifts.list_received_gifts", user_id=user, limit=500)
        purchases = await self._rows("credits.list_purchases", user_id=user, limit=500)
        return {
            "balance": {
                "available": balance["available"],
                "reserved": balance["reserved"],
                "earned": balance["total_earned"],
                "spent": balance["total_spent"],
                "transactions": balance["transactions_count"],
            },
            "ledger": [
                (
                    str(move["id"]),
                    move["type"],
                    move["amount"],
                    move["balance_before"],
                    move["balance_after"],
                    move["app_id"],
                )
                for move in moves
            ],
            "usage": usage,
            "sync": {
                "active": sync["active"],
                "gifted": sync["gifted"],
                "paused": sync["paused_at"] is not None,
                "interval": sync["billing_interval"],
                "next": sync["next_charge_at"],
                "paid": sync["paid_until"],
                "price": sync["price"] if sync["active"] and not sync["gifted"] else None,
            },
            "created": {str(gift["id"]): _sql_gift(gift) for gift in created},
            "received": {str(gift["id"]): gift["credits"] for gift in received},
            "purchases": {
                str(p["id"]): (p["status"], p["credits"], p["price_euro_cents"]) for p in purchases
            },
        }


class BatchDriver(SqlDriver):
    """The functions as they do their work in batches, with other users' calls around it.

    Those others are no part of the model: what they have does not show in the state.
    """

    words = "SQL, in batches"

    COMPANIONS: ClassVar = ("a-companion", "m-companion", "z-companion")
    """Before, among and behind the users of the model."""

    async def _reset(self, prices: Mapping[str, int]) -> None:
        await super()._reset(prices)
        # The same for each sequence, so that one that fails fails again.
        self._dice = random.Random(1)
        for companion in self.COMPANIONS:
            await super()._rows(
                "credits.grant_credits",
                user_id=companion,
                amount=1_000_000,
                reason="x",
                reference_id="start",
            )

    async def _rows(self, function: str, **arguments: Any) -> list[asyncpg.Record]:
        if function not in BATCH_OPERATIONS:
            return await super()._rows(function, **arguments)
        calls = [self._companion() for _ in range(self._dice.choice([0, 1, 2, 5]))]
        place = self._dice.randint(0, len(calls))
        calls.insert(place, (function, arguments))
        outcomes = await run_batch(self._login, *calls)
        outcome = outcomes.pop(place)
        # Nothing keeps them from being done.
        assert all(other.row is not None for other in outcomes)
        if outcome.alone:
            return await super()._rows(function, **arguments)
        if outcome.refused is not None:
            raise _refused(outcome.refused.sqlstate, outcome.refused.facts)
        return [outcome.done]

    def _companion(self) -> Call:
        arguments = {"user_id": self._dice.choice(self.COMPANIONS), "amount": 1}
        match self._dice.randrange(4):
            case 0:
                return "credits.refund_credits", {**arguments, "description": "x"}
            case 1:
                reference = f"{self._dice.randrange(20)}"
                more = {"reason": "x", "reference_id": reference}
                return "credits.grant_credits", {**arguments, **more}
        more = {"app_id": "app", "description": "x", "origin": "user"}
        return "credits.use_credits", {**arguments, **more}

    def state(self, users: list[str]) -> dict[str, Any]:
        state = super().state([*users, *self.COMPANIONS])
        for companion in self.COMPANIONS:
            for part in ("balances", "ledger", "sync"):
                del state[part][companion]
        return state


def _refused(sqlstate: str, facts: dict[str, Any]) -> RefusedError:
    return RefusedError(
        SQLSTATES[sqlstate], **{name: fact for name, fact in facts.items() if name != "message"}
    )


class HttpDriver(Driver):
    """The API, called by users, services, an administrator and Stripe."""

    words = "HTTP"

    def __init__(self, runner: asyncio.Runner, admin: Connection, service: Running) -> None:
        super().__init__(runner, admin)
        self._service = service

    async def _send(
        self, method: str, path: str, user: str | None = None, body: Any = None, **claims: Any
    ) -> Answer:
        """Call as a user, or without one as a service."""
        answer = await self._service.call(
            method,
            path,
            user=user,
            claims={"email": email_of(user), **claims} if user else None,
            internal=user is None,
            json=None if body is None else {k: v for k, v in body.items() if v is not None},
        )
        if answer.status >= 400:
            code, facts = answer.body["error"], answer.body.get("details") or {}
            assert STATUS.get(code) == answer.status, answer.body
            if isinstance(facts, list):
                (facts,) = facts
                facts.pop("message")
            raise RefusedError(code, **facts)
        return answer

    async def use(
        self, user: str, origin: str, amount: int, app: str, key: str | None
    ) -> dict[str, Any]:
        body = {"amount": amount, "appId": app, "description": "Use", "idempotencyKey": key}
        if origin == "user":
            return _moved_answer(await self._send("POST", "/credits/use", user, body))
        return _moved_answer(
            await self._send("POST", "/internal/credits/use", body={"userId": user, **body})
        )

    async def refund(
        self, user: str, amount: int, app: str, key: str | None, debit: Row | None
    ) -> dict[str, Any]:
        answer = await self._send(
            "POST",
            "/internal/credits/refund",
            body={
                "userId": user,
                "amount": amount,
                "appId": app,
                "description": "Refund",
                "idempotencyKey": key,
                "transactionId": None if debit is None else debit.id,
            },
        )
        return _moved_answer(answer)

    async def grant(self, user: str, amount: int, reference: str) -> dict[str, Any]:
        body = {"userId": user, "amount": amount, "reason": "model", "referenceId": reference}
        answer = await self._send("POST", "/internal/credits/grant", body=body)
        assert answer.body["alreadyGranted"] == _replayed(answer)
        return {
            "replayed": _replayed(answer),
            "transaction": answer.body["transactionId"],
            "available": answer.body["newBalance"],
        }

    async def init(self, user: str) -> dict[str, Any]:
        row = (await self._send("POST", "/internal/credits/init", body={"userId": user})).body
        return {
            "available": row["balance"],
            "earned": row["totalEarned"],
            "spent": row["totalSpent"],
        }

    async def reserve(
        self, user: str, amount: int, reason: str, hours: int, key: str | None
    ) -> dict[str, Any]:
        answer = await self._send(
            "POST",
            "/internal/credits/reserve",
            body={
                "userId": user,
                "amount": amount,
                "reason": reason,
                "expiresInSeconds": hours * 3600,
                "idempotencyKey": key,
            },
        )
        return {
            "replayed": _replayed(answer),
            "hold": answer.body["reservationId"],
            "expires": _moment(answer.body["expiresAt"]),
            "available": answer.body["balance"],
        }

    async def commit(
        self, hold: Hold, user: str | None, amount: int | None, key: str | None
    ) -> dict[str, Any]:
        body = {"reservationId": hold.id, "userId": user, "amount": amount, "idempotencyKey": key}
        answer = await self._send("POST", "/internal/credits/commit", body=body)
        return {
            "replayed": _replayed(answer),
            "transaction": answer.body["transactionId"],
            "amount": answer.body["amount"],
            "available": answer.body["balance"],
        }

    async def give_back(self, hold: Hold, user: str | None, key: str | None) -> dict[str, Any]:
        body = {"reservationId": hold.id, "userId": user, "idempotencyKey": key}
        answer = await self._send("POST", "/internal/credits/refund-reservation", body=body)
        return {"replayed": _replayed(answer), "available": answer.body["balance"]}

    async def give(
        self, user: str, credits: int, address: str | None, days: int, key: str | None
    ) -> dict[str, Any]:
        body = {
            "totalCredits": credits,
            "targetEmail": address,
            "expirationDays": days,
            "idempotencyKey": key,
        }
        answer = await self._send("POST", "/gifts", user, body)
        assert answer.status == 201
        return {"replayed": _replayed(answer), **_http_gift(answer.body)}

    async def look_up(self, gift: Gift | None) -> dict[str, Any]:
        await self._forget_attempts()
        code = UNKNOWN_CODE if gift is None else gift.code
        seen = (await self._send("GET", f"/gifts/{code}")).body
        assert seen["redeemed"] == (seen["status"] == "depleted")
        assert seen["isPersonalized"] == (seen["type"] == "personalized")
        return {
            "type": seen["type"],
            "status": seen["status"],
            "credits": seen["totalCredits"],
            "expires": _moment(seen["expiresAt"]),
        }

    async def redeem(
        self, gift: Gift | None, user: str, email: str, verified: bool | None, key: str | None
    ) -> dict[str, Any]:
        await self._forget_attempts()
        code = UNKNOWN_CODE if gift is None else quote(_typed(gift.code))
        answer = await self._send(
            "POST",
            f"/gifts/{code}/redeem",
            user,
            {"idempotencyKey": key},
            email=email,
            email_verified=verified,
        )
        return {
            "replayed": _replayed(answer),
            "credits": answer.body["creditsReceived"],
            "available": answer.body["newBalance"],
        }

    async def redeem_pending(self, user: str, email: str, verified: bool | None) -> dict[str, Any]:
        body = {"userId": user, "email": email, "emailVerified": verified}
        got = (await self._send("POST", "/internal/gifts/redeem-pending", body=body)).body
        return {"redeemed": got["redeemed"], "credits": got["totalCredits"]}

    async def cancel(self, gift: Gift, user: str, key: str | None) -> dict[str, Any]:
        # No body on a DELETE, so that its key is in the header.
        answer = await self._service.call(
            "DELETE",
            f"/gifts/{gift.id}",
            user=user,
            headers={} if key is None else {"Idempotency-Key": key},
        )
        if answer.status >= 400:
            assert STATUS.get(answer.body["error"]) == answer.status, answer.body
            raise RefusedError(answer.body["error"], **(answer.body.get("details") or {}))
        return {"replayed": _replayed(answer), "credits": answer.body["refundedCredits"]}

    async def activate(self, user: str, interval: str, key: str | None) -> dict[str, Any]:
        body = {"interval": interval, "idempotencyKey": key}
        answer = await self._send("POST", "/sync/activate", user, body)
        anchor = {} if _replayed(answer) else {"anchor": await self._anchor(user)}
        return {
            "replayed": _replayed(answer),
            "interval": answer.body["interval"],
            "charged": answer.body["amountCharged"],
            "next": _moment(answer.body["nextChargeAt"]),
            **anchor,
        }

    async def deactivate(self, user: str) -> dict[str, Any]:
        await self._send("POST", "/sync/deactivate", user)
        return {}

    async def change_interval(self, user: str, interval: str) -> dict[str, Any]:
        answer = await self._send("POST", "/sync/change-interval", user, {"interval": interval})
        return {
            "interval": answer.body["interval"],
            "price": answer.body["amountCharged"],
            "effective": _moment(answer.body["effectiveAt"]),
        }

    async def gift_sync(self, user: str) -> dict[str, Any]:
        answer = await self._send("POST", f"/admin/sync/{user}/gift", "root", role="admin")
        return {"active": answer.body["active"], "gifted": answer.body["gifted"]}

    async def revoke_sync(self, user: str) -> dict[str, Any]:
        answer = await self._send("DELETE", f"/admin/sync/{user}/gift", "root", role="admin")
        return {"active": answer.body["active"], "gifted": answer.body["gifted"]}

    async def charge(self) -> dict[str, Any]:
        did = (await self._send("POST", "/internal/sync/charge-recurring")).body
        assert not did["more"]
        return {name: did[name] for name in ("charged", "paused", "errors")}

    async def start_purchase(self, user: str, package: str, key: str | None) -> dict[str, Any]:
        body = {"packageId": package, "idempotencyKey": key}
        answer = await self._send("POST", "/credits/purchase", user, body)
        return {
            "replayed": _replayed(answer),
            "id": answer.body["purchaseId"],
            "intent": intent_of(answer.body["clientSecret"]),
            "credits": answer.body["credits"],
            "cents": answer.body["amount"],
        }

    async def erase(self, user: str) -> dict[str, Any]:
        done = (await self._send("DELETE", f"/internal/users/{user}")).body
        # Nobody is told the pseudonym.
        pseudonym = await self.admin.fetchval(
            "SELECT user_id FROM credits.erasures ORDER BY erased_at DESC LIMIT 1"
        )
        again = (await self._send("DELETE", f"/internal/users/{user}")).body
        assert again == {
            "success": True,
            "forfeitedCredits": 0,
            "writtenOffCredits": 0,
            "cancelledGifts": 0,
            "releasedHolds": 0,
            "erasedAt": None,
        }
        return {
            "forfeited": done["forfeitedCredits"],
            "written off": done["writtenOffCredits"],
            "gifts": done["cancelledGifts"],
            "holds": done["releasedHolds"],
            "pseudonym": pseudonym if done["erasedAt"] else None,
        }

    async def _tell(self, event: dict[str, Any]) -> dict[str, Any]:
        payload = json.dumps(event).encode()
        async with self._service.session.post(
            f"{self._service.url}/api/v1/webhooks/stripe",
            data=payload,
            headers={"Content-Type": "application/json", "Stripe-Signature": sign(payload)},
        ) as answer:
            assert (answer.status, await answer.json()) == (200, {"received": True})
        return await self._event_state(event["id"])

    async def view(self, user: str) -> dict[str, Any]:
        async def get(path: str) -> Any:
            return (await self._send("GET", path, user)).body

        balance = await get("/credits/balance")
        sync = await get("/sync/status")
        assert (await self._send("GET", f"/internal/credits/balance/{user}")).body == balance
        assert (await self._send("GET", f"/internal/sync/status/{user}")).body == sync
        usage: dict[str, tuple[int, int]] = {}
        for row in await get("/credits/usage?days=366"):
            credits, operations = usage.get(row["appId"], (0, 0))
            usage[row["appId"]] = (credits + row["creditsUsed"], operations + row["operations"])
        return {
            "balance": {
                "available": balance["balance"],
                "reserved": balance["reserved"],
                "earned": balance["totalEarned"],
                "spent": balance["totalSpent"],
                "transactions": balance["transactionsCount"],
            },
            "ledger": [
                (
                    move["id"],
                    move["type"],
                    move["amount"],
                    move["balanceBefore"],
                    move["balanceAfter"],
                    move["appId"],
                )
                for move in await get("/credits/transactions?limit=500")
            ],
            "usage": usage,
            "sync": {
                "active": sync["active"],
                "gifted": sync["gifted"],
                "paused": sync["paused"],
                "interval": sync["interval"],
                "next": _moment(sync["nextChargeAt"]),
                "paid": _moment(sync["paidUntil"]),
                "price": sync["price"] if sync["active"] and not sync["gifted"] else None,
            },
            "created": {g["id"]: _http_gift(g) for g in await get("/gifts/me/created?limit=500")},
            "received": {
                g["id"]: g["creditsReceived"] for g in await get("/gifts/me/received?limit=500")
            },
            "purchases": {
                p["id"]: (p["status"], p["credits"], p["priceEuroCents"])
                for p in await get("/credits/purchases?limit=500")
            },
        }


def _typed(code: str) -> str:
    """A code as a person may type it."""
    return f"{code[:4].lower()}-{code[4:8]} {code[8:].lower()}"


def _moved(move: asyncpg.Record) -> dict[str, Any]:
    return {
        "replayed": move["replayed"],
        "transaction": str(move["id"]),
        "type": move["type"],
        "amount": move["amount"],
        "before": move["balance_before"],
        "after": move["balance_after"],
        "app": move["app_id"],
        "key": move["idempotency_key"],
        "available": move["available"],
        "earned": move["total_earned"],
        "spent": move["total_spent"],
    }


def _sql_gift(gift: asyncpg.Record) -> dict[str, Any]:
    return {
        "id": str(gift["id"]),
        "code": gift["code"],
        "credits": gift["total_credits"],
        "type": gift["type"],
        "status": gift["status"],
        "target": gift["target_email"],
        "expires": gift["expires_at"],
    }


def _replayed(answer: Answer) -> bool:
    return answer.headers.get("Idempotent-Replayed") == "true"


def _moment(text: str | None) -> Any:
    return None if text is None else datetime.fromisoformat(text)


def _moved_answer(answer: Answer) -> dict[str, Any]:
    move, balance = answer.body["transaction"], answer.body["newBalance"]
    return {
        "replayed": _replayed(answer),
        "transaction": move["id"],
        "type": move["type"],
        "amount": move["amount"],
        "before": move["balanceBefore"],
        "after": move["balanceAfter"],
        "app": move["appId"],
        "key": move["idempotencyKey"],
        "available": balance["balance"],
        "earned": balance["totalEarned"],
        "spent": balance["totalSpent"],
    }


def _http_gift(gift: dict[str, Any]) -> dict[str, Any]:
    assert gift["redeemed"] == (1 if gift["status"] == "depleted" else 0)
    return {
        "id": gift["id"],
        "code": gift["code"],
        "credits": gift["totalCredits"],
        "type": gift["type"],
        "status": gift["status"],
        "target": gift["targetEmail"],
        "expires": _moment(gift["expiresAt"]),
    }


def _reversal(kind: str, purchase: Purchase, id_: str, cents: int, status: str) -> dict[str, Any]:
    return {
        "id": id_,
        "object": kind,
        "payment_intent": purchase.intent,
        "charge": f"ch_{purchase.intent}",
        "amount": cents,
        "currency": "eur",
        "status": status,
        # The ids are numbered in the order in which they are first heard of.
        "created": EPOCH + int(id_.rpartition("_")[2]),
    }


class StripeDouble:
    """As much of Stripe as a purchase asks: customers and PaymentIntents that wait to be paid."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._intents: dict[str, dict[str, Any]] = {}
        self.app = web.Application()
        self.app.router.add_post("/v1/customers", self._customer)
        self.app.router.add_post("/v1/payment_intents", self._intent)
        self.app.router.add_get("/v1/payment_intents/{id}", self._retrieve)
        self.app.router.add_get("/v1/events", self._events)

    async def _customer(self, request: web.Request) -> web.Response:
        return web.json_response({"id": f"cus_{next(self._numbers)}", "object": "customer"})

    async def _intent(self, request: web.Request) -> web.Response:
        asked = await request.post()
        id_ = f"pi_{next(self._numbers)}"
        self._intents[id_] = {
            "id": id_,
            "object": "payment_intent",
            "status": "requires_payment_method",
            "amount": int(str(asked["amount"])),
            "amount_received": 0,
            "currency": asked["currency"],
            "created": EPOCH,
            "client_secret": f"{id_}_secret_of_the_model",
            "customer": asked["customer"],
            "metadata": {"purchaseId": asked["metadata[purchaseId]"]},
        }
        return web.json_response(self._intents[id_])

    async def _retrieve(self, request: web.Request) -> web.Response:
        return web.json_response(self._intents[request.match_info["id"]])

    async def _events(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [], "has_more": False, "url": "/v1/events"}
        )


async def stock(admin: Connection) -> dict[str, tuple[int, int]]:
    """Two packages on the shelf: credits and euro cents by id, which divide unevenly."""
    shelf = {str(UUID(int=1)): (500, 499), str(UUID(int=2)): (37, 100)}
    for id_, (credits, cents) in shelf.items():
        await admin.execute(
            "INSERT INTO credits.packages (id, name, credits, price_euro_cents)"
            " VALUES ($1, 'Credits', $2, $3)",
            id_,
            credits,
            cents,
        )
    return shelf
