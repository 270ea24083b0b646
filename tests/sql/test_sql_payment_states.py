"""Which state of a payment wins over which: the tables of sql/README.md, one test per cell."""

import itertools
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.calls import (
    amounts,
    available,
    buy,
    call,
    debit,
    dispute_object,
    grant,
    make_package,
    refund_object,
    refusal,
    start_buying,
    stripe_event,
)
from tests.support.databases import Clone, Connection, connect

CREDITS, CENTS = 1000, 900
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

WORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "succeeded": ("payment_intent.succeeded", {}),
    "payment failed": (
        "payment_intent.payment_failed",
        {"last_payment_error": {"message": "Your card was declined."}},
    ),
    "processing": ("payment_intent.processing", {}),
    "canceled, session expired": ("payment_intent.canceled", {}),
}
TAKEN_BACK: dict[str, tuple[str, dict[str, Any]]] = {
    "part refunded": ("refund.created", refund_object("re_part", "pi_1", 400)),
    "all refunded": ("refund.updated", refund_object("re_all", "pi_1", CENTS, "pending")),
    "the refund failed": ("refund.failed", refund_object("re_1", "pi_1", CENTS, "failed")),
    "disputed": ("charge.dispute.created", dispute_object("dp_1", "pi_1", CENTS)),
    "inquiry": (
        "charge.dispute.created",
        dispute_object("dp_1", "pi_1", CENTS, "warning_needs_response"),
    ),
    "dispute won": ("charge.dispute.closed", dispute_object("dp_1", "pi_1", CENTS, "won")),
    "dispute lost": ("charge.dispute.closed", dispute_object("dp_1", "pi_1", CENTS, "lost")),
}
# How each state is reached: what is heard one after the other.
PAID = WORDS["succeeded"]
REACHED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "pending": [],
    "failed": [WORDS["payment failed"]],
    "cancelled": [WORDS["canceled, session expired"]],
    "completed": [PAID],
    "partially_refunded": [PAID, ("refund.created", refund_object("re_1", "pi_1", 300))],
    "refunded": [PAID, ("refund.created", refund_object("re_1", "pi_1", CENTS))],
    "disputed": [PAID, TAKEN_BACK["disputed"]],
}


def documented(*columns: str) -> dict[tuple[str, str], str]:
    """The cells of the README's table with these columns: (now, what is heard) → after."""
    text = (Path(__file__).parents[2] / "sql" / "README.md").read_text()
    tables = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    ]
    [(head, _, *body)] = [table for table in tables if table[0][1:] == [*columns]]
    assert [row[0].strip("`") for row in body] == [*REACHED]
    return {
        (row[0].strip("`"), column): cell.strip("`")
        for row in body
        for column, cell in zip(head[1:], row[1:], strict=True)
    }


def intent(**more: Any) -> dict[str, Any]:
    """The payment of Ann's purchase."""
    return {
        "object": "payment_intent",
        "id": "pi_1",
        "amount_received": CENTS,
        "currency": "eur",
        "metadata": {},
        **more,
    }


async def hear(
    connection: Connection, type_: str, about: dict[str, Any], at: datetime = NOON
) -> asyncpg.Record:
    about = intent(**about) if type_.startswith("payment_intent.") else about
    return await stripe_event(connection, type_, about, at=at)


async def standing(admin: Connection) -> tuple[str, int]:
    """The purchase's status, and the credits that Ann has of it."""
    status = await admin.fetchval("SELECT status::text FROM credits.purchases")
    return status, await available(admin, "ann")


def refunded_cents(state: str) -> int:
    return {"partially_refunded": 300, "refunded": CENTS}.get(state, 0)


@pytest.mark.parametrize(("cell", "after"), documented(*WORDS).items(), ids=str)
async def test_what_a_payment_says(
    admin: Connection, service_login: Connection, cell: tuple[str, str], after: str
) -> None:
    now, word = cell
    await start_buying(admin, "ann", "pi_1", CREDITS, CENTS)
    for place, heard in enumerate(REACHED[now]):
        await hear(service_login, *heard, at=NOON + timedelta(seconds=place))
    before = await standing(admin)
    assert before[0] == now
    result = await hear(service_login, *WORDS[word], at=NOON + timedelta(minutes=1))
    assert result["state"] == "applied"
    given = CREDITS if after == "completed" else before[1]
    assert await standing(admin) == (after, given)
    failure = await admin.fetchval("SELECT failure FROM credits.purchases")
    assert (failure == "Your card was declined.") is (after == "failed")


@pytest.mark.parametrize(("cell", "after"), documented(*TAKEN_BACK).items(), ids=str)
async def test_what_is_taken_back(
    admin: Connection, service_login: Connection, cell: tuple[str, str], after: str
) -> None:
    now, word = cell
    await start_buying(admin, "ann", "pi_1", CREDITS, CENTS)
    for place, heard in enumerate(REACHED[now]):
        await hear(service_login, *heard, at=NOON + timedelta(seconds=place))
    before = await standing(admin)
    assert before[0] == now
    result = await hear(service_login, *TAKEN_BACK[word], at=NOON + timedelta(minutes=1))
    assert result["state"] == "applied"
    status, left = await standing(admin)
    assert status == after
    if now in ("pending", "failed", "cancelled"):
        assert left == 0
        # It was kept: when the money comes in after all, it is taken at once.
        await hear(service_login, *PAID, at=NOON + timedelta(minutes=2))
        paid_first = documented(*TAKEN_BACK)["completed", word]
        now, (status, left) = "completed", await standing(admin)
        assert status == paid_first
    # What is left follows from the refunds and disputes that count, each rounded down.
    taken = 0
    if now == "disputed":
        taken = 0 if word == "dispute won" else CREDITS
    else:
        cents = {
            "part refunded": refunded_cents(now) + 400,
            "all refunded": CENTS,
            "the refund failed": 0,
            "disputed": CENTS,
            "dispute lost": CENTS,
        }.get(word, refunded_cents(now))
        if word == "part refunded":
            taken = min(CREDITS * refunded_cents(now) // CENTS + CREDITS * 400 // CENTS, CREDITS)
        else:
            taken = CREDITS * cents // CENTS
    assert left == CREDITS - taken


SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("first", "then", "later", "after"),
    [
        # Said before, and heard late.
        ("payment failed", "processing", -SECOND, "failed"),
        ("processing", "payment failed", -SECOND, "pending"),
        ("payment failed", "canceled, session expired", -SECOND, "cancelled"),
        ("processing", "succeeded", -SECOND, "completed"),
        ("canceled, session expired", "succeeded", -SECOND, "completed"),
        # Of the same second.
        ("payment failed", "processing", 0 * SECOND, "failed"),
        ("processing", "payment failed", 0 * SECOND, "failed"),
        ("processing", "canceled, session expired", 0 * SECOND, "cancelled"),
        ("canceled, session expired", "processing", 0 * SECOND, "cancelled"),
        ("succeeded", "payment failed", 0 * SECOND, "completed"),
        ("payment failed", "succeeded", 0 * SECOND, "completed"),
        # Said later: another attempt.
        ("payment failed", "processing", SECOND, "pending"),
        ("processing", "payment failed", SECOND, "failed"),
    ],
)
async def test_what_stripe_said_last_counts_and_not_what_was_heard_last(
    admin: Connection,
    service_login: Connection,
    first: str,
    then: str,
    later: timedelta,
    after: str,
) -> None:
    await start_buying(admin, "ann", "pi_1", CREDITS, CENTS)
    await hear(service_login, *WORDS[first])
    await hear(service_login, *WORDS[then], at=NOON + later)
    assert (await standing(admin))[0] == after


@pytest.mark.parametrize(("cell", "after"), documented(*WORDS).items(), ids=str)
async def test_whoever_asks_stripe_meets_the_same_table(
    admin: Connection, service_login: Connection, cell: tuple[str, str], after: str
) -> None:
    now, word = cell
    purchase = await start_buying(admin, "ann", "pi_1", CREDITS, CENTS)
    for place, heard in enumerate(REACHED[now]):
        await hear(service_login, *heard, at=NOON + timedelta(seconds=place))
    followed = await call(
        service_login,
        "credits.follow_payment",
        user_id="ann",
        purchase_id=purchase["id"],
        stripe_payment_intent_id="pi_1",
        stripe_status={
            "payment failed": "requires_payment_method",
            "canceled, session expired": "canceled",
        }.get(word, word),
        received_euro_cents=CENTS,
        currency="eur",
        failure="Your card was declined." if word == "payment failed" else None,
    )
    assert followed["status"] == after


async def test_a_payment_that_is_under_way_says_so(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_buying(admin, "ann", "pi_1", CREDITS, CENTS)

    async def seen() -> tuple[str, Any]:
        row = await call(
            service_login, "credits.get_purchase", user_id="ann", purchase_id=purchase["id"]
        )
        return row["status"], row["metadata"]

    assert await seen() == ("pending", None)
    await hear(service_login, *WORDS["processing"])
    assert await seen() == ("pending", {"payment": "processing"})
    await hear(service_login, *PAID)
    assert await seen() == ("completed", None)


async def test_words_about_another_payment_of_the_purchase_change_nothing(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_buying(admin, "ann", "pi_1", CREDITS, CENTS)
    named = {"id": "pi_2", "metadata": {"purchaseId": str(purchase["id"])}}
    for word in ("payment failed", "processing", "canceled, session expired"):
        type_, about = WORDS[word]
        await hear(service_login, type_, {**about, **named})
        assert await standing(admin) == ("pending", 0)


# Any order


def scenario(*events: tuple[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [*events]


PART = refund_object("re_a", "pi_1", 301)
REST = refund_object("re_b", "pi_1", 599)
SCENARIOS = {
    "two refunds, one pending at first": (
        scenario(
            PAID,
            ("refund.created", {**PART, "status": "pending"}),
            ("refund.updated", PART),
            ("refund.created", REST),
        ),
        ("refunded", CREDITS - CREDITS * 301 // CENTS - CREDITS * 599 // CENTS),
    ),
    "a refund that succeeds and fails in the end": (
        scenario(
            PAID,
            ("refund.created", {**PART, "status": "pending"}),
            ("refund.updated", PART),
            ("refund.failed", {**PART, "status": "failed"}),
            ("charge.refund.updated", {**PART, "status": "failed"}),
        ),
        ("completed", CREDITS),
    ),
    "a dispute that is won": (
        scenario(
            PAID,
            ("charge.dispute.created", dispute_object("dp_1", "pi_1", 450)),
            ("charge.dispute.funds_withdrawn", dispute_object("dp_1", "pi_1", 450)),
            ("charge.dispute.closed", dispute_object("dp_1", "pi_1", 450, "won")),
            ("charge.dispute.funds_reinstated", dispute_object("dp_1", "pi_1", 450, "won")),
        ),
        ("completed", CREDITS),
    ),
    "an inquiry that becomes a dispute and is lost, beside a refund": (
        scenario(
            PAID,
            ("charge.dispute.created", dispute_object("dp_1", "pi_1", 450, "warning_under_review")),
            ("charge.dispute.funds_withdrawn", dispute_object("dp_1", "pi_1", 450)),
            ("charge.dispute.closed", dispute_object("dp_1", "pi_1", 450, "lost")),
            ("refund.created", PART),
        ),
        ("disputed", CREDITS - 500 - CREDITS * 301 // CENTS),
    ),
    "an inquiry about everything that becomes a dispute, after a part was refunded": (
        scenario(
            PAID,
            (
                "charge.dispute.created",
                dispute_object("dp_1", "pi_1", CENTS, "warning_needs_response"),
            ),
            ("refund.created", PART),
            ("charge.dispute.funds_withdrawn", dispute_object("dp_1", "pi_1", CENTS)),
            ("charge.dispute.closed", dispute_object("dp_1", "pi_1", CENTS, "lost")),
        ),
        ("disputed", 0),
    ),
    "more is taken back than was paid": (
        scenario(
            PAID,
            ("refund.created", refund_object("re_c", "pi_1", CENTS)),
            ("charge.dispute.created", dispute_object("dp_1", "pi_1", CENTS)),
            ("refund.failed", refund_object("re_c", "pi_1", CENTS, "failed")),
        ),
        ("disputed", 0),
    ),
    "a dispute that is won leaves the refund": (
        scenario(
            PAID,
            ("charge.dispute.created", dispute_object("dp_1", "pi_1", CENTS)),
            ("refund.created", PART),
            ("charge.dispute.funds_reinstated", dispute_object("dp_1", "pi_1", CENTS, "won")),
        ),
        ("partially_refunded", CREDITS - CREDITS * 301 // CENTS),
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_events_in_any_order_and_any_number_of_times_end_the_same(
    admin: Connection, service_login: Connection, name: str
) -> None:
    events, (status, left) = SCENARIOS[name]
    for number, order in enumerate(itertools.permutations(events)):
        user, payment = f"ann{number}", f"pi_{number}"
        purchase = await start_buying(admin, user, payment, CREDITS, CENTS)

        def of_this(
            about: dict[str, Any], payment: str = payment, number: int = number
        ) -> dict[str, Any]:
            if "payment_intent" not in about:
                return intent(**{**about, "id": payment})
            return {**about, "payment_intent": payment, "id": f"{about['id']}_{number}"}

        for type_, about in order:
            await stripe_event(service_login, type_, of_this(about), at=NOON)
        for type_, about in order:  # and all of it once more
            await stripe_event(service_login, type_, of_this(about), at=NOON)
        now = await call(
            service_login, "credits.get_purchase", user_id=user, purchase_id=purchase["id"]
        )
        assert (now["status"], await available(service_login, user)) == (status, left), order


# Money


async def test_a_refund_below_a_credit_takes_nothing(
    admin: Connection, service_login: Connection
) -> None:
    await buy(admin, "ann", "pi_1", credits=10, cents=1000)
    await stripe_event(service_login, "refund.created", refund_object("re_1", "pi_1", 99))
    assert await standing(admin) == ("partially_refunded", 10)
    # 199 cents in two refunds are 0 + 1 credits: each is rounded down by itself.
    await stripe_event(service_login, "refund.created", refund_object("re_2", "pi_1", 100))
    assert await standing(admin) == ("partially_refunded", 9)


async def test_all_together_never_take_more_than_the_purchase_gave(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 50)
    await buy(admin, "ann", "pi_1", CREDITS, CENTS)
    for place in range(3):
        await stripe_event(
            service_login, "refund.created", refund_object(f"re_{place}", "pi_1", 700)
        )
    await stripe_event(
        service_login, "charge.dispute.created", dispute_object("dp_1", "pi_1", CENTS)
    )
    assert await available(service_login, "ann") == 50
    assert sum(amount for type_, amount in await amounts(admin, "ann") if type_ == "reversal") == (
        -CREDITS
    )


async def test_what_was_spent_is_owed_and_the_next_credits_repay_it(
    admin: Connection, service_login: Connection
) -> None:
    await buy(admin, "ann", "pi_1", CREDITS, CENTS)
    await debit(service_login, "ann", 800)
    await stripe_event(service_login, "refund.created", refund_object("re_1", "pi_1", CENTS))
    assert await available(service_login, "ann") == -800
    refused = await refusal(
        service_login, "credits.use_credits", user_id="ann", amount=1, app_id="a", description=""
    )
    assert refused.facts == {"required": 1, "available": 0}
    await buy(admin, "ann", "pi_2", CREDITS, CENTS)
    assert await available(service_login, "ann") == 200


async def gifts_of(admin: Connection) -> list[tuple[int, str]]:
    found = await admin.fetch(
        "SELECT total_credits, status::text FROM gifts.gift_codes ORDER BY created_at, id"
    )
    return [(row["total_credits"], row["status"]) for row in found]


@pytest.mark.parametrize(
    ("spent", "cents", "statuses", "left"),
    [
        (0, 450, ["active", "active", "active"], 0),  # 500 credits are there
        (0, 459, ["active", "active", "cancelled"], 90),  # 510: the newest, of 100, is enough
        (0, 560, ["active", "cancelled", "cancelled"], 178),  # 622
        (500, 900, ["cancelled", "cancelled", "cancelled"], -400),
    ],
)
async def test_active_gifts_are_cancelled_newest_first_before_anything_is_owed(
    admin: Connection,
    service_login: Connection,
    spent: int,
    cents: int,
    statuses: list[str],
    left: int,
) -> None:
    await grant(service_login, "ann", 400)
    await buy(admin, "ann", "pi_1", CREDITS, CENTS)
    for credits in (300, 200, 100):
        await call(service_login, "gifts.create_gift", user_id="ann", credits=credits)
    # A reservation is not touched.
    await call(service_login, "credits.reserve_credits", user_id="ann", amount=300, reason="x")
    if spent:
        await debit(service_login, "ann", spent)
    await stripe_event(service_login, "refund.created", refund_object("re_1", "pi_1", cents))
    assert await gifts_of(admin) == list(zip((300, 200, 100), statuses, strict=True))
    assert await available(service_login, "ann") == left


async def test_a_gift_that_was_redeemed_stays_with_its_redeemer(
    admin: Connection, service_login: Connection
) -> None:
    await buy(admin, "ann", "pi_1", CREDITS, CENTS)
    gift = await call(service_login, "gifts.create_gift", user_id="ann", credits=CREDITS)
    await call(service_login, "gifts.redeem_gift", user_id="bob", code=gift["code"])
    await stripe_event(
        service_login, "charge.dispute.created", dispute_object("dp_1", "pi_1", CENTS)
    )
    assert (await available(admin, "ann"), await available(admin, "bob")) == (-CREDITS, CREDITS)


@pytest.mark.parametrize(
    ("type_", "about"),
    [
        ("refund.created", refund_object("re_1", "pi_1", 100)),
        ("charge.dispute.created", dispute_object("dp_1", "pi_1", 100)),
    ],
)
@pytest.mark.parametrize(
    ("field", "wrong"), [("currency", "usd"), ("amount", 0), ("status", None), ("id", None)]
)
async def test_what_is_taken_back_without_sense_takes_nothing_and_fails_loudly(
    admin: Connection,
    service_login: Connection,
    type_: str,
    about: dict[str, Any],
    field: str,
    wrong: object,
) -> None:
    await buy(admin, "ann", "pi_1", CREDITS, CENTS)
    result = await stripe_event(service_login, type_, {**about, field: wrong})
    assert result["state"] == "failed"
    assert result["error"].startswith(f"MC001 {field} ")
    assert await standing(admin) == ("completed", CREDITS)


async def test_what_comes_back_is_there_before_anything_else_is_taken(
    admin: Connection, service_login: Connection
) -> None:
    await buy(admin, "ann", "pi_1", CREDITS, CENTS)
    await grant(service_login, "ann", 100)
    await call(service_login, "gifts.create_gift", user_id="ann", credits=100)
    await stripe_event(service_login, "refund.created", refund_object("re_1", "pi_1", CENTS))
    # There is nothing left for this one, until the other has failed.
    await stripe_event(service_login, "refund.created", refund_object("re_2", "pi_1", 450))
    assert await available(service_login, "ann") == 0
    failed = refund_object("re_1", "pi_1", CENTS, "failed")
    await stripe_event(service_login, "refund.failed", failed)
    assert await available(service_login, "ann") == 500
    assert await gifts_of(admin) == [(100, "active")]


async def test_a_dispute_that_grows_takes_more_and_keeps_what_it_was_last_said_to_be(
    admin: Connection, service_login: Connection
) -> None:
    await buy(admin, "ann", "pi_1", CREDITS, CENTS)

    async def hear(type_: str, cents: int, status: str) -> tuple[int, int, str]:
        about = dispute_object("dp_1", "pi_1", cents, status)
        await stripe_event(service_login, type_, about)
        row = await admin.fetchrow("SELECT * FROM credits.stripe_disputes")
        assert row is not None
        return row["amount_euro_cents"], row["credits"], row["status"]

    assert await hear("charge.dispute.created", 450, "needs_response") == (
        (450, 500, "needs_response")
    )
    assert await hear("charge.dispute.funds_withdrawn", 900, "under_review") == (
        (900, 1000, "under_review")
    )
    # What was said before that, and comes late.
    assert await hear("charge.dispute.updated", 450, "needs_response") == (
        (900, 1000, "under_review")
    )


# Events that are stored, and tried again


async def stored(admin: Connection, event: str) -> asyncpg.Record:
    row = await admin.fetchrow("SELECT * FROM credits.stripe_events WHERE id = $1", event)
    assert row is not None
    return row


async def claimed(connection: Connection) -> list[str]:
    return [
        row["claim_stripe_events"]
        for row in await connection.fetch("SELECT * FROM credits.claim_stripe_events()")
    ]


async def later(admin: Connection, event: str) -> None:
    """Its time for another try has come."""
    await admin.execute(
        "UPDATE credits.stripe_events SET next_attempt_at = clock_timestamp() WHERE id = $1", event
    )


async def test_a_refunded_charge_waits_until_stripe_has_named_its_refunds(
    admin: Connection, service_login: Connection
) -> None:
    await buy(admin, "ann", "pi_1", CREDITS, CENTS)
    charge = {"object": "charge", "id": "ch_1", "payment_intent": "pi_1", "metadata": {}}
    result = await stripe_event(service_login, "charge.refunded", charge, "evt_1")
    assert (result["state"], result["needs_refunds_of"]) == ("received", "pi_1")
    again = await stripe_event(service_login, "charge.refunded", charge, "evt_1")
    assert (again["state"], again["repeated"]) == ("received", True)
    assert await standing(admin) == ("completed", CREDITS)

    assert await claimed(service_login) == ["evt_1"]
    assert await claimed(service_login) == []  # it is leased
    result = await call(service_login, "credits.replay_stripe_event", id="evt_1")
    assert (result["state"], result["needs_refunds_of"]) == ("received", "pi_1")
    refunds = [refund_object("re_1", "pi_1", 300), refund_object("re_2", "pi_1", 150)]
    for _ in range(2):
        result = await call(
            service_login, "credits.apply_stripe_refunds", event_id="evt_1", refunds=refunds
        )
        assert (result["state"], result["error"]) == ("applied", None)
        assert await standing(admin) == ("partially_refunded", CREDITS - 333 - 166)
    assert (await stored(admin, "evt_1"))["next_attempt_at"] is None


@pytest.mark.parametrize("named", [True, False])
async def test_an_event_that_overtakes_its_purchase_is_applied_once_that_is_known(
    admin: Connection, service_login: Connection, named: bool
) -> None:
    purchase = await call(
        service_login,
        "credits.start_purchase",
        user_id="ann",
        package_id=await make_package(admin, CREDITS, CENTS),
    )
    if named:
        # A purchase that is not there: the row comes back, from a backup say.
        row = await admin.fetchrow("DELETE FROM credits.purchases RETURNING *")
        assert row is not None
        about = intent(metadata={"purchaseId": str(purchase["id"])})
        result = await stripe_event(service_login, "payment_intent.succeeded", about, "evt_1")
    else:
        # A refund of a payment whose id was never written down.
        about = refund_object("re_1", "pi_1", 300)
        result = await stripe_event(service_login, "refund.created", about, "evt_1")
    assert (result["state"], result["outcome"]) == ("ignored", None)
    assert await claimed(service_login) == []
    assert (await stored(admin, "evt_1"))["next_attempt_at"] is not None
    await later(admin, "evt_1")
    if named:
        await admin.execute(
            "INSERT INTO credits.purchases SELECT (jsonb_populate_record("
            "NULL::credits.purchases, $1)).*",
            {key: str(value) for key, value in dict(row or {}).items() if value is not None},
        )
    else:
        paid = intent(metadata={"purchaseId": str(purchase["id"])})
        await stripe_event(service_login, "payment_intent.succeeded", paid)
    assert await claimed(service_login) == ["evt_1"]
    result = await call(service_login, "credits.replay_stripe_event", id="evt_1")
    assert result["state"] == "applied"
    assert await standing(admin) == (
        ("completed", CREDITS) if named else ("partially_refunded", CREDITS - 333)
    )


async def test_stripe_is_asked_at_once_the_first_time_and_then_with_gaps(
    admin: Connection, service_login: Connection
) -> None:
    await buy(admin, "ann", "pi_1", CREDITS, CENTS)
    charge = {"object": "charge", "id": "ch_1", "payment_intent": "pi_1"}
    received = await stripe_event(service_login, "charge.refunded", charge, "evt_1")
    assert received["state"] == "received"
    assert await claimed(service_login) == ["evt_1"]
    asked = await call(service_login, "credits.replay_stripe_event", id="evt_1", asking=True)
    assert asked["state"] == "received"
    assert await claimed(service_login) == []


async def test_an_event_that_fails_is_tried_again_with_growing_gaps_for_thirty_days(
    admin: Connection, service_login: Connection
) -> None:
    await buy(admin, "ann", "pi_1", CREDITS, CENTS)
    wrong = refund_object("re_1", "pi_1", 100, currency="usd")
    await stripe_event(service_login, "refund.created", wrong, "evt_1")
    gaps = []
    for _ in range(11):
        row = await admin.fetchrow(
            "SELECT next_attempt_at - clock_timestamp() AS gap FROM credits.stripe_events"
        )
        assert row is not None
        gaps.append(row["gap"])
        await later(admin, "evt_1")
        assert await claimed(service_login) == ["evt_1"]
        result = await call(service_login, "credits.replay_stripe_event", id="evt_1")
        assert (result["state"], result["repeated"]) == ("failed", True)
    minutes = [round(gap / timedelta(minutes=1)) for gap in gaps]
    assert minutes == [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360]
    problems = await admin.fetch("SELECT credits.list_problems() AS problem")
    assert "1 Stripe events of the last 7 days could not be applied" in [
        row["problem"] for row in problems
    ]
    await admin.execute("UPDATE credits.stripe_events SET received_at = now() - interval '31 days'")
    await call(service_login, "credits.replay_stripe_event", id="evt_1")
    assert (await stored(admin, "evt_1"))["next_attempt_at"] is None


async def test_replaying_moves_nothing_twice(admin: Connection, service_login: Connection) -> None:
    await start_buying(admin, "ann", "pi_1", CREDITS, CENTS)
    for event, (type_, about) in {
        "evt_1": ("payment_intent.succeeded", intent()),
        "evt_2": ("refund.created", refund_object("re_1", "pi_1", 300)),
        "evt_3": ("charge.dispute.created", dispute_object("dp_1", "pi_1", 300)),
    }.items():
        await stripe_event(service_login, type_, about, event)
    before = await amounts(admin, "ann")
    for event in ("evt_1", "evt_2", "evt_3"):
        result = await call(service_login, "credits.replay_stripe_event", id=event)
        assert result["state"] == "applied"
    assert await amounts(admin, "ann") == before


async def test_what_cannot_be_replayed_says_why(
    admin: Connection, service_login: Connection
) -> None:
    unknown = await refusal(service_login, "credits.replay_stripe_event", id="evt_9")
    assert (unknown.sqlstate, unknown.facts) == ("MC004", {"resource": "Stripe event"})
    await stripe_event(service_login, "customer.created", {}, "evt_1")
    await admin.execute("UPDATE credits.stripe_events SET payload = NULL")
    pruned = await refusal(service_login, "credits.replay_stripe_event", id="evt_1")
    assert (pruned.sqlstate, pruned.field) == ("MC001", "id")
    no_list = await refusal(
        service_login, "credits.apply_stripe_refunds", event_id="evt_1", refunds={}
    )
    assert (no_list.sqlstate, no_list.field) == ("MC001", "refunds")


# Asking Stripe


async def checks(connection: Connection) -> list[Any]:
    return [
        row["id"] for row in await connection.fetch("SELECT * FROM credits.claim_purchase_checks()")
    ]


async def test_open_purchases_are_asked_about_with_growing_gaps_for_seven_days(
    admin: Connection, service_login: Connection
) -> None:
    purchase = await start_buying(admin, "ann", "pi_1", CREDITS, CENTS)
    assert await checks(service_login) == []
    asked_after = []
    while True:
        row = await admin.fetchrow(
            "SELECT check_at - created_at AS due, check_at FROM credits.purchases"
        )
        assert row is not None
        if row["check_at"] is None:
            break
        asked_after.append(round(row["due"] / timedelta(minutes=1)))
        # Time passes until then.
        await admin.execute(
            "UPDATE credits.purchases SET created_at = created_at - s.gap,"
            " check_at = check_at - s.gap"
            " FROM (SELECT check_at - clock_timestamp() AS gap FROM credits.purchases) AS s"
        )
        assert await checks(service_login) == [purchase["id"]]
        assert await checks(service_login) == []
    assert asked_after[:6] == [10, 20, 40, 80, 160, 320]
    assert asked_after[-1] == 7 * 24 * 60
    assert max(b - a for a, b in itertools.pairwise(asked_after)) <= 24 * 60


@pytest.mark.parametrize("word", ["succeeded", "canceled, session expired"])
async def test_a_payment_that_has_ended_is_not_asked_about(
    admin: Connection, service_login: Connection, word: str
) -> None:
    await start_buying(admin, "ann", "pi_1", CREDITS, CENTS)
    await hear(service_login, *WORDS["processing"])
    assert await admin.fetchval("SELECT check_at FROM credits.purchases") is not None
    await hear(service_login, *WORDS[word])
    assert await admin.fetchval("SELECT check_at FROM credits.purchases") is None


async def test_one_process_reads_the_list_of_events_at_a_time(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    other = await connect(database.service_url)
    try:
        since = await service_login.fetchval("SELECT credits.claim_event_listing()")
        assert since is not None
        assert await other.fetchval("SELECT credits.claim_event_listing()") is None
        until = since + timedelta(hours=5)
        await service_login.execute("SELECT credits.settle_event_listing($1)", until)
        assert await other.fetchval("SELECT credits.claim_event_listing()") is None
        await admin.execute("UPDATE credits.stripe_listing SET next_at = clock_timestamp()")
        # Ten minutes are read again.
        assert await other.fetchval("SELECT credits.claim_event_listing()") == (
            until - timedelta(minutes=10)
        )
        # A straggler does not set it back.
        await service_login.execute("SELECT credits.settle_event_listing($1)", since)
        assert await admin.fetchval("SELECT listed_until FROM credits.stripe_listing") == until
    finally:
        await other.close()


async def test_events_that_lack_are_told_from_those_that_are_stored(
    service_login: Connection,
) -> None:
    await stripe_event(service_login, "customer.created", {}, "evt_1")
    found = await service_login.fetch(
        "SELECT * FROM credits.unknown_stripe_events($1)", ["evt_1", "evt_2"]
    )
    assert [row[0] for row in found] == ["evt_2"]


async def test_a_refund_that_is_over_stays_as_it_ended(admin: Connection) -> None:
    await buy(admin, "ann", "pi_1")
    for status in ("succeeded", "failed", "canceled", "succeeded"):
        await stripe_event(admin, "refund.updated", refund_object("re", "pi_1", 900, status))
    kept = await admin.fetchval("SELECT status FROM credits.stripe_refunds WHERE id = 're'")
    assert kept == "failed"


async def test_the_ledger_says_what_a_reversal_was_for(admin: Connection) -> None:
    await buy(admin, "ann", "pi_1", CREDITS, CENTS)
    for status in ("succeeded", "failed"):
        await stripe_event(admin, "refund.updated", refund_object("re", "pi_1", CENTS, status))
    await stripe_event(admin, "charge.dispute.created", dispute_object("dp", "pi_1", CENTS))
    await stripe_event(admin, "charge.dispute.closed", dispute_object("dp", "pi_1", CENTS, "won"))
    said = await admin.fetch(
        "SELECT amount, description FROM credits.transactions WHERE type = 'reversal' ORDER BY seq"
    )
    assert [tuple(row) for row in said] == [
        (-CREDITS, "Payment refunded"),
        (CREDITS, "Refund did not come about"),
        (-CREDITS, "Payment disputed"),
        (CREDITS, "Dispute won"),
    ]
