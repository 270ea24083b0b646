"""Erasing a user: what goes, what stays, and that nobody else changes the ledger this way."""

import json
import re
from typing import Any
from uuid import UUID, uuid4

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
    ledger,
    make_package,
    refund_object,
    refusal,
    reverse,
    start_buying,
    stripe_event,
    subscribe,
    utc,
)
from tests.support.databases import Clone, Connection, connect

ANN = "user-ann-7f3a"
EMAIL = "Ann.Smith@Example.org"
NAME = "Annabel Smith"
SECRETS = (ANN, "ann.smith@example.org", "annabel", "secret words", "ann-key", "cus_annabel")
"""What must be nowhere afterwards, in lower case."""
PSEUDONYM = re.compile(r"erased-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

TEXTS = ("Secret words", EMAIL, f"app-of-{ANN}")
"""What `live` gives as an app and is none."""

USERS_TABLES = {
    "credits.balances",
    "credits.transactions",
    "credits.debit_refunds",
    "credits.usage_stats",
    "credits.reservations",
    "credits.keyed_calls",
    "credits.stripe_customers",
    "credits.purchases",
    "credits.stripe_refunds",
    "credits.stripe_disputes",
    "credits.sync_subscriptions",
    "credits.contacts",
    "credits.notices",
    "credits.admin_actions",
    "gifts.gift_redemptions",
}
"""Where `live` lets Ann have a row: a new table with a user in it fails the test until it does."""


async def erase(connection: Connection, user_id: str = ANN, **more: Any) -> asyncpg.Record:
    """Erase a user."""
    return await call(connection, "credits.erase_user", user_id=user_id, **more)


async def pseudonym(admin: Connection) -> str:
    """The pseudonym of the user who was erased last."""
    name: str = await admin.fetchval(
        "SELECT user_id FROM credits.erasures ORDER BY erased_at DESC LIMIT 1"
    )
    assert PSEUDONYM.fullmatch(name)
    return name


def payment_object(payment: str, purchase: UUID, cents: int = 900) -> dict[str, Any]:
    """Stripe's PaymentIntent as it comes with an event, with all that it says of a person."""
    return {
        "object": "payment_intent",
        "id": payment,
        "amount": cents,
        "amount_received": cents,
        "currency": "eur",
        "status": "succeeded",
        "created": 1_700_000_000,
        "customer": "cus_annabel",
        "receipt_email": EMAIL,
        "metadata": {"userId": ANN, "purchaseId": str(purchase), "credits": "1000"},
        "charges": {"data": [{"billing_details": {"name": NAME, "email": EMAIL}}]},
    }


async def live(admin: Connection) -> dict[str, Any]:
    """Ann does everything that there is to do, and writes about herself wherever she can."""
    await grant(admin, "bob", 1000)
    granted = await call(
        admin,
        "credits.grant_credits",
        user_id=ANN,
        amount=1000,
        reason="ann-key",
        reference_id=f"{ANN}:welcome",
        description="Secret words",
    )
    spent = await debit(
        admin,
        ANN,
        10,
        description="Secret words",
        metadata={"who": NAME, "deep": [{"mail": EMAIL}]},
        idempotency_key="ann-key-1",
        origin="user",
    )
    await call(
        admin,
        "credits.refund_credits",
        user_id=ANN,
        amount=4,
        description="Secret words",
        transaction_id=spent["id"],
        metadata={"who": ANN},
        idempotency_key="ann-key-2",
    )
    committed = await call(
        admin, "credits.reserve_credits", user_id=ANN, amount=20, reason="research:Secret words"
    )
    await call(
        admin,
        "credits.commit_reservation",
        reservation_id=committed["reservation_id"],
        description="Secret words",
        idempotency_key="ann-key-3",
    )
    # Without a colon the whole reason is the app; as an app it may be an address, or her id.
    wordy = await call(
        admin, "credits.reserve_credits", user_id=ANN, amount=3, reason="Secret words"
    )
    await call(admin, "credits.commit_reservation", reservation_id=wordy["reservation_id"])
    for app in (EMAIL, f"app-of-{ANN}"):
        await debit(admin, ANN, 2, app_id=app)
    held = await call(
        admin,
        "credits.reserve_credits",
        user_id=ANN,
        amount=30,
        reason="Secret words",
        idempotency_key="ann-key-4",
    )
    await subscribe(admin, ANN, at=utc("2024-01-31 12:00"))

    # Three payments: one that is done, one that is refunded and disputed, one that is still open.
    await call(admin, "credits.link_stripe_customer", user_id=ANN, stripe_customer_id="cus_annabel")
    done = await start_buying(admin, ANN, "pi_done")
    applied = await stripe_event(
        admin, "payment_intent.succeeded", payment_object("pi_done", done["id"]), "evt_done"
    )
    assert applied["state"] == "applied"
    await stripe_event(admin, "refund.created", refund_object("re_1", "pi_done", 90))
    await stripe_event(admin, "charge.dispute.created", dispute_object("dp_1", "pi_done", 90))
    opened = await call(
        admin,
        "credits.start_purchase",
        user_id=ANN,
        package_id=await make_package(admin, 1000, 900),
        success_url=f"https://app.example.org/{ANN}?ok",
        cancel_url=f"https://app.example.org/{ANN}?no",
        idempotency_key="ann-key-5",
        email=EMAIL,
    )
    await call(
        admin,
        "credits.record_checkout_session",
        user_id=ANN,
        purchase_id=opened["id"],
        stripe_checkout_session_id="cs_open",
        stripe_checkout_url="https://checkout.example.org/cus_annabel",
        stripe_customer_id="cus_annabel",
    )
    await admin.execute(
        "UPDATE credits.purchases SET metadata = $2, failure = $3 WHERE id = $1",
        opened["id"],
        {"who": NAME},
        f"declined for {NAME}",
    )
    # Another amount than was asked for: it fails, and is kept to be tried again.
    broken = await stripe_event(
        admin, "payment_intent.succeeded", payment_object("pi_open", opened["id"], 1), "evt_broken"
    )
    assert broken["state"] == "failed"
    await stripe_event(
        admin, "customer.updated", {"id": "cus_annabel", "email": EMAIL.upper()}, "evt_customer"
    )
    await admin.execute(
        "UPDATE credits.stripe_events SET error = error || ' ' || $1 WHERE id = 'evt_broken'", NAME
    )

    gifts = {}
    for name, who, more in (
        ("kept", ANN, {"message": "Secret words", "creator_name": NAME, "email": EMAIL}),
        ("given", ANN, {"message": "Secret words", "creator_name": NAME}),
        ("to-bob", ANN, {"type": "personalized", "target_email": "bob@example.org"}),
        ("from-bob", "bob", {"message": "Secret words for Annabel"}),
        ("for-ann", "bob", {"type": "personalized", "target_email": EMAIL}),
        ("waiting", "bob", {"type": "personalized", "target_email": EMAIL}),
        ("expired", "bob", {"type": "personalized", "target_email": EMAIL}),
    ):
        keyed = {"idempotency_key": f"ann-key-{name}"} if who == ANN else {}
        gifts[name] = await call(
            admin, "gifts.create_gift", user_id=who, credits=5, **keyed, **more
        )
    await call(admin, "gifts.redeem_gift", code=gifts["given"]["code"], user_id="bob")
    for name in ("from-bob", "for-ann"):
        redeemed = await call(
            admin,
            "gifts.redeem_gift",
            code=gifts[name]["code"],
            user_id=ANN,
            email=EMAIL,
            idempotency_key=f"ann-key-redeem-{name}",
            source_app_id=NAME,
        )
        assert redeemed["outcome"] == "success"
    await call(admin, "gifts.redeem_gift", code=gifts["to-bob"]["code"], user_id=ANN)
    await admin.execute(
        "UPDATE gifts.gift_codes SET expires_at = created_at WHERE id = $1", gifts["expired"]["id"]
    )
    assert (await call(admin, "gifts.expire_gifts"))["done"] == 1

    await admin.execute(
        "SELECT credits._write_notice($1, 'sync_paused', $2, now())", ANN, {"who": NAME}
    )
    await admin.fetch("SELECT * FROM credits.claim_notices()")
    # Administrators do something to her, she does something as one, also to herself.
    for user, who, name in ((ANN, "root", "Rita"), ("bob", ANN, NAME)):
        await call(
            admin,
            "credits.grant_as_admin",
            user_id=user,
            amount=6,
            reason="Secret words" if user == ANN else "Ticket 4711",
            admin_id=who,
            admin_name=name,
            idempotency_key="ann-key-admin",
        )
    await call(
        admin,
        "credits.refund_as_admin",
        user_id=ANN,
        transaction_id=spent["id"],
        reason="Secret words",
        admin_id="root",
        admin_name="Rita",
        idempotency_key="ann-key-admin-2",
    )
    await call(admin, "credits.gift_sync", user_id=ANN, admin_id=ANN, admin_name=NAME)
    # What a ledger check had found with her.
    await admin.execute(
        "INSERT INTO credits.job_runs (id, job, started_at, ended_at, did, error) VALUES"
        " (gen_random_uuid(), 'ledger-check', now(), now(), $1, $2)",
        {
            "violations": 2,
            "first": [
                {"rule": "chain", "user_id": "bob", "detail": {"seq": 1}},
                {"rule": "idempotency_key", "user_id": ANN, "detail": {"key": "ann-key-1"}},
            ],
        },
        f'22P02 invalid input syntax: "{ANN}"',
    )
    # As an administrator she has erased somebody.
    await grant(admin, "dora", 1)
    await call(admin, "credits.erase_user", user_id="dora", admin_id=ANN)
    return {
        "granted": granted,
        "spent": spent,
        "held": held,
        "done": done,
        "opened": opened,
        "gifts": gifts,
    }


async def texts(admin: Connection) -> dict[str, str]:
    """Every row of every table as text in lower case: all columns, whatever their types."""
    tables = await admin.fetch(
        "SELECT c.oid::regclass::text AS name FROM pg_class AS c"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname IN ('credits', 'gifts') AND c.relkind IN ('r', 'p', 'm')"
    )
    assert len(tables) > 20
    rows = "SELECT coalesce(string_agg(t::text, E'\n'), '') FROM"
    return {
        row["name"]: str(await admin.fetchval(f"{rows} {row['name']} AS t")).lower()
        for row in tables
    }


async def payload(admin: Connection, event: str) -> Any:
    """What is stored of a Stripe event."""
    return await admin.fetchval("SELECT payload FROM credits.stripe_events WHERE id = $1", event)


async def columns_with_users(admin: Connection) -> set[str]:
    """The tables that have a column user_id."""
    found = await admin.fetch(
        "SELECT c.oid::regclass::text AS name FROM pg_class AS c"
        " JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'user_id'"
        " WHERE c.relnamespace IN ('credits'::regnamespace, 'gifts'::regnamespace)"
        " AND c.relkind IN ('r', 'p')"
    )
    return {row["name"] for row in found}


async def test_nothing_of_a_person_is_left_in_any_table(admin: Connection) -> None:
    lived = await live(admin)
    before = await texts(admin)
    # Whoever adds a table with a user in it lets Ann have a row there.
    assert await columns_with_users(admin) - {"credits.erasures"} == USERS_TABLES
    for table in USERS_TABLES:
        assert ANN in before[table], table
    for secret in SECRETS:
        assert any(secret in text for text in before.values()), secret
    waiting = lived["gifts"]["waiting"]["id"]

    await erase(admin)

    after = await texts(admin)
    kept_for_the_giver = after.pop("gifts.gift_codes")
    for table, text in after.items():
        for secret in SECRETS:
            assert secret not in text, (table, secret)
    # A gift of Bob's that she could still redeem is his money: the address stays until it is over.
    (line,) = [row for row in kept_for_the_giver.split("\n") if "ann.smith" in row]
    assert str(waiting) in line
    for secret in set(SECRETS) - {"ann.smith@example.org"}:
        assert secret not in kept_for_the_giver, secret


async def test_amounts_seq_and_times_stay_and_the_ledger_ends_with_a_forfeiture(
    admin: Connection,
) -> None:
    await live(admin)
    before = await ledger(admin, ANN)
    left = await available(admin, ANN)

    erased = await erase(admin)

    after = await ledger(admin, await pseudonym(admin))
    kept = "seq id type origin amount balance_before balance_after reference_id created_at"
    assert [[row[column] for column in kept.split()] for row in after[: len(before)]] == [
        [row[column] for column in kept.split()] for row in before
    ]
    # Two active gifts of 5 came back, and the hold of 30 was let go.
    assert [(row["type"], row["amount"]) for row in after[len(before) :]] == [
        ("gift", 5),
        ("gift", 5),
        ("forfeiture", -(left + 30 + 10)),
    ]
    assert after[-1]["balance_after"] == 0
    assert tuple(erased.values())[:4] == (left + 40, 0, 2, 1)
    assert erased["erased_at"] is not None
    # What the database itself wrote stays: what was bought, taken back and charged.
    for row, old in zip(after, before, strict=False):
        assert row["app_id"] == ("erased" if old["app_id"] in TEXTS else old["app_id"])
        ours = old["origin"] == "system" and old["type"] not in ("grant", "refund")
        assert row["description"] == (old["description"] if ours else "")
        assert row["metadata"] == (old["metadata"] if ours else None)
        assert row["idempotency_key"] == (old["idempotency_key"] if ours else None)


async def test_what_is_open_ends(admin: Connection) -> None:
    lived = await live(admin)
    await erase(admin)

    name = await pseudonym(admin)
    rows = await admin.fetch("SELECT user_id, status, reason FROM credits.reservations ORDER BY id")
    assert [tuple(row) for row in rows] == [
        (name, "committed", "erased"),
        (name, "committed", "erased"),
        (name, "refunded", "erased"),
    ]
    gifts = {
        key: await admin.fetchrow("SELECT * FROM gifts.gift_codes WHERE id = $1", gift["id"])
        for key, gift in lived["gifts"].items()
    }
    told = {
        key: gift
        and (gift["creator_id"], gift["status"], gift["redeemed_by"], gift["target_email"])
        for key, gift in gifts.items()
    }
    assert told == {
        "kept": (name, "cancelled", None, None),
        "given": (name, "depleted", "bob", None),
        "to-bob": (name, "cancelled", None, None),
        "from-bob": ("bob", "depleted", name, None),
        "for-ann": ("bob", "depleted", name, None),
        "waiting": ("bob", "active", None, EMAIL.lower()),
        "expired": ("bob", "expired", None, None),
    }
    assert not await admin.fetchval("SELECT count(*) FROM credits.sync_subscriptions")
    # A debit that comes late finds nothing to commit.
    late = await refusal(
        admin, "credits.commit_reservation", reservation_id=lived["held"]["reservation_id"]
    )
    assert late.sqlstate == "MC013"
    for user in (ANN, name):
        assert await call(admin, "credits.get_sync_status", user_id=user) is not None
    other = await refusal(
        admin,
        "credits.commit_reservation",
        reservation_id=lived["held"]["reservation_id"],
        user_id=ANN,
    )
    assert other.sqlstate == "MC004"


@pytest.mark.parametrize("end", ["redeemed", "cancelled", "expired"])
async def test_an_address_goes_when_the_gift_that_needed_it_is_over(
    admin: Connection, end: str
) -> None:
    gift = (await live(admin))["gifts"]["waiting"]
    await erase(admin)

    if end == "redeemed":
        pending = await call(admin, "gifts.redeem_pending_gifts", user_id="ann-anew", email=EMAIL)
        assert pending["redeemed"] == 1
    elif end == "cancelled":
        await call(admin, "gifts.cancel_gift", user_id="bob", gift_id=gift["id"])
    else:
        await admin.execute(
            "UPDATE gifts.gift_codes SET expires_at = created_at WHERE id = $1", gift["id"]
        )
        assert (await call(admin, "gifts.expire_gifts"))["done"] == 1

    assert "ann.smith" not in (await texts(admin))["gifts.gift_codes"]


async def test_a_giver_who_calls_again_gets_his_gift(admin: Connection) -> None:
    """For whom it was is forgotten, so that it cannot be compared."""
    await grant(admin, "bob", 10)
    arguments: dict[str, Any] = {
        "user_id": "bob",
        "credits": 5,
        "type": "personalized",
        "target_email": EMAIL,
        "idempotency_key": "k",
    }
    gift = await call(admin, "gifts.create_gift", **arguments)
    await call(admin, "gifts.redeem_gift", code=gift["code"], user_id=ANN, email=EMAIL)
    await erase(admin)

    again = await call(admin, "gifts.create_gift", **arguments)

    assert (again["id"], again["replayed"], again["target_email"]) == (gift["id"], True, None)
    for other in ({"credits": 6}, {"type": "simple", "target_email": None}):
        refused = await refusal(admin, "gifts.create_gift", **{**arguments, **other})
        assert refused.sqlstate == "MC003"


async def test_a_late_call_about_a_hold_leaves_no_key(admin: Connection) -> None:
    await grant(admin, ANN, 10)
    hold = await call(admin, "credits.reserve_credits", user_id=ANN, amount=3, reason="chat")
    about = {"reservation_id": hold["reservation_id"], "idempotency_key": f"{ANN}-late"}
    done = await call(admin, "credits.commit_reservation", reservation_id=hold["reservation_id"])
    await erase(admin)

    late = await call(admin, "credits.commit_reservation", **about)

    assert (late["transaction_id"], late["replayed"]) == (done["transaction_id"], True)
    assert all(ANN not in text for text in (await texts(admin)).values())


async def test_erasing_again_changes_nothing(admin: Connection) -> None:
    await live(admin)
    await erase(admin)
    before = await texts(admin)

    again = await erase(admin)

    assert tuple(again.values()) == (0, 0, 0, 0, None)
    assert await texts(admin) == before


async def test_a_call_whose_answer_was_lost_gets_it_again(admin: Connection) -> None:
    await grant(admin, ANN, 7)
    id_ = uuid4()
    first = await erase(admin, id=id_)
    # He is back, before the first call is repeated.
    await grant(admin, ANN, 3, "anew")

    again = await erase(admin, id=id_)

    assert tuple(again.values()) == tuple(first.values())
    assert await pseudonym(admin) == f"erased-{id_}"
    assert await available(admin, ANN) == 3


async def test_a_user_never_seen_leaves_no_trace(admin: Connection) -> None:
    before = await texts(admin)
    assert tuple((await erase(admin, "nobody")).values()) == (0, 0, 0, 0, None)
    assert await texts(admin) == before


async def test_who_only_tried_a_code_is_erased_as_well(admin: Connection) -> None:
    await grant(admin, "bob", 5)
    gift = await call(
        admin,
        "gifts.create_gift",
        user_id="bob",
        credits=5,
        type="personalized",
        target_email="cat@example.org",
    )
    tried = await call(admin, "gifts.redeem_gift", code=gift["code"], user_id=ANN, email=EMAIL)
    assert tried["outcome"] == "failed_wrong_user"
    assert not await admin.fetchval("SELECT count(*) FROM credits.balances WHERE user_id = $1", ANN)

    assert (await erase(admin))["erased_at"] is not None

    assert all(ANN not in text for text in (await texts(admin)).values())


async def test_after_it_he_is_a_user_never_seen(admin: Connection) -> None:
    await live(admin)
    await erase(admin)

    assert await available(admin, ANN) == 0
    # Her reference and her keys are free again, and a new chain begins.
    await call(
        admin,
        "credits.grant_credits",
        user_id=ANN,
        amount=50,
        reason="x",
        reference_id=f"{ANN}:welcome",
    )
    await debit(admin, ANN, 10, idempotency_key="ann-key-1", origin="user")
    assert [(row["seq"], row["amount"]) for row in await ledger(admin, ANN)] == [(1, 50), (2, -10)]
    # And she can be erased once more, under another pseudonym.
    assert (await erase(admin))["forfeited_credits"] == 40
    hers = "SELECT count(*) FROM credits.erasures WHERE erased_by IS NULL"
    assert await admin.fetchval(hers) == 2


async def test_a_debt_is_written_off(admin: Connection) -> None:
    await reverse(admin, ANN, 100)
    assert (await call(admin, "credits.get_balance", user_id=ANN))["available"] == -100

    erased = await erase(admin)

    assert (erased["forfeited_credits"], erased["written_off_credits"]) == (0, 100)
    assert (await amounts(admin, await pseudonym(admin)))[-1] == ("forfeiture", 100)


async def test_an_empty_balance_forfeits_nothing(admin: Connection) -> None:
    await call(admin, "credits.init_balance", user_id=ANN)
    assert (await erase(admin))["forfeited_credits"] == 0
    assert await ledger(admin, await pseudonym(admin)) == []


async def test_another_user_is_not_touched(admin: Connection) -> None:
    await live(admin)
    await debit(admin, "bob", 3, description="Mine", idempotency_key="bobs", metadata={"a": 1})
    await subscribe(admin, "bob", at=utc("2024-01-31 12:00"))
    before = [
        await admin.fetch(f"SELECT t::text FROM {table} AS t WHERE user_id = 'bob' ORDER BY 1")
        for table in sorted(USERS_TABLES - {"credits.admin_actions"})
    ]
    await erase(admin)
    after = [
        await admin.fetch(f"SELECT t::text FROM {table} AS t WHERE user_id = 'bob' ORDER BY 1")
        for table in sorted(USERS_TABLES - {"credits.admin_actions"})
    ]
    assert after == before


async def test_what_administrators_did_stays(admin: Connection) -> None:
    await live(admin)
    before = await admin.fetch("SELECT * FROM credits.admin_actions ORDER BY created_at")
    await erase(admin)
    name = await pseudonym(admin)
    after = await admin.fetch("SELECT * FROM credits.admin_actions ORDER BY created_at")

    kept = ("id", "action", "transaction_id", "created_at")
    assert [[row[column] for column in kept] for row in after] == [
        [row[column] for column in kept] for row in before
    ]
    debit_id = before[2]["details"]["debitId"]
    changed = ("user_id", "admin_id", "admin_name", "reason", "details")
    assert [tuple(row[column] for column in changed) for row in after] == [
        (name, "root", "Rita", "erased", {"amount": 6}),
        # What she did for others is theirs: only who did it is gone.
        ("bob", name, None, "Ticket 4711", {"amount": 6}),
        (name, "root", "Rita", "erased", {"amount": 6, "debitId": debit_id, "rest": True}),
        (name, name, None, None, {}),
    ]


async def test_an_administrator_who_has_nothing_is_erased_as_well(admin: Connection) -> None:
    await call(admin, "credits.grant_as_admin", user_id="bob", amount=1, reason="Why", admin_id=ANN)
    assert not await admin.fetchval("SELECT count(*) FROM credits.balances WHERE user_id = $1", ANN)

    assert (await erase(admin))["erased_at"] is not None

    assert all(ANN not in text for text in (await texts(admin)).values())
    assert await admin.fetchval("SELECT admin_id FROM credits.admin_actions") == await pseudonym(
        admin
    )
    assert tuple((await erase(admin)).values()) == (0, 0, 0, 0, None)


async def test_users_are_erased_one_after_the_other_with_what_they_did_to_each_other(
    admin: Connection,
) -> None:
    for user, who in ((ANN, "bob"), ("bob", ANN)):
        await call(
            admin, "credits.grant_as_admin", user_id=user, amount=1, reason="Why", admin_id=who
        )
    for user in (ANN, "bob"):
        await erase(admin, user)
    rows = await admin.fetch("SELECT user_id, admin_id, reason FROM credits.admin_actions")
    pseudonyms = {row["user_id"] for row in await admin.fetch("SELECT * FROM credits.erasures")}
    assert len(rows) == 2
    for row in rows:
        assert {row["user_id"], row["admin_id"]} == pseudonyms
        assert row["reason"] == "erased"


@pytest.mark.parametrize(
    ("app", "kept"),
    [
        ("chat", "chat"),
        ("Chat-2.old_one", "Chat-2.old_one"),
        ("dear diary", "erased"),
        (EMAIL, "erased"),
        ("größe", "erased"),
        (f"x-{ANN.upper()}", "erased"),
        ("x" * 65, "erased"),
        (None, None),
    ],
)
async def test_an_app_is_a_name_or_no_app(
    admin: Connection, app: str | None, kept: str | None
) -> None:
    assert await admin.fetchval("SELECT credits._erased_app($1, $2)", app, ANN) == kept


async def test_apps_that_were_texts_become_one(admin: Connection) -> None:
    await grant(admin, ANN, 100)
    for app, amount in (("dear diary", 1), ("dear me", 2), ("erased", 4), ("chat", 8)):
        await debit(admin, ANN, amount, app_id=app)
    await erase(admin)
    rows = await admin.fetch(
        "SELECT app_id, credits_used, operations FROM credits.usage_stats ORDER BY app_id"
    )
    assert [tuple(row) for row in rows] == [("chat", 8, 1), ("erased", 7, 3)]
    assert await admin.fetch("SELECT * FROM credits.check_ledger()") == []


# What comes late


async def test_a_payment_that_comes_late_is_credited_to_the_pseudonym(admin: Connection) -> None:
    lived = await live(admin)
    await erase(admin)
    name = await pseudonym(admin)

    # Weeks later the money is there, and Stripe tells all that it knows of the buyer.
    session = {
        "object": "checkout.session",
        "id": "cs_open",
        "payment_intent": "pi_late",
        "payment_status": "paid",
        "status": "complete",
        "amount_total": 900,
        "currency": "eur",
        "customer_details": {"email": EMAIL, "name": NAME},
        "metadata": {"userId": ANN, "purchaseId": str(lived["opened"]["id"])},
    }
    applied = await stripe_event(admin, "checkout.session.completed", session, "evt_late")
    again = await stripe_event(admin, "checkout.session.completed", session, "evt_late")

    assert (applied["state"], again["repeated"]) == ("applied", True)
    assert await available(admin, name) == 1000
    assert await available(admin, ANN) == 0
    row = await admin.fetchrow("SELECT * FROM credits.stripe_events WHERE id = 'evt_late'")
    assert row is not None
    assert row["payload"] is None
    assert not await admin.fetchval("SELECT count(*) FROM credits.contacts")

    # It is given back: nothing is left of it.
    refunded = await stripe_event(admin, "refund.created", refund_object("re_9", "pi_late", 900))
    assert refunded["state"] == "applied"
    assert await available(admin, name) == 0


async def test_refunds_and_disputes_that_come_late_take_from_the_pseudonym(
    admin: Connection,
) -> None:
    await live(admin)
    await erase(admin)
    name = await pseudonym(admin)

    await stripe_event(admin, "refund.created", refund_object("re_2", "pi_done", 450))
    assert (await call(admin, "credits.get_balance", user_id=name))["available"] == -500
    # The one that was heard of before she went is won.
    await stripe_event(admin, "charge.dispute.closed", dispute_object("dp_1", "pi_done", 90, "won"))
    assert (await call(admin, "credits.get_balance", user_id=name))["available"] == -400
    assert (await amounts(admin, name))[-2:] == [("reversal", -500), ("reversal", 100)]


async def test_a_stored_event_can_still_be_applied(admin: Connection) -> None:
    lived = await live(admin)
    asked = {
        "object": "charge",
        "id": "ch_1",
        "payment_intent": "pi_done",
        "billing_details": {"email": EMAIL},
        "metadata": {"userId": ANN},
    }
    received = await stripe_event(admin, "charge.refunded", asked, "evt_asked")
    assert received["needs_refunds_of"] == "pi_done"
    await erase(admin)
    name = await pseudonym(admin)

    # Stripe has been asked meanwhile.
    applied = await call(
        admin,
        "credits.apply_stripe_refunds",
        event_id="evt_asked",
        refunds=[refund_object("re_3", "pi_done", 90)],
    )
    assert applied["state"] == "applied"
    assert (await amounts(admin, name))[-1] == ("reversal", -100)

    # One that failed is mended and tried again: of its payload enough is there.
    kept = await payload(admin, "evt_broken")
    assert kept["data"]["object"]["amount_received"] == 1
    await admin.execute(
        "UPDATE credits.purchases SET price_euro_cents = 1 WHERE id = $1", lived["opened"]["id"]
    )
    replayed = await call(admin, "credits.replay_stripe_event", id="evt_broken")
    assert (replayed["state"], replayed["outcome"]) == ("applied", "purchase completed")
    payloads = await admin.fetch("SELECT payload::text AS text FROM credits.stripe_events")
    assert not [row["text"] for row in payloads if "ann" in (row["text"] or "").lower()]


async def test_a_late_event_that_fails_is_kept_without_the_person(admin: Connection) -> None:
    lived = await live(admin)
    await erase(admin)

    late = payment_object("pi_late", lived["opened"]["id"], 5)
    failed = await stripe_event(admin, "payment_intent.succeeded", late, "evt_late")

    assert failed["state"] == "failed"
    assert await payload(admin, "evt_late") == {
        "data": {
            "object": {
                "object": "payment_intent",
                "id": "pi_late",
                "amount": 5,
                "amount_received": 5,
                "currency": "eur",
                "status": "succeeded",
                "created": 1_700_000_000,
                "metadata": {"purchaseId": str(lived["opened"]["id"])},
            }
        }
    }


async def test_nobody_can_be_a_pseudonym(admin: Connection) -> None:
    await grant(admin, ANN, 5)
    await erase(admin)
    name = await pseudonym(admin)
    other = f"erased-{uuid4()}"

    for user in (name, other):
        for function in ("credits.erase_user", "credits.export_user", "credits.init_balance"):
            said = await refusal(admin, function, user_id=user)
            assert (said.sqlstate, said.field) == ("MC001", "userId"), function
    said = await refusal(
        admin, "credits.grant_credits", user_id=other, amount=1, reason="x", reference_id="x"
    )
    assert (said.sqlstate, said.field) == ("MC001", "userId")
    # Only what looks like one is refused.
    await grant(admin, "erased-me", 1)


async def test_the_pseudonym_does_not_follow_from_the_user(admin: Connection) -> None:
    names = set()
    for _ in range(3):
        await grant(admin, ANN, 5)
        await erase(admin)
        names.add(await admin.fetchval("SELECT max(user_id) FROM credits.erasures"))
    found = await admin.fetch("SELECT user_id FROM credits.erasures")
    assert len({row["user_id"] for row in found}) == 3
    for row in found:
        assert UUID(row["user_id"].removeprefix("erased-")).version == 4


# The ledger is changed by nobody else

CHANGES = [
    "description = ''",
    "metadata = NULL",
    "idempotency_key = NULL",
    "user_id = 'erased-00000000-0000-4000-8000-000000000000'",
    "description = '', amount = amount",
    "user_id = user_id",
]


async def raised(connection: Connection, *statements: str) -> str | None:
    """The SQLSTATE with which the last of these is refused; all of it is undone."""
    undone = connection.transaction()
    await undone.start()
    try:
        for statement in statements:
            await connection.execute(statement)
    except asyncpg.PostgresError as error:
        return error.sqlstate
    else:
        return None
    finally:
        await undone.rollback()


OPENED = (
    "INSERT INTO credits.erasures (user_id) VALUES ('erased-00000000-0000-4000-8000-000000000000')",
    "INSERT INTO credits.balances SELECT (b).* FROM (SELECT jsonb_populate_record(b,"
    ' \'{"user_id": "erased-00000000-0000-4000-8000-000000000000"}\') AS b'
    " FROM credits.balances AS b) AS c",
)
TAKEN = "user_id = 'erased-00000000-0000-4000-8000-000000000000'"


@pytest.mark.parametrize("role", ["postgres", "mana_credits_owner"])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_plain_update_is_refused(
    database: Clone, admin: Connection, role: str, change: str
) -> None:
    await grant(admin, ANN, 5)
    connection = await connect(database.admin_url, role=role)
    try:
        update = f"UPDATE credits.transactions SET {change}"
        owner_may_not = role != "postgres" and "amount" in change
        assert await raised(connection, update) == ("42501" if owner_may_not else "MC014")
        # Not with an erasure that looks as if it were under way, either, nor from within a block.
        assert await raised(connection, *OPENED, update) == ("42501" if owner_may_not else "MC014")
        block = f"DO $do$ BEGIN EXECUTE $sql$ {update} $sql$; END $do$"
        assert await raised(connection, *OPENED, block) == ("42501" if owner_may_not else "MC014")
    finally:
        await connection.close()


async def test_no_setting_opens_the_way(database: Clone, admin: Connection) -> None:
    await grant(admin, ANN, 5)
    owner = await connect(database.admin_url, role="mana_credits_owner")
    try:
        update = "UPDATE credits.transactions SET description = ''"
        assert await raised(owner, "SET LOCAL search_path = credits", update) == "MC014"
        assert await raised(owner, "SET LOCAL credits.erasing = 'on'", update) == "MC014"
        assert await raised(owner, "SET LOCAL session_replication_role = replica") == "42501"
        # The function that may is let in, and then finds no erasure under way.
        erase_it = f"SELECT credits._erase_ledger('{ANN}', 'bob')"
        assert await raised(owner, erase_it) == "MC014"
        named = erase_it.replace("bob", "erased-00000000-0000-4000-8000-000000000000")
        assert await raised(owner, named) == "MC014"
        # One that is over is not under way.
        await call(admin, "credits.erase_user", user_id=ANN)
        over = await pseudonym(admin)
        await grant(admin, "bob", 5)
        assert await raised(owner, f"SELECT credits._erase_ledger('bob', '{over}')") == "MC014"
    finally:
        await owner.close()


@pytest.mark.parametrize(
    "change",
    [
        "amount = amount + 1, balance_after = balance_after + 1",
        "seq = seq + 1",
        "created_at = created_at + interval '1 day'",
        "type = 'refund'",
        "app_id = 'other'",
        "id = gen_random_uuid()",
        "reference_id = gen_random_uuid()",
        "description = 'better'",
        "metadata = '{\"a\": 1}'",
        "idempotency_key = 'other'",
        "user_id = user_id",
    ],
)
async def test_even_the_function_cannot_change_what_a_row_says(
    admin: Connection, change: str
) -> None:
    await grant(admin, ANN, 5)
    # The function is replaced, as nobody but the owner could: the rows stay as they are.
    body = f"UPDATE credits.transactions SET {TAKEN}, {change} WHERE user_id = p_user_id"
    if change.startswith("user_id"):
        body = "UPDATE credits.transactions SET description = '' WHERE user_id = p_user_id"
    replaced = (
        "CREATE OR REPLACE FUNCTION credits._erase_ledger(p_user_id text, p_pseudonym text)"
        f" RETURNS void LANGUAGE plpgsql AS $f$ BEGIN {body}; END $f$"
    )
    call_it = f"SELECT credits._erase_ledger('{ANN}', 'x')"
    assert await raised(admin, replaced, *OPENED, call_it) == "MC014"


async def test_the_same_way_with_nothing_else_changed_is_open(admin: Connection) -> None:
    """What the tests above refuse is refused for what it changes, not for how it is called."""
    await grant(admin, ANN, 5)
    pseudonym_ = "erased-00000000-0000-4000-8000-000000000000"
    assert (
        await raised(admin, *OPENED, f"SELECT credits._erase_ledger('{ANN}', '{pseudonym_}')")
        is None
    )


ACTIONS = {
    "user_id": "user_id = 'erased-00000000-0000-4000-8000-000000000000'",
    "admin_id": "admin_id = 'erased-00000000-0000-4000-8000-000000000000'",
}


def replaced_by(change: str) -> tuple[str, str]:
    """The function that may change what administrators did, made anew, and its call."""
    return (
        "CREATE OR REPLACE FUNCTION credits._erase_actions(p_user_id text, p_pseudonym text)"
        " RETURNS void LANGUAGE plpgsql AS"
        f" $f$ BEGIN UPDATE credits.admin_actions SET {change}; END $f$",
        f"SELECT credits._erase_actions('{ANN}', 'x')",
    )


async def act(admin: Connection) -> None:
    """An administrator grants something."""
    await call(
        admin,
        "credits.grant_as_admin",
        user_id=ANN,
        amount=5,
        reason="Why",
        admin_id="root",
        admin_name="Rita",
        idempotency_key="k",
    )


@pytest.mark.parametrize("role", ["postgres", "mana_credits_owner"])
@pytest.mark.parametrize(
    "change", [*ACTIONS.values(), "reason = 'erased'", "details = '{}'", "action = 'refund'"]
)
async def test_a_plain_update_of_an_action_is_refused(
    database: Clone, admin: Connection, role: str, change: str
) -> None:
    await act(admin)
    connection = await connect(database.admin_url, role=role)
    try:
        update = f"UPDATE credits.admin_actions SET {change}"
        owner_may_not = role != "postgres" and change.startswith("action ")
        refused = "42501" if owner_may_not else "MC014"
        assert await raised(connection, update) == refused
        assert await raised(connection, *OPENED, update) == refused
        block = f"DO $do$ BEGIN EXECUTE $sql$ {update} $sql$; END $do$"
        assert await raised(connection, *OPENED, block) == refused
        # The function that may is let in, and then finds no erasure under way.
        name = ACTIONS["user_id"].split("'")[1]
        for pseudonym_ in ("bob", name):
            named = f"SELECT credits._erase_actions('{ANN}', '{pseudonym_}')"
            assert await raised(connection, named) == "MC014"
    finally:
        await connection.close()


@pytest.mark.parametrize("goes", [*ACTIONS])
@pytest.mark.parametrize(
    "change",
    [
        "id = gen_random_uuid(), transaction_id = gen_random_uuid()",
        "action = 'refund'",
        "created_at = created_at + interval '1 day'",
        "reason = 'better'",
        "admin_name = 'Rolf'",
        "details = details || '{\"amount\": 6}'",
        "details = details - 'amount'",
        "details = '{}'",
        "goes = 'rolf'",
        "goes = goes",
        "other = 'rolf'",
        "other's text",
    ],
)
async def test_even_the_function_cannot_change_what_an_action_was(
    admin: Connection, change: str, goes: str
) -> None:
    await act(admin)
    (other,) = set(ACTIONS) - {goes}
    body = f"{ACTIONS[goes]}, {change.replace('other', other)}"
    if change == "other's text":
        # The reason goes with the user alone, and the name with the administrator alone.
        lost = "admin_name = NULL" if goes == "user_id" else "reason = 'erased'"
        body = f"{ACTIONS[goes]}, {lost}"
    elif change.startswith("goes"):
        body = change.replace("goes", goes)
    replaced, call_it = replaced_by(body)
    assert await raised(admin, *OPENED, replaced, call_it) == "MC014"


@pytest.mark.parametrize(
    "change",
    [
        "{user_id}, reason = 'erased'",
        "{user_id}, details = details - 'idempotencyKey'",
        "{admin_id}, admin_name = NULL, details = details - 'idempotencyKey'",
        "{user_id}, {admin_id}, reason = 'erased', admin_name = NULL",
    ],
)
async def test_what_erasing_changes_in_an_action_is_let_through(
    admin: Connection, change: str
) -> None:
    await act(admin)
    replaced, call_it = replaced_by(change.format(**ACTIONS))
    assert await raised(admin, *OPENED, replaced, call_it) is None


@pytest.mark.parametrize("table", ["transactions", "admin_actions"])
@pytest.mark.parametrize("statement", ["DELETE FROM credits.", "TRUNCATE credits."])
async def test_rows_are_still_removed_by_nobody(
    admin: Connection, statement: str, table: str
) -> None:
    await act(admin)
    assert await raised(admin, *OPENED, f"{statement}{table}") == "MC014"


async def test_the_service_erases_by_the_function_alone(
    admin: Connection, service_login: Connection
) -> None:
    await grant(admin, ANN, 5)
    for statement in (
        f"SELECT credits._erase_ledger('{ANN}', 'x')",
        f"SELECT credits._erase_actions('{ANN}', 'x')",
        "UPDATE credits.transactions SET description = ''",
        "UPDATE credits.admin_actions SET reason = 'erased'",
        "INSERT INTO credits.erasures (user_id) VALUES ('x')",
    ):
        assert await raised(service_login, statement) == "42501"
    assert (await erase(service_login))["forfeited_credits"] == 5


# The export


async def export(connection: Connection, user_id: str = ANN) -> dict[str, Any]:
    document: dict[str, Any] = (await call(connection, "credits.export_user", user_id=user_id))[
        "export_user"
    ]
    return document


async def test_the_export_has_everything_that_erasing_clears(admin: Connection) -> None:
    lived = await live(admin)
    document = await export(admin)

    text = json.dumps(document).lower()
    for secret in SECRETS:
        assert secret in text, secret
    assert len(document["transactions"]) == len(await ledger(admin, ANN))
    assert {key: len(rows) for key, rows in document.items() if isinstance(rows, list)} == {
        "transactions": len(document["transactions"]),
        "debitRefunds": 1,
        "usage": 6,
        "reservations": 3,
        "purchases": 2,
        "stripeEvents": 5,
        "giftsCreated": 3,
        "giftAttempts": 3,
        "giftsAddressed": 2,
        "notices": 1,
        "keyedCalls": 3,
        "adminActions": 3,
        "actionsAsAdmin": 2,
        "erasuresAsAdmin": 1,
    }
    granted, refunded, gifted = document["adminActions"]
    assert (granted["action"], granted["amount"], granted["reason"]) == (
        "grant",
        6,
        "Secret words",
    )
    assert granted["transactionId"] == granted["id"]
    assert (refunded["action"], refunded["amount"]) == ("refund", 6)
    assert refunded["debitId"] == str(lived["spent"]["id"])
    assert (gifted["action"], gifted["amount"], gifted["reason"]) == ("gift_sync", None, None)
    # Who did it is the administrator's, and whom she did something to, and why, the other's.
    assert "root" not in text
    assert "rita" not in text
    assert "bob" not in json.dumps(document["actionsAsAdmin"])
    assert "4711" not in text
    assert [
        (row["action"], row["adminName"], row["amount"], row["idempotencyKey"])
        for row in document["actionsAsAdmin"]
    ] == [("grant", NAME, 6, "ann-key-admin"), ("gift_sync", NAME, None, None)]
    (done,) = [row for row in document["purchases"] if row["status"] == "disputed"]
    assert [row["id"] for row in done["refunds"] + done["disputes"]] == ["re_1", "dp_1"]
    # A code that is money does not travel, unless it is her own.
    codes = await admin.fetch(
        "SELECT code FROM gifts.gift_codes WHERE status = 'active' AND creator_id <> $1", ANN
    )
    assert codes
    assert all(row["code"].lower() not in text for row in codes)


async def test_the_export_of_a_user_never_seen_is_empty(admin: Connection) -> None:
    document = await export(admin, "nobody")
    assert document["userId"] == "nobody"
    assert document["balance"]["transactionsCount"] == 0
    assert {key for key, value in document.items() if not value} == set(document) - {
        "userId",
        "exportedAt",
        "balance",
    }


async def test_the_export_after_erasing_is_that_of_a_user_never_seen(admin: Connection) -> None:
    await live(admin)
    await erase(admin)
    document, nobody = await export(admin), await export(admin, "nobody")
    for volatile in ("userId", "exportedAt"):
        del document[volatile], nobody[volatile]
    assert document == nobody


async def test_the_export_changes_nothing(admin: Connection) -> None:
    await live(admin)
    before = await texts(admin)
    await export(admin)
    assert await texts(admin) == before


async def test_a_completed_purchase_is_kept_for_bookkeeping(admin: Connection) -> None:
    bought = await buy(admin, ANN, "pi_1")
    await erase(admin)
    row = await admin.fetchrow("SELECT * FROM credits.purchases WHERE id = $1", bought["id"])
    assert row is not None
    assert (row["status"], row["price_euro_cents"], row["credits"]) == ("completed", 900, 1000)
    assert row["stripe_payment_intent_id"] == "pi_1"
    assert row["completed_at"] is not None


async def test_what_is_stored_of_others_stays(admin: Connection) -> None:
    await live(admin)
    about = {"object": "customer", "id": "cus_bob", "email": "bob@example.org"}
    await stripe_event(admin, "customer.updated", about, "evt_bob")
    before = await payload(admin, "evt_bob")
    runs = "SELECT did -> 'first' FROM credits.job_runs WHERE job = 'ledger-check'"
    order = [one["rule"] for one in await admin.fetchval(runs)]
    await erase(admin)
    assert before is not None
    assert await payload(admin, "evt_bob") == before
    assert [one["rule"] for one in await admin.fetchval(runs)] == order


@pytest.mark.parametrize("admin_id", ["", "a" * 129])
async def test_who_erases_has_bounds(admin: Connection, admin_id: str) -> None:
    await grant(admin, "ann", 5)
    refused = await refusal(admin, "credits.erase_user", user_id="ann", admin_id=admin_id)
    assert (refused.sqlstate, refused.field) == ("MC001", "adminId")
    assert await available(admin, "ann") == 5
