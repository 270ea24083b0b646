"""credits.check_ledger finds every kind of damage, and nothing where there is none.

Damage is planted as a superuser with triggers and foreign keys off, in a transaction that is
rolled back, so that all cases share one database in which every kind of row is to be found.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest
import pytest_asyncio

from service.dev.postgres import Cluster
from tests.support.calls import (
    call,
    charge,
    debit,
    grant,
    make_package,
    reverse,
    rows,
    subscribe,
    utc,
)
from tests.support.clones import shared_clone
from tests.support.databases import Clone, Connection, connect
from tests.support.races import blocked


async def fill(admin: Connection) -> None:
    """Rows of every kind; the damage is done to Ann's."""
    for user in ("ann", "bob", "cat"):
        await grant(admin, user, 1000)
        taken = await debit(admin, user, 50, idempotency_key="debit")
        await debit(admin, user, 40, origin="user", idempotency_key="debit")
        await call(
            admin,
            "credits.refund_credits",
            user_id=user,
            amount=20,
            description="x",
            transaction_id=taken["id"],
            idempotency_key="refund",
        )
        for number in range(3):
            held = await call(
                admin,
                "credits.reserve_credits",
                user_id=user,
                amount=10,
                reason="research",
                idempotency_key=f"hold {number}",
            )
            if number:
                await call(
                    admin,
                    "credits.commit_reservation",
                    reservation_id=held["reservation_id"],
                    amount=4 + number,
                    idempotency_key=f"commit {number}",
                )
        await subscribe(admin, user, at=utc("2024-01-31 12:00"))
        await subscribe_again(admin, user)
        package = await make_package(admin, 500, 450)
        for number in range(2):
            purchase = await call(
                admin,
                "credits.start_purchase",
                user_id=user,
                package_id=package,
                idempotency_key=f"purchase {number}",
            )
            await call(
                admin,
                "credits.follow_payment",
                user_id=user,
                purchase_id=purchase["id"],
                stripe_payment_intent_id=f"pi_{user}_{number}",
                stripe_status="succeeded",
                received_euro_cents=450,
                currency="eur",
            )
    made = {
        name: await call(admin, "gifts.create_gift", user_id="ann", credits=credits)
        for credits, name in enumerate(["active", "redeemed", "cancelled", "expired"], 11)
    }
    await call(admin, "gifts.redeem_gift", user_id="bob", code=made["redeemed"]["code"])
    await call(admin, "gifts.cancel_gift", user_id="ann", gift_id=made["cancelled"]["id"])
    await admin.execute(
        "UPDATE gifts.gift_codes SET expires_at = created_at + interval '1 microsecond'"
        " WHERE id = $1",
        made["expired"]["id"],
    )
    await admin.execute("CALL credits.run_gift_expiry()")
    # Below zero, as only a reversal makes it.
    await grant(admin, "dan", 10)
    await reverse(admin, "dan", 30)


async def subscribe_again(admin: Connection, user: str) -> None:
    """A second period of Cloud Sync, charged when it was due."""
    await charge(admin, utc("2024-02-29 12:00"))
    await call(admin, "credits.deactivate_sync", user_id=user)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(cluster: Cluster, template: str) -> AsyncIterator[Clone]:
    """One database for all cases; at the end it must be as sound as it was."""
    async with shared_clone(cluster, template) as clone:
        admin = await connect(clone.admin_url)
        try:
            await fill(admin)
        finally:
            await admin.close()
        yield clone


@contextlib.asynccontextmanager
async def damaged(clone: Clone, statements: Sequence[str]) -> AsyncIterator[Connection]:
    """A connection that sees the database with this damage, which goes with it."""
    admin = await connect(clone.admin_url)
    try:
        undone = admin.transaction()
        await undone.start()
        await admin.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            touched = await admin.execute(statement)
            assert not touched.endswith(" 0"), f"touched nothing: {statement}"
        yield admin
        await undone.rollback()
    finally:
        await admin.close()


@dataclass(frozen=True, slots=True)
class Damage:
    """What a hand in the database did, and what the check says of whom.

    `found` are all rules that are broken by it, and `users` whom they name; a rule of the whole
    database names nobody.
    """

    what: str
    statements: Sequence[str]
    found: frozenset[str]
    users: frozenset[str] = frozenset({"ann"})


def damage(what: str, rules: str, *statements: str, users: str = "ann") -> Damage:
    return Damage(what, statements, frozenset(rules.split()), frozenset(users.split()))


LAST = "user_id = 'ann' AND seq = (SELECT max(seq) FROM credits.transactions WHERE user_id = 'ann')"
NO_ARITHMETIC = "ALTER TABLE credits.transactions DROP CONSTRAINT transactions_arithmetic_check"
NO_SIGN = "ALTER TABLE credits.transactions DROP CONSTRAINT transactions_sign_check"
NO_TOTALS = "ALTER TABLE credits.balances DROP CONSTRAINT balances_totals_check"
OF_GIFT = "(SELECT id FROM gifts.gift_codes WHERE total_credits = {})"
ACTIVE, REDEEMED, CANCELLED, EXPIRED = (OF_GIFT.format(credits) for credits in (11, 12, 13, 14))

CASES = [
    damage(
        "a row is gone from the middle of the ledger",
        "chain balance usage conservation",
        "DELETE FROM credits.transactions WHERE user_id = 'ann' AND seq = 3",
    ),
    damage(
        "the first row is gone",
        "chain balance conservation",
        "DELETE FROM credits.transactions WHERE user_id = 'ann' AND seq = 1",
    ),
    damage(
        "the last row is gone",
        "balance gift",
        f"DELETE FROM credits.transactions WHERE {LAST}",
    ),
    damage(
        "two rows have changed places",
        "chain",
        "UPDATE credits.transactions SET seq = -seq + 1000 WHERE user_id = 'ann' AND seq IN (2, 3)",
        "UPDATE credits.transactions SET seq = CASE seq WHEN 998 THEN 3 ELSE 2 END"
        " WHERE user_id = 'ann' AND seq IN (998, 997)",
    ),
    damage(
        "a row does not go on where the row before ended",
        "chain",
        "UPDATE credits.transactions"
        " SET balance_before = balance_before + 1, balance_after = balance_after + 1"
        " WHERE user_id = 'ann' AND seq = 3",
    ),
    damage(
        "a number was left out",
        "chain",
        f"UPDATE credits.transactions SET seq = seq + 1 WHERE {LAST}",
        "UPDATE credits.balances SET last_seq = last_seq + 1 WHERE user_id = 'ann'",
    ),
    damage(
        "a row does not add up",
        "arithmetic balance",
        NO_ARITHMETIC,
        f"UPDATE credits.transactions SET balance_after = balance_after + 1 WHERE {LAST}",
    ),
    damage(
        "an amount was changed",
        "arithmetic balance conservation",
        NO_ARITHMETIC,
        "UPDATE credits.transactions SET amount = amount + 1 WHERE user_id = 'ann' AND seq = 1",
    ),
    damage(
        "a debit that comes in",
        "sign usage",
        NO_SIGN,
        "UPDATE credits.transactions SET type = 'usage' WHERE user_id = 'ann' AND seq = 1",
    ),
    damage(
        "a grant that goes out",
        "sign usage",
        NO_SIGN,
        "UPDATE credits.transactions SET type = 'grant'"
        " WHERE user_id = 'ann' AND app_id = 'app' AND amount = -40",
    ),
    damage(
        "a reversal of nothing",
        "sign reversal",
        NO_SIGN,
        "INSERT INTO credits.transactions"
        " SELECT user_id, seq + 1, gen_random_uuid(), 'reversal', origin, 0, balance_after,"
        " balance_after, app_id, description, NULL, gen_random_uuid(), NULL, created_at"
        f" FROM credits.transactions WHERE {LAST}",
        "UPDATE credits.balances SET last_seq = last_seq + 1 WHERE user_id = 'ann'",
    ),
    damage(
        "credits were added by hand",
        "balance conservation",
        "UPDATE credits.balances SET balance = balance + 1, total_earned = total_earned + 1"
        " WHERE user_id = 'ann'",
    ),
    damage(
        "the totals were changed and not the balance",
        "balance",
        "UPDATE credits.balances SET total_earned = total_earned + 1, total_spent = total_spent + 1"
        " WHERE user_id = 'ann'",
    ),
    damage(
        "the balance lost count",
        "balance",
        "UPDATE credits.balances SET last_seq = last_seq + 1 WHERE user_id = 'ann'",
    ),
    damage(
        "the balance is gone",
        "balance reserved conservation conservation_of_holds",
        "DELETE FROM credits.balances WHERE user_id = 'ann'",
    ),
    damage(
        "a user has credits and no ledger",
        "balance conservation",
        "INSERT INTO credits.balances (user_id, balance, total_earned, created_at, updated_at)"
        " VALUES ('eve', 5, 5, now(), now())",
        users="eve",
    ),
    damage(
        "a balance is no number of its totals",
        "balance conservation",
        NO_TOTALS,
        "UPDATE credits.balances SET balance = balance - 1 WHERE user_id = 'ann'",
    ),
    damage(
        "more is held than there are holds",
        "reserved conservation_of_holds",
        "UPDATE credits.balances SET reserved = reserved + 1 WHERE user_id = 'ann'",
    ),
    damage(
        "a hold is gone",
        "reserved conservation_of_holds",
        "DELETE FROM credits.reservations WHERE user_id = 'ann' AND status = 'open'",
    ),
    damage(
        "a hold was ended without giving back",
        "reserved conservation_of_holds",
        "UPDATE credits.reservations SET status = 'expired', resolved_at = now()"
        " WHERE user_id = 'ann' AND status = 'open'",
    ),
    damage(
        "a hold of another amount",
        "reserved conservation_of_holds",
        "UPDATE credits.reservations SET amount = amount - 1"
        " WHERE user_id = 'ann' AND status = 'open'",
    ),
    damage(
        "more is held than there is",
        "overdrawn",
        "UPDATE credits.balances SET reserved = reserved + 100000 WHERE user_id = 'ann'",
        "INSERT INTO credits.reservations (user_id, id, amount, reason, expires_at, created_at)"
        " VALUES ('ann', gen_random_uuid(), 100000, 'x', now(), now())",
    ),
    damage(
        "a refund says that it took more than the ledger",
        "reversal",
        "UPDATE credits.stripe_refunds SET credits = 31 WHERE user_id = 'dan'",
        users="dan",
    ),
    damage(
        "a refund that took credits is gone",
        "reversal",
        "DELETE FROM credits.stripe_refunds WHERE user_id = 'dan'",
        users="dan",
    ),
    damage(
        "a refunded purchase says that it is not",
        "reversal",
        "UPDATE credits.purchases SET status = 'completed' WHERE user_id = 'dan'",
        users="dan",
    ),
    damage(
        "more was spent than there was, without a reversal",
        "overdrawn",
        "UPDATE credits.transactions SET type = 'usage', app_id = 'app', idempotency_key = NULL"
        " WHERE user_id = 'dan' AND type = 'reversal'",
        "UPDATE credits.usage_stats SET credits_used = credits_used + 30,"
        " operations = operations + 1 WHERE user_id = 'dan'",
        "DELETE FROM credits.stripe_refunds WHERE user_id = 'dan'",
        "UPDATE credits.purchases SET status = 'completed' WHERE user_id = 'dan'",
        users="dan",
    ),
    damage(
        "a day's usage was changed",
        "usage",
        "UPDATE credits.usage_stats SET credits_used = credits_used + 1"
        " WHERE user_id = 'ann' AND app_id = 'app'",
    ),
    damage(
        "a day's operations were changed",
        "usage",
        "UPDATE credits.usage_stats SET operations = operations + 1"
        " WHERE user_id = 'ann' AND app_id = 'app'",
    ),
    damage(
        "a day's usage is gone",
        "usage",
        "DELETE FROM credits.usage_stats WHERE user_id = 'ann' AND app_id = 'app'",
    ),
    damage(
        "a day's usage was never used",
        "usage",
        "INSERT INTO credits.usage_stats VALUES ('ann', '2020-01-01', 'app', 1, 1)",
    ),
    damage(
        "more of a debit was refunded than is known",
        "refund",
        "UPDATE credits.debit_refunds SET refunded = refunded - 1 WHERE user_id = 'ann'",
    ),
    damage(
        "a debit of another size",
        "refund",
        "UPDATE credits.debit_refunds SET debited = debited + 1 WHERE user_id = 'ann'",
    ),
    damage(
        "what is known of a debit's refunds is gone",
        "refund",
        "DELETE FROM credits.debit_refunds WHERE user_id = 'ann'",
    ),
    damage(
        "more of a debit was refunded than it took",
        "refund",
        "ALTER TABLE credits.debit_refunds DROP CONSTRAINT debit_refunds_bounds_check",
        "UPDATE credits.debit_refunds SET refunded = refunded + 31 WHERE user_id = 'ann'",
        "INSERT INTO credits.transactions SELECT r.user_id, l.seq + 1, gen_random_uuid(), r.type,"
        " r.origin, 31, l.balance_after, l.balance_after + 31, r.app_id, r.description, NULL,"
        " r.reference_id, NULL, r.created_at FROM credits.transactions AS r,"
        f" LATERAL (SELECT seq, balance_after FROM credits.transactions WHERE {LAST}) AS l"
        " WHERE r.user_id = 'ann' AND r.type = 'refund'",
        "UPDATE credits.balances SET balance = balance + 31, total_earned = total_earned + 31,"
        " last_seq = last_seq + 1 WHERE user_id = 'ann'",
    ),
    damage(
        "a refund of what was no debit",
        "refund",
        "UPDATE credits.transactions SET reference_id = gen_random_uuid()"
        " WHERE user_id = 'ann' AND type = 'refund'",
    ),
    damage(
        "a refund of another user's debit",
        "refund",
        "UPDATE credits.transactions SET reference_id ="
        " (SELECT debit_id FROM credits.debit_refunds WHERE user_id = 'bob')"
        " WHERE user_id = 'ann' AND type = 'refund'",
        "UPDATE credits.debit_refunds SET debit_id ="
        " (SELECT debit_id FROM credits.debit_refunds WHERE user_id = 'bob')"
        " WHERE user_id = 'ann'",
    ),
    damage(
        "more was committed than debited",
        "reservation",
        "UPDATE credits.reservations SET committed_amount = committed_amount + 1"
        " WHERE user_id = 'ann' AND committed_amount = 5",
    ),
    damage(
        "a commit without its debit",
        "reservation",
        "UPDATE credits.reservations SET transaction_id = gen_random_uuid()"
        " WHERE user_id = 'ann' AND committed_amount = 5",
    ),
    damage(
        "two commits of one debit",
        "reservation",
        "UPDATE credits.reservations SET committed_amount = 5, transaction_id ="
        " (SELECT transaction_id FROM credits.reservations"
        "  WHERE user_id = 'ann' AND committed_amount = 5)"
        " WHERE user_id = 'ann' AND committed_amount = 6",
    ),
    damage(
        "a purchase that gave credits is gone",
        "purchase",
        "DELETE FROM credits.purchases WHERE stripe_payment_intent_id = 'pi_ann_0'",
    ),
    damage(
        "a purchase of other credits than it gave",
        "purchase",
        "UPDATE credits.purchases SET credits = credits + 1"
        " WHERE stripe_payment_intent_id = 'pi_ann_0'",
    ),
    damage(
        "a purchase that gave credits and says it did not",
        "purchase",
        "UPDATE credits.purchases SET status = 'failed', transaction_id = NULL, completed_at = NULL"
        " WHERE stripe_payment_intent_id = 'pi_ann_0'",
    ),
    damage(
        "a purchase that gave no credits and says it did",
        "purchase",
        "UPDATE credits.purchases SET transaction_id = gen_random_uuid()"
        " WHERE stripe_payment_intent_id = 'pi_ann_0'",
    ),
    damage(
        "two purchases of one row",
        "purchase",
        "UPDATE credits.purchases SET transaction_id = (SELECT transaction_id"
        " FROM credits.purchases WHERE stripe_payment_intent_id = 'pi_ann_1')"
        " WHERE stripe_payment_intent_id = 'pi_ann_0'",
    ),
    damage(
        "another user's purchase",
        "purchase",
        "UPDATE credits.purchases SET user_id = 'dan' WHERE stripe_payment_intent_id = 'pi_ann_0'",
        users="ann dan",
    ),
    damage(
        "more of Cloud Sync than was paid for",
        "sync",
        "UPDATE credits.sync_subscriptions SET paid_until = paid_until + interval '1 second'"
        " WHERE user_id = 'ann'",
    ),
    damage(
        "Cloud Sync that was never paid for",
        "sync",
        "INSERT INTO credits.sync_subscriptions (user_id, price, anchor_at, next_charge_month,"
        " paid_until, created_at, updated_at)"
        " VALUES ('dan', 30, now(), 1, now() + interval '1 month', now(), now())",
        users="dan",
    ),
    damage(
        "a key twice in the ledger",
        "idempotency_key",
        "DROP INDEX credits.transactions_idempotency_key",
        "UPDATE credits.transactions SET idempotency_key = 'debit'"
        " WHERE user_id = 'ann' AND idempotency_key = 'refund'",
    ),
    damage(
        "a key of a debit and of a hold",
        "idempotency_key",
        "UPDATE credits.reservations SET idempotency_key = 'debit'"
        " WHERE user_id = 'ann' AND idempotency_key = 'hold 1'",
    ),
    damage(
        "a key of a debit and of a commit",
        "idempotency_key",
        "UPDATE credits.keyed_calls SET idempotency_key = 'debit'"
        " WHERE user_id = 'ann' AND idempotency_key = 'commit 1'",
    ),
    damage(
        "a key of a debit and of a purchase",
        "idempotency_key",
        "UPDATE credits.purchases SET idempotency_key = 'debit'"
        " WHERE user_id = 'ann' AND idempotency_key = 'purchase 1'",
    ),
    damage(
        "a gift is gone",
        "gift conservation",
        f"DELETE FROM gifts.gift_codes WHERE id = {ACTIVE}",
    ),
    damage(
        "a gift of nobody's credits",
        "gift conservation",
        "INSERT INTO gifts.gift_codes (id, code, creator_id, total_credits, type, expires_at,"
        " created_at, updated_at) VALUES (gen_random_uuid(), 'AAAA', 'ann', 5, 'simple', now(),"
        " now(), now())",
    ),
    damage(
        "a gift holds more than was put into it",
        "gift conservation",
        f"UPDATE gifts.gift_codes SET total_credits = total_credits + 100 WHERE id = {ACTIVE}",
    ),
    damage(
        "a gift was cancelled without giving back",
        "gift conservation",
        f"UPDATE gifts.gift_codes SET status = 'cancelled' WHERE id = {ACTIVE}",
    ),
    damage(
        "a cancelled gift is active again",
        "gift conservation",
        f"UPDATE gifts.gift_codes SET status = 'active' WHERE id = {CANCELLED}",
    ),
    damage(
        "an expired gift is active again",
        "gift conservation",
        f"UPDATE gifts.gift_codes SET status = 'active' WHERE id = {EXPIRED}",
    ),
    damage(
        "a redeemed gift is active again",
        "gift conservation",
        "UPDATE gifts.gift_codes SET status = 'active', redeemed_by = NULL, redeemed_at = NULL"
        f" WHERE id = {REDEEMED}",
        users="bob",
    ),
    damage(
        "a gift was redeemed by another than who got it",
        "gift",
        f"UPDATE gifts.gift_codes SET redeemed_by = 'cat' WHERE id = {REDEEMED}",
        users="bob cat",
    ),
    damage(
        "a gift went back twice",
        "gift conservation",
        "INSERT INTO credits.transactions SELECT g.user_id, l.seq + 1, gen_random_uuid(), g.type,"
        " g.origin, g.amount, l.balance_after, l.balance_after + g.amount, g.app_id,"
        " g.description, NULL, g.reference_id, NULL, g.created_at FROM credits.transactions AS g,"
        f" LATERAL (SELECT seq, balance_after FROM credits.transactions WHERE {LAST}) AS l"
        f" WHERE g.amount > 0 AND g.reference_id = {CANCELLED}",
        "UPDATE credits.balances SET balance = balance + 13, total_earned = total_earned + 13,"
        " last_seq = last_seq + 1 WHERE user_id = 'ann'",
    ),
]


async def found(admin: Connection, user: str | None = None) -> dict[str, set[str | None]]:
    """The rules that the check finds broken, and whom they name."""
    violations: dict[str, set[str | None]] = {}
    for row in await rows(admin, "credits.check_ledger", user_id=user):
        violations.setdefault(row["rule"], set()).add(row["user_id"])
        assert isinstance(row["detail"], dict)
    return violations


async def test_nothing_is_found_where_there_is_none(filled: Clone) -> None:
    async with damaged(filled, []) as admin:
        assert await found(admin) == {}
        for user in ("ann", "bob", "cat", "dan", "nobody"):
            assert await found(admin, user) == {}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
async def test_damage_is_found(filled: Clone, case: Damage) -> None:
    async with damaged(filled, case.statements) as admin:
        violations = await found(admin)
        assert set(violations) == case.found
        whole = {"conservation", "conservation_of_holds"}
        for rule, users in violations.items():
            assert users == ({None} if rule in whole else case.users & users), rule
        assert set().union(*violations.values()) - {None} == case.users

        # One user's check finds his alone, and nothing of the whole database.
        for user in ("ann", "bob", "cat", "dan", "eve"):
            expected = {rule: {user} for rule, users in violations.items() if user in users}
            assert await found(admin, user) == expected


def test_every_rule_has_its_damage() -> None:
    rules = set().union(*(case.found for case in CASES))
    assert rules == {
        "chain",
        "arithmetic",
        "sign",
        "balance",
        "reserved",
        "overdrawn",
        "usage",
        "refund",
        "reservation",
        "purchase",
        "reversal",
        "sync",
        "idempotency_key",
        "gift",
        "conservation",
        "conservation_of_holds",
    }


async def test_moves_under_way_are_never_taken_for_damage(filled: Clone) -> None:
    looking, moving, third = [await connect(filled.admin_url) for _ in range(3)]
    try:
        # The look has been at the users and waits for the gifts, when a gift is made.
        async with moving.transaction():
            await moving.execute("LOCK TABLE gifts.gift_codes")
            look = asyncio.create_task(found(looking))
            await blocked(third, looking, look)
            await debit(moving, "bob", 1)
            await call(moving, "gifts.create_gift", user_id="bob", credits=5)
        assert await look == {}
        assert await found(looking) == {}
    finally:
        for connection in (looking, moving, third):
            await connection.close()


async def test_the_check_is_one_look(filled: Clone) -> None:
    admin = await connect(filled.admin_url)
    try:
        volatile = await admin.fetch(
            "SELECT proname FROM pg_proc WHERE provolatile = 'v' AND proname IN"
            " ('check_ledger', '_check_users', '_check_gifts', '_check_conservation')"
        )
    finally:
        await admin.close()
    # A volatile function would look anew with every statement.
    assert volatile == []
