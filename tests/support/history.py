"""What callers of the SQL functions were told, and what the database must hold for it.

Every call was answered, so nothing may be in the ledger that nobody was told of, and nothing that
anybody was told of may be missing from it or be there twice.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg

from tests.support.databases import Connection

Row: TypeAlias = asyncpg.Record
Arguments: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """A call, and its answer: a row, or the SQLSTATE with which it was refused."""

    function: str
    arguments: Arguments
    row: Row | None
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A ledger row as a caller was told of it."""

    id: UUID
    user_id: str
    type: str
    amount: int


def _debit(arguments: Arguments, row: Row) -> Move:
    return Move(row["id"], arguments["user_id"], "usage", -arguments["amount"])


def _refund(arguments: Arguments, row: Row) -> Move:
    return Move(row["id"], arguments["user_id"], "refund", arguments["amount"])


def _grant(arguments: Arguments, row: Row) -> Move:
    # The reference alone counts: another amount answers the first grant.
    return Move(row["id"], arguments["user_id"], "grant", row["amount"])


def _commit(_: Arguments, row: Row) -> Move:
    return Move(row["transaction_id"], row["user_id"], "usage", -row["amount"])


def _redemption(arguments: Arguments, row: Row) -> Move | None:
    if row["outcome"] != "success" or row["replayed"]:
        return None
    return Move(arguments["id"], arguments["user_id"], "gift", row["credits"])


def _activation(arguments: Arguments, row: Row) -> Move | None:
    if row["replayed"] or row["amount_charged"] == 0:
        return None
    return Move(arguments["id"], arguments["user_id"], "usage", -row["amount_charged"])


MOVES: Final[dict[str, Callable[[Arguments, Row], Move | None]]] = {
    "credits.use_credits": _debit,
    "credits.refund_credits": _refund,
    "credits.grant_credits": _grant,
    "credits.commit_reservation": _commit,
    "credits.activate_sync": _activation,
    "gifts.redeem_gift": _redemption,
}
"""The calls whose `p_id` is that of their ledger row, and the row that an answer tells of."""

SUBJECTS: Final[dict[str, Callable[[Arguments, Row], Any]]] = {
    "credits.use_credits": lambda _, row: row["id"],
    "credits.refund_credits": lambda _, row: row["id"],
    "credits.reserve_credits": lambda _, row: row["reservation_id"],
    "credits.commit_reservation": lambda _, row: row["reservation_id"],
    "credits.refund_reservation": lambda _, row: row["reservation_id"],
    "credits.activate_sync": lambda arguments, _: arguments["interval"],
    "credits.start_purchase": lambda _, row: row["id"],
    "gifts.create_gift": lambda _, row: row["id"],
    "gifts.redeem_gift": lambda _, row: row["gift_id"],
    "gifts.cancel_gift": lambda arguments, _: arguments["gift_id"],
}
"""The calls that take an idempotency key, and what an answer is about: one key, one of them."""

SERVICES: Final = {
    "credits.refund_credits",
    "credits.reserve_credits",
    "credits.commit_reservation",
    "credits.refund_reservation",
}
"""The calls whose keys are always the services'; a debit says whose, the others are users'."""


@dataclass
class History:
    """Every answer, in the order in which they came."""

    told: list[Told] = field(default_factory=list)

    def done(self, function: str) -> Iterator[tuple[Arguments, Row]]:
        """The arguments and answers of the calls of a function that were not refused."""
        for told in self.told:
            if told.function == function and told.row is not None:
                yield told.arguments, told.row

    def total(self, function: str, column: str) -> int:
        """A column of all answers of a function, added up."""
        return sum(row[column] for _, row in self.done(function))

    def outcomes(self) -> Counter[str]:
        """How often each function was answered, and how often it refused with what."""
        return Counter(f"{told.function} {told.refused or 'done'}" for told in self.told)

    def about(self, ids: set[UUID]) -> list[Told]:
        """What was told of moves, by the ids that callers drew for them."""
        return [told for told in self.told if told.arguments.get("id") in ids]

    def firsts(self, function: str, subject: Callable[[Arguments, Row], Any]) -> set[Any]:
        """What was done, each by one call alone: all others were told that it had been."""
        found = Counter(
            subject(arguments, row) for arguments, row in self.done(function) if not row["replayed"]
        )
        assert set(found.values()) <= {1}, (function, found)
        return set(found)


async def require_kept(admin: Connection, history: History) -> None:
    """Fail unless the database holds what callers were told, once, and nothing else."""
    moves = _moves(history)
    rows = await admin.fetch(
        "SELECT id, user_id, type::text, amount, reference_id, origin::text, idempotency_key AS key"
        " FROM credits.transactions"
    )
    ledger = Counter(row["id"] for row in rows)
    assert set(ledger.values()) <= {1}
    drawn = {told.arguments["id"] for told in history.told if told.function in MOVES}
    # Each with all that was said of it.
    moved = history.about((drawn - moves.keys()) & ledger.keys())
    assert moved == [], f"a refused call has moved credits: {moved}"
    lost = history.about(moves.keys() - ledger.keys())
    assert lost == [], f"a move was told of that is lost: {lost}"

    others = defaultdict(list)
    for row in rows:
        move = moves.get(row["id"])
        if move is not None:
            assert move == Move(row["id"], row["user_id"], row["type"], row["amount"])
        else:
            others[_kind(row)].append(row["reference_id"])
    _require_one_move_a_key(history)
    await _require_gifts(admin, history, others)
    await _require_holds(admin, history)
    charged = history.total("credits.charge_due_subscriptions", "charged")
    assert len(others.pop("charge", [])) == charged
    await _require_notices(admin, history)
    _require_events(history)
    # What payments give and take is told by Stripe's events; see require_paid.
    others.pop("purchase", None)
    others.pop("reversal", None)
    assert others == {}, f"moves that nobody was told of: {others}"


def _moves(history: History) -> dict[UUID, Move]:
    """The ledger rows that answers tell of, each by the call that made it."""
    told_of: dict[UUID, Move] = {}
    made: set[UUID] = set()
    for function, tell in MOVES.items():
        for arguments, row in history.done(function):
            move = tell(arguments, row)
            if move is None:
                continue
            assert told_of.setdefault(move.id, move) == move, "two answers about one move differ"
            assert row["replayed"] == (move.id != arguments["id"]), (function, arguments, row)
            if not row["replayed"]:
                made.add(move.id)
    assert told_of.keys() == made, "a repetition was told of a move that nobody made"
    return told_of


def _kind(row: Row) -> str:
    """What made a ledger row whose id no caller drew."""
    key = row["key"] or ""
    if row["type"] in ("purchase", "reversal"):
        return str(row["type"])
    if row["type"] == "gift" and row["amount"] < 0:
        return "gift created"
    if row["origin"] == "system":
        for start, kind in (
            ("gift-return:", "gift returned"),
            ("gift:", "gift redeemed"),
            ("sync:", "charge"),
        ):
            if key.startswith(start):
                return kind
    return "unknown"


def _require_one_move_a_key(history: History) -> None:
    subjects = defaultdict(set)
    for function, subject in SUBJECTS.items():
        for arguments, row in history.done(function):
            key = arguments.get("idempotency_key")
            if key is None or row.get("outcome", "success") != "success":
                continue
            origin = "service" if function in SERVICES else arguments.get("origin", "user")
            user_id = arguments.get("user_id") or row["user_id"]
            subjects[user_id, origin, key].add((function, subject(arguments, row)))
    for arguments, row in history.done("credits.grant_credits"):
        subjects[arguments["user_id"], "grant", arguments["reference_id"]].add(row["id"])
    twice = {key: found for key, found in subjects.items() if len(found) > 1}
    assert twice == {}, twice


async def _require_gifts(
    admin: Connection, history: History, others: dict[str, list[UUID]]
) -> None:
    gifts = {row["id"]: row for row in await admin.fetch("SELECT * FROM gifts.gift_codes")}
    ends = defaultdict(set)
    for gift in gifts.values():
        ends[gift["status"]].add(gift["id"])

    created = Counter({row["id"]: 1 for _, row in history.done("gifts.create_gift")})
    assert Counter(others.pop("gift created", [])) == created
    assert gifts.keys() == created.keys()

    redeemers = {
        row["gift_id"]: arguments["user_id"]
        for arguments, row in history.done("gifts.redeem_gift")
        if row["outcome"] == "success"
    }
    registered = others.pop("gift redeemed", [])
    assert len(registered) == history.total("gifts.redeem_pending_gifts", "redeemed")
    assert {id_: gifts[id_]["redeemed_by"] for id_ in redeemers} == redeemers
    assert ends["depleted"] == redeemers.keys() | set(registered)

    cancelled = history.firsts("gifts.cancel_gift", SUBJECTS["gifts.cancel_gift"])
    # The others were cancelled to cover a refund or a dispute.
    assert cancelled <= ends["cancelled"]
    assert len(ends["expired"]) == history.total("gifts._expire_gifts", "done")
    assert Counter(others.pop("gift returned", [])) == Counter(ends["cancelled"] | ends["expired"])


async def _require_holds(admin: Connection, history: History) -> None:
    ends = defaultdict(set)
    for row in await admin.fetch("SELECT id, status FROM credits.reservations"):
        ends[row["status"]].add(row["id"])
    reserved = {row["reservation_id"] for _, row in history.done("credits.reserve_credits")}
    assert set().union(*ends.values()) == reserved
    committed = {row["reservation_id"] for _, row in history.done("credits.commit_reservation")}
    assert ends["committed"] == committed
    assert ends["refunded"] == history.firsts(
        "credits.refund_reservation", SUBJECTS["credits.refund_reservation"]
    )
    assert len(ends["expired"]) == history.total("credits._expire_reservations", "done")


async def _require_notices(admin: Connection, history: History) -> None:
    written = Counter(
        row["kind"] for row in await admin.fetch("SELECT kind::text FROM credits.notices")
    )
    assert written == +Counter(
        sync_paused=history.total("credits.charge_due_subscriptions", "paused"),
        gift_expired=history.total("gifts._expire_gifts", "done"),
        charge_coming=history.total("credits.announce_charges", "done"),
    )


def _require_events(history: History) -> None:
    """However often an event came, it was new once."""
    new = Counter[str]()
    for arguments, row in history.done("credits.apply_stripe_event"):
        new[arguments["id"]] += not row["repeated"]
    assert set(new.values()) <= {1}, new


async def require_paid(admin: Connection, history: History) -> None:
    """Fail unless purchases gave, and refunds and disputes took, what Stripe said, in any order.

    By now every event has been applied, and every payment's id is known.
    """
    purchases = await admin.fetch(
        "SELECT *, status::text AS word FROM credits.purchases ORDER BY user_id, id"
    )
    started = {row["id"] for _, row in history.done("credits.start_purchase")}
    assert {row["id"] for row in purchases} == started

    prices = {row["stripe_payment_intent_id"]: row["price_euro_cents"] for row in purchases}
    paid = {
        arguments["stripe_payment_intent_id"]
        for arguments, _ in history.done("credits.follow_payment")
        if arguments["stripe_status"] == "succeeded"
    }
    ranks: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for arguments, row in history.done("credits.apply_stripe_event"):
        about = arguments["payload"]["data"]["object"]
        if arguments["type"].startswith("payment_intent."):
            right = about["amount_received"] == prices[about["id"]]
            assert row["state"] == "applied" or not right, row
            if arguments["type"] == "payment_intent.succeeded" and right:
                paid.add(about["id"])
            continue
        rank = _rank(arguments["type"], about["status"])
        before, _ = ranks[about["payment_intent"]].get(about["id"], (rank, 0))
        ranks[about["payment_intent"]][about["id"]] = (max(rank, before), about["amount"])

    moved = {
        (row["reference_id"], row["type"]): (row["amount"], row["times"])
        for row in await admin.fetch(
            "SELECT reference_id, type::text, sum(amount) AS amount, count(*) AS times"
            " FROM credits.transactions WHERE type IN ('purchase', 'reversal') GROUP BY 1, 2"
        )
    }
    for row in purchases:
        payment, credits = row["stripe_payment_intent_id"], row["credits"]
        given = moved.pop((row["id"], "purchase"), (0, 0))
        assert given == ((credits, 1) if payment in paid else (0, 0)), row
        taken = sum(
            credits * cents // row["price_euro_cents"]
            for rank, cents in ranks[payment].values()
            if rank in TAKES
        )
        expected = min(taken, credits) if payment in paid else 0
        assert moved.pop((row["id"], "reversal"), (0, 0))[0] == -expected, row
    assert moved == {}


TAKES: Final = {0, 1, 11, 12}
"""The ranks that take credits, see _rank."""


def _rank(type_: str, status: str) -> int:
    """How far a refund (0 to 2) or a dispute (10 to 13) has come, as product and Stripe say."""
    if not type_.startswith("charge.dispute."):
        return {"pending": 0, "succeeded": 1, "failed": 2, "canceled": 2}[status]
    if type_ == "charge.dispute.funds_reinstated":
        return 13
    if type_ == "charge.dispute.closed" and status in ("won", "lost"):
        return {"lost": 12, "won": 13}[status]
    opens = type_ == "charge.dispute.created" and not status.startswith("warning_")
    return 11 if opens or type_ == "charge.dispute.funds_withdrawn" else 10
