"""The hot queries use their index, and balances stay HOT.

The plans are those of the statements inside the functions, as auto_explain tells them, on tables
of a few thousand rows. Each function is looked at with plans made for its arguments, and with the
generic ones to which plpgsql changes after a few calls.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from service.dev.postgres import Cluster
from tests.support.calls import call, debit, grant, refund_object, statement
from tests.support.clones import shared_clone
from tests.support.databases import Clone, Connection, connect

ROWS = 4000

# Where a user can have many rows, four hundred users have ten each.
FILL = f"""
SET session_replication_role = replica;

CREATE FUNCTION public.user_of(n bigint) RETURNS text LANGUAGE sql IMMUTABLE
AS $$ SELECT 'user' || n % 400 $$;
CREATE FUNCTION public.id_of(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
AS $$ SELECT lpad(to_hex(n), 32, '0')::uuid $$;

INSERT INTO credits.balances
(user_id, balance, total_earned, last_seq, created_at, updated_at)
SELECT 'user' || n, 100000, 100000, {ROWS}, now(), now() FROM generate_series(0, {ROWS} + 1) AS n;

INSERT INTO credits.transactions (
    user_id, seq, id, type, origin, amount, balance_before, balance_after, app_id, description,
    idempotency_key, created_at
)
SELECT
    user_of(n), n, id_of(n), 'usage',
    CASE WHEN n % 3 = 0 THEN 'user' ELSE 'service' END::credits.origin,
    -1, 1, 0, 'app', 'x', CASE WHEN n % 4 < 2 THEN 'key' || n END, now()
FROM generate_series(1, {ROWS}) AS n;

INSERT INTO credits.keyed_calls
SELECT user_of(n), 'user', 'called' || n, 'x', 'x', NULL, now()
FROM generate_series(1, {ROWS}) AS n;

INSERT INTO credits.debit_refunds
SELECT user_of(n), id_of(n), 1, 1 FROM generate_series(1, {ROWS}) AS n WHERE n > 400;

INSERT INTO credits.usage_stats
SELECT user_of(n), '2000-01-01'::date + n::integer, 'app', 1, 1
FROM generate_series(1, {ROWS}) AS n;

INSERT INTO credits.reservations (
    user_id, id, amount, reason, status, idempotency_key, expires_at, created_at, resolved_at
)
SELECT
    user_of(n), id_of(n), 1, 'x', CASE WHEN n > 100 THEN 'refunded' ELSE 'open' END
        ::credits.reservation_status,
    'held' || n, now() - make_interval(secs => n), now(), CASE WHEN n > 100 THEN now() END
FROM generate_series(1, {ROWS}) AS n;
UPDATE credits.balances SET reserved = 100;

INSERT INTO credits.packages (id, name, credits, price_euro_cents)
VALUES (id_of(1), 'x', 1000, 900);
INSERT INTO credits.purchases (
    user_id, id, package_id, credits, price_euro_cents, status, stripe_payment_intent_id,
    stripe_checkout_session_id, idempotency_key, created_at, updated_at
)
SELECT
    user_of(n), id_of(n), id_of(1), 1000, 900, 'pending', 'pi_' || n, 'cs_' || n, 'buy' || n, now(),
    now()
FROM generate_series(1, {ROWS}) AS n;

UPDATE credits.purchases SET check_at = now() - interval '1 minute'
WHERE id <= id_of(100);
UPDATE credits.purchases SET status = 'completed', completed_at = now(), transaction_id = id,
    check_at = NULL
WHERE id > id_of({ROWS} - 50);
INSERT INTO credits.stripe_refunds
(user_id, id, purchase_id, amount_euro_cents, credits, status, created_at, updated_at)
SELECT user_of(n), 're_' || n, id_of(n), 1, 1, 'succeeded', now(), now()
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO credits.stripe_disputes
(user_id, id, purchase_id, amount_euro_cents, credits, status, created_at, updated_at)
SELECT user_of(n), 'dp_' || n, id_of(n), 1, 0, 'x', now(), now()
FROM generate_series(1, {ROWS}) AS n;

INSERT INTO credits.stripe_customers
SELECT 'user' || n, 'cus_' || n, now() FROM generate_series(0, {ROWS}) AS n;

INSERT INTO credits.stripe_events (id, type, state, payload, created_at, received_at)
SELECT 'evt_' || n, 'x', 'applied', CASE WHEN n < 100 THEN '{{}}'::jsonb END, now(),
    now() - make_interval(days => CASE WHEN n < 50 THEN 100 ELSE 1 END)
FROM generate_series(1, {ROWS}) AS n;

UPDATE credits.stripe_events SET
    state = 'failed', error = 'x', next_attempt_at = now() - interval '1 minute'
WHERE received_at < now() - interval '99 days';

INSERT INTO credits.sync_subscriptions (
    user_id, active, price, periods, anchor_at, next_charge_month, next_charge_at, paid_until,
    created_at, updated_at
)
SELECT
    'user' || n, true, 30, 1, c.at - interval '1 month', 1, c.at, c.at, now(), now()
FROM generate_series(0, {ROWS}) AS n
CROSS JOIN LATERAL (SELECT now() + make_interval(hours => n::integer - 20) AS at) AS c;

INSERT INTO credits.contacts
SELECT 'user' || n, 'user' || n || '@example.org', now() FROM generate_series(0, {ROWS}) AS n;

INSERT INTO credits.notices (
    user_id, id, kind, state, data, next_attempt_at, created_at, delivered_at
)
SELECT
    user_of(n), id_of(n), 'sync_paused', CASE WHEN n > 100 THEN 'delivered' ELSE 'pending' END
        ::credits.notice_state,
    '{{}}', CASE WHEN n <= 100 THEN now() - interval '1 hour' END, now(),
    CASE WHEN n > 100 THEN now() END
FROM generate_series(1, {ROWS}) AS n;

INSERT INTO credits.rate_limits
SELECT 's' || n, '{{}}', '2026-01-01'::timestamptz - make_interval(secs => n::integer - 50)
FROM generate_series(1, {ROWS}) AS n;
UPDATE credits.rate_limits SET kept_until = '2026-06-01' WHERE subject > 's2';

UPDATE credits.notices SET state = 'failed', delivered_at = NULL WHERE id > id_of({ROWS} - 20);
INSERT INTO credits.admin_actions
SELECT user_of(n), id_of(n), 'root' || n % 100, NULL, 'gift_sync', NULL, NULL, '{{}}', now()
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO credits.daily_totals
SELECT (now() AT TIME ZONE 'UTC')::date - n, 0, 0, 0, 0, 0, 0
FROM generate_series(0, {ROWS}) AS n;
UPDATE credits.ledger_counting SET counted_until = now() - interval '10 minutes';

INSERT INTO credits.job_runs (id, job, started_at, ended_at)
SELECT id_of(n * 6 + j.place), j.job, now() - make_interval(mins => n::integer), now()
FROM generate_series(1, {ROWS}) AS n
CROSS JOIN (SELECT job, row_number() OVER () AS place FROM credits.jobs) AS j;

CREATE FUNCTION public.code_of(n bigint) RETURNS text LANGUAGE sql IMMUTABLE
AS $$ SELECT translate(lpad(to_hex(n), 12, 'X'), '01abcdef', 'YZABCDEF') $$;
INSERT INTO gifts.gift_codes (
    id, code, creator_id, total_credits, type, status, target_email, expires_at, redeemed_by,
    redeemed_at, created_at, updated_at
)
SELECT
    id_of(n), code_of(n), user_of(n), 5,
    CASE WHEN n % 2 = 0 THEN 'personalized' ELSE 'simple' END::gifts.gift_type,
    CASE WHEN n <= 400 THEN 'active' ELSE 'depleted' END::gifts.gift_status,
    CASE WHEN n % 2 = 0 THEN 'user' || n || '@example.org' END,
    now() + make_interval(hours => n::integer - 20),
    CASE WHEN n > 400 THEN user_of(n) END, CASE WHEN n > 400 THEN now() END,
    now() + make_interval(secs => n), now()
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO gifts.gift_redemptions
SELECT user_of(n), id_of(n), id_of(n), 'success', 5, NULL, now()
FROM generate_series(401, {ROWS}) AS n;

RESET session_replication_role;
"""


def number(n: int) -> UUID:
    """The id of the row with this number."""
    return UUID(int=n)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(cluster: Cluster, template: str) -> AsyncIterator[Clone]:
    """A database with a few thousand rows a table, of which only the sizes are right."""
    async with shared_clone(cluster, template) as clone:
        admin = await connect(clone.admin_url)
        try:
            await admin.execute(FILL)
            await admin.execute("VACUUM ANALYZE")
            yield clone
            # What is no ledger is not to be checked as one.
            await admin.execute("SET session_replication_role = replica")
            await admin.execute("TRUNCATE credits.balances, gifts.gift_codes CASCADE")
        finally:
            await admin.close()


def walk(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node and all below it."""
    yield plan
    for below in plan.get("Plans", []):
        yield from walk(below)


@dataclass(frozen=True, slots=True)
class Plans:
    """The plans of all statements that a call ran."""

    plans: list[dict[str, Any]]

    def nodes(self) -> list[dict[str, Any]]:
        return [node for plan in self.plans for node in walk(plan["Plan"])]

    @property
    def indexes(self) -> set[str]:
        """The indexes that were used, also to find what is there already."""
        named = {node["Index Name"] for node in self.nodes() if "Index Name" in node}
        return named.union(*(node.get("Conflict Arbiter Indexes", []) for node in self.nodes()))

    @property
    def scanned(self) -> set[str]:
        """The tables that were read from beginning to end."""
        return {node["Relation Name"] for node in self.nodes() if node["Node Type"] == "Seq Scan"}

    @property
    def sorted(self) -> bool:
        return any(node["Node Type"].endswith("Sort") for node in self.nodes())


async def plans(clone: Clone, mode: str, function: str, arguments: dict[str, Any]) -> Plans:
    """Call a function, undo what it did, and tell how its statements were run."""
    told: list[dict[str, Any]] = []

    def listen(_connection: object, message: asyncpg.PostgresLogMessage) -> None:
        found = re.match(r"duration: [\d.]+ ms  plan:\n", str(message.message))
        if found:
            told.append(json.loads(str(message.message)[found.end() :]))

    connection = await connect(clone.admin_url)
    try:
        connection.add_log_listener(listen)
        undone = connection.transaction()
        await undone.start()
        # Before anything is told, since asyncpg asks for the types itself.
        prepared = await connection.prepare(statement(function, arguments))
        await connection.execute(
            f"""
            SET LOCAL plan_cache_mode = {mode};
            LOAD 'auto_explain';
            SET LOCAL auto_explain.log_level = notice;
            SET LOCAL auto_explain.log_format = json;
            SET LOCAL auto_explain.log_nested_statements = on;
            SET LOCAL auto_explain.log_min_duration = 0;
            """
        )
        await prepared.fetch(*arguments.values())
        await undone.rollback()
        # What the server has told is handed to listeners in the turn of the loop behind this one.
        await asyncio.sleep(0)
        connection.remove_log_listener(listen)
    finally:
        await connection.close()
    assert told
    return Plans(told)


USE = {"user_id": "user0", "amount": 1, "app_id": "app", "description": "x", "id": number(10**9)}
FINDING = (
    "balances_pkey balances_user_id_prefix contacts_pkey contacts_email_prefix"
    " purchases_stripe_payment_intent_id_key stripe_customers_stripe_customer_id_key"
    " gift_codes_code_key sync_subscriptions_pkey transactions_pkey"
)
FINDING_BY_UUID = "purchases_id_key transactions_id_key"
CASES: list[tuple[str, dict[str, Any], str]] = [
    (
        "credits.use_credits",
        {**USE, "idempotency_key": "new", "origin": "user"},
        "balances_pkey transactions_id_key transactions_idempotency_key keyed_calls_pkey"
        " purchases_idempotency_key usage_stats_pkey",
    ),
    (
        "credits.use_credits",
        {**USE, "idempotency_key": "new", "origin": "service"},
        "balances_pkey transactions_id_key transactions_idempotency_key keyed_calls_pkey"
        " reservations_idempotency_key",
    ),
    (
        "credits.refund_credits",
        {"user_id": "user0", "amount": 1, "description": "x", "transaction_id": number(400)},
        "balances_pkey transactions_id_key debit_refunds_pkey",
    ),
    (
        "credits.grant_credits",
        {"user_id": "user0", "amount": 1, "reason": "x", "reference_id": "new"},
        "balances_pkey transactions_idempotency_key",
    ),
    (
        "credits.reserve_credits",
        {"user_id": "user0", "amount": 1, "reason": "x", "idempotency_key": "new"},
        "balances_pkey transactions_idempotency_key",
    ),
    (
        "credits.commit_reservation",
        {"reservation_id": number(40)},
        "balances_pkey reservations_id_key",
    ),
    (
        "credits.refund_reservation",
        {"reservation_id": number(40)},
        "balances_pkey reservations_id_key",
    ),
    ("credits.get_balance", {"user_id": "user7"}, "balances_pkey"),
    ("credits.list_usage", {"user_id": "user0"}, "usage_stats_pkey"),
    ("credits.get_sync_status", {"user_id": "user7"}, "sync_subscriptions_pkey"),
    (
        "credits.activate_sync",
        {"user_id": f"user{ROWS + 1}"},
        "sync_subscriptions_pkey balances_pkey",
    ),
    ("credits.charge_due_subscriptions", {"batch_size": 10}, "sync_subscriptions_due"),
    ("credits.announce_charges", {"batch_size": 10}, "sync_subscriptions_due"),
    ("credits.expire_reservations", {"batch_size": 10}, "reservations_open_expiry"),
    ("gifts.expire_gifts", {"batch_size": 10}, "gift_codes_active_expiry gift_codes_pkey"),
    ("credits.claim_notices", {"limit": 10}, "notices_pending"),
    ("credits.retry_notices", {}, "notices_stuck"),
    (
        "credits.settle_notice",
        {"user_id": "user0", "id": number(400), "state": "delivered"},
        "notices_pkey|notices_id_key",
    ),
    (
        "credits.start_purchase",
        {"user_id": "user0", "package_id": number(1), "idempotency_key": "new"},
        "balances_pkey transactions_idempotency_key",
    ),
    (
        "credits.get_purchase",
        {"user_id": "user0", "purchase_id": number(400)},
        "purchases_pkey|purchases_id_key",
    ),
    (
        "credits.claim_purchase_poll",
        {"user_id": "user0", "purchase_id": number(400)},
        "purchases_pkey|purchases_id_key",
    ),
    ("credits.get_stripe_customer", {"user_id": "user7"}, "stripe_customers_pkey"),
    ("credits.claim_stripe_events", {"limit": 10}, "stripe_events_next_attempt stripe_events_pkey"),
    ("credits.claim_purchase_checks", {"limit": 10}, "purchases_check_at"),
    ("credits.unknown_stripe_events", {"ids": ["evt_1", "evt_new"]}, "stripe_events_pkey"),
    ("credits.prune_stripe_payloads", {"batch_size": 10}, "stripe_events_payloads"),
    (
        "credits.take_turn",
        {"subjects": ["s1", "s2"], "allowed": [30, 10]},
        "rate_limits_pkey",
    ),
    (
        "credits._prune_rate_limits",
        {"now": datetime(2026, 1, 1, tzinfo=UTC), "batch_size": 10},
        "rate_limits_kept_until",
    ),
    (
        "credits.read_metrics",
        {},
        "transactions_created_at notices_stuck notices_pending purchases_check_at"
        " sync_subscriptions_due stripe_events_open job_runs_latest job_runs_open",
    ),
    (
        "credits.grant_as_admin",
        {
            "user_id": "user0",
            "amount": 1,
            "reason": "x",
            "admin_id": "root",
            "idempotency_key": "new",
            "id": number(10**9),
        },
        "balances_pkey transactions_id_key transactions_idempotency_key",
    ),
    (
        "credits.refund_as_admin",
        {"user_id": "user0", "transaction_id": number(400), "reason": "x", "admin_id": "root"},
        "balances_pkey transactions_id_key debit_refunds_pkey",
    ),
    ("credits.find_users", {"query": str(number(7))}, f"{FINDING} {FINDING_BY_UUID}"),
    ("credits.find_users", {"query": "user7"}, FINDING),
    ("credits.find_users", {"query": "USER7@example.org"}, FINDING),
    (
        "credits.get_account",
        {"user_id": "user40"},
        "balances_pkey contacts_pkey sync_subscriptions_pkey reservations_open",
    ),
    ("credits.list_daily_totals", {"days": 3}, "daily_totals_pkey transactions_created_at"),
    ("credits.list_job_states", {}, "job_runs_latest"),
    ("credits.list_stripe_events", {"limit": 10}, "stripe_events_open"),
    (
        "credits.list_stripe_events",
        {"limit": 10, "before": "evt_7"},
        "stripe_events_open stripe_events_pkey",
    ),
    ("credits.list_notices", {"limit": 10}, "notices_stuck"),
    ("credits.list_notices", {"state": "pending", "limit": 10}, "notices_pending"),
    ("credits.preview_charge", {"limit": 10}, "sync_subscriptions_due sync_subscriptions_waiting"),
    ("gifts.get_gift", {"code": "XXXXXXXXXXX5"}, "gift_codes_code_key"),
    (
        "gifts.redeem_gift",
        {"code": "XXXXXXXXXX33", "user_id": "user7"},
        "gift_codes_code_key gift_codes_pkey balances_pkey",
    ),
    (
        "gifts.redeem_pending_gifts",
        {"user_id": "user7", "email": "user300@example.org"},
        "gift_codes_active_target",
    ),
    (
        "gifts.create_gift",
        {"user_id": "user0", "credits": 5, "idempotency_key": "new"},
        "balances_pkey gift_codes_pkey gift_codes_code_key transactions_idempotency_key",
    ),
    ("gifts.cancel_gift", {"user_id": "user0", "gift_id": number(400)}, "gift_codes_pkey"),
    (
        "gifts._gifts_about",
        {"user_id": "user7", "addresses": ["user300@example.org"]},
        "gift_codes_creator gift_redemptions_pkey gift_codes_active_target gift_codes_final_target",
    ),
    (
        "credits._erase_actions",
        {"user_id": "nobody", "pseudonym": "x"},
        "admin_actions_pkey admin_actions_admin",
    ),
]

MODES = ["force_custom_plan", "force_generic_plan"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("function", "arguments", "indexes"), CASES, ids=[f"{case[0]}" for case in CASES]
)
async def test_hot_queries_use_their_index(
    filled: Clone, function: str, arguments: dict[str, Any], indexes: str, mode: str
) -> None:
    told = await plans(filled, mode, function, arguments)
    # Tables of a handful of rows are read whole, and one with a row a day.
    assert told.scanned <= {
        *("packages", "sync_prices", "jobs", "ledger_totals", "ledger_counting", "daily_totals")
    }
    for either in indexes.split():
        assert told.indexes & set(either.split("|")), either


PAGES: list[tuple[str, dict[str, Any], str]] = [
    ("credits.list_transactions", {}, "transactions_pkey"),
    ("credits.list_transactions", {"before_seq": ROWS // 2}, "transactions_pkey"),
    ("credits.list_transactions", {"type": "usage", "app_id": "app"}, "transactions_pkey"),
    ("credits.list_purchases", {}, "purchases_pkey"),
    ("gifts.list_created_gifts", {}, "gift_codes_creator"),
    ("gifts.list_masked_gifts", {}, "gift_codes_creator"),
    ("credits.list_admin_actions", {}, "admin_actions_pkey"),
    ("gifts.list_received_gifts", {}, "gift_redemptions_pkey"),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("function", "arguments", "index"), PAGES)
async def test_pages_are_read_in_the_order_of_an_index(
    filled: Clone, function: str, arguments: dict[str, Any], index: str, mode: str
) -> None:
    told = await plans(filled, mode, function, {"user_id": "user0", "limit": 2, **arguments})
    assert index in told.indexes
    assert told.scanned <= {"packages"}
    assert not told.sorted


@pytest.mark.parametrize("mode", MODES)
async def test_a_page_begins_at_its_cursor(filled: Clone, mode: str) -> None:
    arguments = {"user_id": "user0", "limit": 2, "before_seq": ROWS // 2}
    told = await plans(filled, mode, "credits.list_transactions", arguments)
    conditions = [
        node["Index Cond"] for node in told.nodes() if node.get("Index Name") == "transactions_pkey"
    ]
    # Else it would read all pages before it, and throw them away.
    assert len(conditions) == 1
    assert "seq <" in conditions[0]


@pytest.mark.parametrize("mode", MODES)
async def test_a_batch_of_charges_begins_behind_the_one_before(filled: Clone, mode: str) -> None:
    arguments = {"batch_size": 10, "after": datetime(2020, 1, 1, tzinfo=UTC), "after_key": "user7"}
    told = await plans(filled, mode, "credits.charge_due_subscriptions", arguments)
    (condition,) = [
        node["Index Cond"]
        for node in told.nodes()
        if node.get("Index Name") == "sync_subscriptions_due"
    ]
    # Else it would pass over what each batch before it has left dead in the index.
    assert "ROW(due_at, user_id) >" in condition
    assert not [node for node in told.nodes() if node.get("Sort Key") == ["s.due_at", "s.user_id"]]


@pytest.mark.parametrize("mode", MODES)
async def test_a_batch_of_charges_reads_its_own_rows_whatever_statistics_say(
    database: Clone, admin: Connection, mode: str
) -> None:
    await admin.execute(
        """
        INSERT INTO credits.balances (user_id, created_at, updated_at)
        SELECT 'user' || i, now(), now() FROM generate_series(1, 20000) AS i;
        ALTER TABLE credits.sync_subscriptions SET (autovacuum_enabled = off);
        INSERT INTO credits.sync_subscriptions (
            user_id, active, price, anchor_at, next_charge_month, next_charge_at, paid_until,
            created_at, updated_at
        )
        SELECT b.user_id, true, 30, now(), 1, n.at, n.at, now(), now()
        FROM credits.balances AS b
        CROSS JOIN LATERAL (
            SELECT now() + (random() - CASE WHEN b.user_id LIKE 'user100__' THEN 2 ELSE 0 END)
                * interval '1 month' AS at
        ) AS n;
        ANALYZE credits.sync_subscriptions;
        UPDATE credits.sync_subscriptions SET next_charge_at = now() - interval '1 day';
        """
    )
    told = await plans(database, mode, "credits.charge_due_subscriptions", {})
    (node,) = [n for n in told.nodes() if n.get("Index Name") == "sync_subscriptions_due"]
    assert node["Node Type"] == "Index Scan"
    assert "sync_subscriptions" not in told.scanned
    # They have paid for nothing, as the check of the ledger behind every test would say.
    await admin.execute("DELETE FROM credits.sync_subscriptions")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("about", "index"),
    [
        ({"id": "pi_5"}, "purchases_stripe_payment_intent_id_key"),
        (
            {"id": "pi_new", "metadata": {"purchaseId": str(number(5))}},
            "purchases_id_key",
        ),
    ],
)
async def test_an_event_finds_its_purchase_by_an_index(
    filled: Clone, about: dict[str, Any], index: str, mode: str
) -> None:
    connection = await connect(filled.admin_url)
    try:
        at = await connection.fetchval("SELECT clock_timestamp()")
    finally:
        await connection.close()
    told = await plans(
        filled,
        mode,
        "credits.apply_stripe_event",
        {
            "id": "evt_new",
            "type": "payment_intent.processing",
            "created_at": at,
            "payload": {"data": {"object": about}},
        },
    )
    assert {"stripe_events_pkey", index} <= told.indexes
    assert told.scanned <= {"packages"}


REVERSALS = ["stripe_refunds_purchase", "stripe_disputes_purchase"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_refund_finds_what_was_taken_back_before_by_an_index(
    filled: Clone, mode: str
) -> None:
    told = await plans(
        filled,
        mode,
        "credits.apply_stripe_event",
        {
            "id": "evt_new",
            "type": "refund.created",
            "created_at": datetime.now(UTC),
            "payload": {"data": {"object": refund_object("re_new", f"pi_{ROWS}", 1)}},
        },
    )
    assert {*REVERSALS} <= told.indexes
    assert told.scanned <= {"packages"}


READINESS = ["job_runs_latest", "sync_subscriptions_waiting", "stripe_events_open"]


@pytest.mark.parametrize("mode", MODES)
async def test_readiness_reads_no_table_of_users_whole(filled: Clone, mode: str) -> None:
    told = await plans(filled, mode, "credits.list_problems", {})
    assert set(READINESS) <= told.indexes
    assert told.scanned <= {"jobs"}


OVERVIEW = ["sync_subscriptions_due", "job_runs_latest", "stripe_events_open", "notices_pending"]


@pytest.mark.parametrize("mode", MODES)
async def test_the_overview_reads_no_table_whole_but_what_it_counts(
    filled: Clone, mode: str
) -> None:
    told = await plans(filled, mode, "credits.get_overview", {})
    assert {*OVERVIEW, "notices_stuck"} <= told.indexes
    assert told.scanned <= {"sync_subscriptions", "sync_prices"}


async def test_a_query_that_lost_its_index_is_noticed(filled: Clone) -> None:
    admin = await connect(filled.admin_url)
    index = "CREATE INDEX notices_pending ON credits.notices (next_attempt_at)"
    try:
        await admin.execute("DROP INDEX credits.notices_pending")
        told = await plans(filled, MODES[0], "credits.claim_notices", {"limit": 10})
        await admin.execute(f"{index} WHERE state = 'pending'")
    finally:
        await admin.close()
    assert "notices" in told.scanned


async def test_every_move_leaves_the_balance_hot(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 100)
    # In one transaction the counters are exact, and the page has room for it.
    async with admin.transaction():
        await debit(admin, "ann", 5)
        await call(admin, "credits.refund_credits", user_id="ann", amount=5, description="x")
        held = await call(admin, "credits.reserve_credits", user_id="ann", amount=5, reason="x")
        await call(
            admin, "credits.commit_reservation", reservation_id=held["reservation_id"], amount=3
        )
        await call(admin, "gifts.create_gift", user_id="ann", credits=5)
        row = await admin.fetchrow(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables"
            " WHERE relid = 'credits.balances'::regclass"
        )
    assert row is not None
    assert (row["n_tup_upd"], row["n_tup_hot_upd"]) == (5, 5)


async def test_no_index_of_balances_is_on_what_changes(admin: Connection) -> None:
    indexed = await admin.fetch(
        """
        SELECT a.attname FROM pg_index AS i
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
        WHERE i.indrelid = 'credits.balances'::regclass
        """
    )
    # Its key, and what finds ids by their beginning.
    assert [row["attname"] for row in indexed] == ["user_id", "user_id"]


async def test_every_index_but_a_unique_one_serves_a_query_tested_here(
    admin: Connection,
) -> None:
    found = await admin.fetch(
        """
        SELECT c.relname FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE NOT i.indisunique
            AND c.relnamespace IN ('credits'::regnamespace, 'gifts'::regnamespace)
        """
    )
    tested = {name for _function, _arguments, names in [*CASES, *PAGES] for name in names.split()}
    tested.update(READINESS, REVERSALS)
    assert {row["relname"] for row in found} - tested == set()
