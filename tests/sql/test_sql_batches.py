"""Batches: run_batch does for each of its calls what the call's own function does."""

import asyncio
import random
from collections import Counter
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

import asyncpg
import pytest

from tests.support.batches import Call, Outcome, run_all, run_alone, run_batch, wait_longer
from tests.support.calls import BATCH_FIELDS, Refusal, amounts, batch_call, grant, ledger, subscribe
from tests.support.databases import Clone, Connection
from tests.support.races import blocked, connections, superusers

USE = "credits.use_credits"
REFUND = "credits.refund_credits"
GRANT = "credits.grant_credits"
RESERVE = "credits.reserve_credits"
COMMIT = "credits.commit_reservation"
RETURN = "credits.refund_reservation"

TOO_MUCH = 1_000_000_001
RUN = "SELECT * FROM credits.run_batch($1)"


def debit(user: str, amount: int | None = 1, **more: Any) -> Call:
    """A debit, with an id of its own."""
    arguments = {"user_id": user, "amount": amount, "app_id": "app", "description": "Something"}
    return USE, {**arguments, "id": uuid4(), **more}


def refund(user: str, amount: int = 1, **more: Any) -> Call:
    return REFUND, {"user_id": user, "amount": amount, "description": "x", "id": uuid4(), **more}


def reward(user: str, reference: str, amount: int = 1, **more: Any) -> Call:
    arguments = {"user_id": user, "amount": amount, "reason": "quest", "reference_id": reference}
    return GRANT, {**arguments, "id": uuid4(), **more}


def hold(user: str, amount: int = 1, **more: Any) -> Call:
    arguments = {"user_id": user, "amount": amount, "reason": "chat:held", "id": uuid4()}
    return RESERVE, {**arguments, **more}


def commit(reservation: UUID, **more: Any) -> Call:
    return COMMIT, {"reservation_id": reservation, "id": uuid4(), **more}


def give_back(reservation: UUID, **more: Any) -> Call:
    return RETURN, {"reservation_id": reservation, **more}


async def held(connection: Connection, user: str, amount: int = 1) -> UUID:
    """A reservation that is open."""
    function, arguments = hold(user, amount)
    row = (await run_alone(connection, function, **arguments)).done
    reservation: UUID = row["reservation_id"]
    return reservation


async def counts(admin: Connection) -> list[int]:
    """How many rows each table of credits has that a batch writes."""
    found = await admin.fetchrow(
        "SELECT (SELECT count(*) FROM credits.balances),"
        " (SELECT count(*) FROM credits.transactions), (SELECT count(*) FROM credits.reservations),"
        " (SELECT count(*) FROM credits.debit_refunds), (SELECT count(*) FROM credits.keyed_calls),"
        " (SELECT coalesce(sum(operations), 0)::bigint FROM credits.usage_stats),"
        " (SELECT sum(version)::bigint FROM credits.balances)"
    )
    assert found is not None
    return list(found)


# What one call comes to, in a batch and alone


class Names:
    """The words in which what happened to two sides can be compared: users and ids by name."""

    def __init__(self, side: str) -> None:
        self._side = side
        self._names: dict[UUID, str] = {}

    def user(self, number: int) -> str:
        return f"{self._side}-{number}"

    def id(self, name: str) -> UUID:
        """The id that has this name on this side."""
        made = uuid5(NAMESPACE_OID, f"{self._side}/{name}")
        self._names[made] = name
        return made

    def plain(self, value: Any) -> Any:
        """A value in those words: times are told apart from nothing alone."""
        match value:
            case asyncpg.Record():
                return {name: self.plain(item) for name, item in value.items()}
            case dict():
                return {name: self.plain(item) for name, item in value.items()}
            case UUID():
                return self._names.get(value, "an id")
            case datetime():
                return "a time"
            case str():
                try:
                    return self._names[UUID(value)]
                except (ValueError, KeyError):
                    return value.replace(f"{self._side}-", "user-")
        return value

    def outcome(self, outcome: Outcome) -> Any:
        if outcome.refused is not None:
            return outcome.refused.sqlstate, self.plain(outcome.refused.facts)
        return self.plain(outcome.done)

    async def state(self, admin: Connection) -> dict[str, list[Any]]:
        """What the tables hold of this side's users.

        `version` counts the writes of a balance, and a batch writes it less often.
        """
        queries = {
            "balances": "SELECT user_id, balance, reserved, total_earned, total_spent, last_seq"
            " FROM credits.balances WHERE starts_with(user_id, $1) ORDER BY user_id",
            "ledger": "SELECT * FROM credits.transactions WHERE starts_with(user_id, $1)"
            " ORDER BY user_id, seq",
            "holds": "SELECT * FROM credits.reservations WHERE starts_with(user_id, $1)",
            "refunds": "SELECT * FROM credits.debit_refunds WHERE starts_with(user_id, $1)",
            "keys": "SELECT * FROM credits.keyed_calls WHERE starts_with(user_id, $1)",
            "usage": "SELECT user_id, app_id, sum(credits_used), sum(operations)"
            " FROM credits.usage_stats WHERE starts_with(user_id, $1) GROUP BY 1, 2",
        }
        found = {
            table: [self.plain(row) for row in await admin.fetch(query, f"{self._side}-")]
            for table, query in queries.items()
        }
        # The others come in the order of their ids, which differs.
        for table in found.keys() - {"balances", "ledger"}:
            found[table].sort(key=repr)
        return found


OPERATIONS: list[Call] = [
    (USE, {"amount": 7, "app_id": "chat", "description": "d", "metadata": {"a": [1, "ü", None]}}),
    (USE, {"amount": 7, "app_id": "chat", "description": "d", "origin": "user"}),
    (USE, {"amount": 7, "app_id": "chat", "description": "", "idempotency_key": "a key"}),
    (REFUND, {"amount": 7, "description": "r", "app_id": "chat", "metadata": {}}),
    (REFUND, {"amount": 7, "description": "r", "idempotency_key": "a key"}),
    (REFUND, {"amount": 3, "description": "r", "transaction_id": "spent"}),
    (GRANT, {"amount": 7, "reason": "quest", "reference_id": "q"}),
    (GRANT, {"amount": 7, "reason": "quest", "reference_id": "q", "description": "A quest"}),
    (GRANT, {"amount": 8, "reason": "quest", "reference_id": "start"}),
    (RESERVE, {"amount": 7, "reason": "chat:x", "expires_in_seconds": 60}),
    (RESERVE, {"amount": 7, "reason": "chat:x", "idempotency_key": "a key"}),
    (COMMIT, {"reservation_id": "held"}),
    (COMMIT, {"reservation_id": "held", "amount": 3, "description": "c"}),
    (COMMIT, {"reservation_id": "held", "idempotency_key": "a key"}),
    (COMMIT, {"reservation_id": "committed"}),
    (RETURN, {"reservation_id": "held"}),
    (RETURN, {"reservation_id": "held", "idempotency_key": "a key"}),
    (RETURN, {"reservation_id": "returned"}),
    # What is refused.
    (USE, {"amount": 0, "app_id": "chat", "description": "d"}),
    (USE, {"amount": None, "app_id": "chat", "description": "d"}),
    (USE, {"amount": TOO_MUCH, "app_id": "chat", "description": "d"}),
    (USE, {"amount": 71, "app_id": "chat", "description": "d"}),
    (USE, {"amount": 7, "app_id": "", "description": "d"}),
    (USE, {"amount": 7, "app_id": "chat", "description": "d" * 501}),
    (USE, {"amount": 7, "app_id": "chat", "description": None}),
    (USE, {"amount": 7, "app_id": "chat", "description": "d", "metadata": [1]}),
    (USE, {"amount": 7, "app_id": "chat", "description": "d", "idempotency_key": ""}),
    (USE, {"amount": 7, "app_id": "chat", "description": "d", "origin": "system"}),
    (USE, {"amount": 8, "app_id": "app", "description": "d", "idempotency_key": "used"}),
    (USE, {"amount": 10, "app_id": "chat", "description": "d", "idempotency_key": "used"}),
    (USE, {"amount": 5, "app_id": "chat", "description": "d", "idempotency_key": "of the hold"}),
    (REFUND, {"amount": -1, "description": "r"}),
    (REFUND, {"amount": 11, "description": "r", "transaction_id": "spent"}),
    (REFUND, {"amount": 1, "description": "r", "transaction_id": "unknown"}),
    (REFUND, {"amount": 1, "description": "r", "transaction_id": "somebody else's debit"}),
    (REFUND, {"amount": 1, "description": "r", "app_id": "a" * 65}),
    (REFUND, {"amount": 10, "description": "r", "idempotency_key": "used"}),
    (GRANT, {"amount": 0, "reason": "quest", "reference_id": "q"}),
    (GRANT, {"amount": 7, "reason": "", "reference_id": "q"}),
    (GRANT, {"amount": 7, "reason": "quest", "reference_id": ""}),
    (GRANT, {"amount": 7, "reason": "quest", "reference_id": "q", "description": "d" * 257}),
    (RESERVE, {"amount": 71, "reason": "chat:x"}),
    (RESERVE, {"amount": 7, "reason": ""}),
    (RESERVE, {"amount": 7, "reason": "chat:x", "expires_in_seconds": 0}),
    (RESERVE, {"amount": 7, "reason": "chat:x", "idempotency_key": "k" * 256}),
    (RESERVE, {"amount": 7, "reason": "chat:x", "idempotency_key": "used"}),
    (COMMIT, {"reservation_id": "unknown"}),
    (COMMIT, {"reservation_id": "somebody else's hold"}),
    (COMMIT, {"reservation_id": "returned"}),
    (COMMIT, {"reservation_id": "held", "amount": 6}),
    (COMMIT, {"reservation_id": "held", "amount": 0}),
    (COMMIT, {"reservation_id": "held", "description": "d" * 501}),
    (COMMIT, {"reservation_id": "held", "idempotency_key": "used"}),
    (RETURN, {"reservation_id": "unknown"}),
    (RETURN, {"reservation_id": "somebody else's hold"}),
    (RETURN, {"reservation_id": "committed"}),
    (RETURN, {"reservation_id": "held", "idempotency_key": "of the hold"}),
]
IDS = ("transaction_id", "reservation_id")


async def before(connection: Connection, names: Names) -> None:
    """What both sides have: 70 credits to spend, a debit of 10, and three holds."""
    user, other = names.user(0), names.user(1)
    reason = {"reason": "x:y"}
    for function, arguments in (
        reward(user, "start", 90),
        debit(user, 10, id=names.id("spent"), idempotency_key="used"),
        hold(user, 5, id=names.id("held"), idempotency_key="of the hold", **reason),
        hold(user, 5, id=names.id("committed"), **reason),
        commit(names.id("committed"), id=names.id("the commit")),
        hold(user, 5, id=names.id("returned"), **reason),
        give_back(names.id("returned")),
        reward(other, "start", 90),
        debit(other, 10, id=names.id("somebody else's debit")),
        hold(other, 10, id=names.id("somebody else's hold")),
    ):
        assert (await run_alone(connection, function, **arguments)).row is not None


@pytest.mark.parametrize("function", [USE, REFUND, GRANT, RESERVE, COMMIT, RETURN])
async def test_an_operation_comes_to_the_same_in_a_batch(
    admin: Connection, service_login: Connection, function: str
) -> None:
    for number, (operation, arguments) in enumerate(OPERATIONS):
        if operation == function:
            told, state = await come_to(admin, service_login, f"{number}s", function, arguments)
            found = await come_to(admin, service_login, f"{number}b", function, arguments)
            assert found == (told, state), arguments


async def come_to(
    admin: Connection, connection: Connection, side: str, function: str, arguments: dict[str, Any]
) -> tuple[Any, Any]:
    """What a call is told and leaves behind, alone or (on a side that ends in b) in a batch."""
    names = Names(side)
    await before(connection, names)
    given = {name: names.id(value) if name in IDS else value for name, value in arguments.items()}
    given["user_id"] = names.user(0)
    if function != RETURN:
        given["id"] = names.id("this")
    if side.endswith("b"):
        # A neighbour on either side, who must not matter.
        one, outcome, two = await run_batch(
            connection,
            debit(names.user(1), 1, id=names.id("x")),
            (function, given),
            debit(names.user(1), 1, id=names.id("y")),
        )
        assert (one.done["available"], two.done["available"]) == (69, 68)
    if side.endswith("s") or outcome.alone:
        outcome = await run_alone(connection, function, **given)
    state = await names.state(admin)
    # The neighbour's rows were looked at above.
    return names.outcome(outcome), {
        table: [row for row in rows if row["user_id"] == "user-0"] for table, rows in state.items()
    }


# Any sequence


KEYS = [None] * 5 + ["k1", "k2", "k3"]


class Sequence:
    """Random calls of three users, the same on either side: ids and users have names."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._made: list[tuple[str, dict[str, Any]]] = []
        """All calls so far, those of the present group included."""
        self._known = 0
        """So many of them were answered."""
        self._number = 0

    def group(self, size: int) -> list[tuple[str, dict[str, Any]]]:
        """The next calls."""
        self._known = len(self._made)
        taken: set[str] = set()
        for _ in range(size):
            call = self._again() or self._call()
            if call[1].get("id") in taken:
                call = self._call()
            taken.add(call[1].get("id", ""))
            self._made.append(call)
        return self._made[self._known :]

    def _again(self) -> tuple[str, dict[str, Any]] | None:
        """Now and then what was asked for before: with its id, or as another call."""
        if not self._known or self._dice.random() > 0.15:
            return None
        function, arguments = self._dice.choice(self._made[: self._known])
        if "id" in arguments and self._dice.random() < 0.5:
            arguments = {**arguments, "id": self._name()}
        return function, arguments

    def _name(self) -> str:
        self._number += 1
        return f"call {self._number}"

    def _of(self, function: str, known: int) -> str:
        """The id of an earlier call of a function, mostly."""
        found = [arguments["id"] for made, arguments in self._made[:known] if made == function]
        if not found or self._dice.random() < 0.1:
            return "unknown"
        return str(self._dice.choice(found[-8:]))

    def _call(self) -> tuple[str, dict[str, Any]]:
        dice = self._dice
        function = dice.choice([USE, USE, USE, REFUND, REFUND, GRANT, RESERVE, COMMIT, RETURN])
        amount: int | None = dice.choice([1, 2, 3, 5, 8, 20, 60])
        if dice.random() < 0.1:
            amount = dice.choice([0, -1, None, TOO_MUCH])
        arguments: dict[str, Any] = {"user_id": dice.randrange(3), "id": self._name()}
        if function != GRANT:
            arguments["idempotency_key"] = dice.choice([*KEYS, *([""] if amount == 1 else [])])
        match function:
            case "credits.use_credits":
                arguments |= {"amount": amount, "app_id": dice.choice(["chat", "art"])}
                arguments |= {
                    "description": dice.choice(["d", "d" * 501] if amount == 2 else ["d"])
                }
                arguments |= {"origin": dice.choice(["user", "service"])}
                arguments |= {"metadata": dice.choice([None, {"n": amount}])}
            case "credits.refund_credits":
                arguments |= {"amount": amount, "app_id": "chat", "description": "r"}
                if dice.random() < 0.7:
                    # Also one that stands in the same group.
                    arguments["transaction_id"] = self._of(USE, len(self._made))
            case "credits.grant_credits":
                reference = f"quest {dice.randrange(6)}"
                arguments |= {"amount": amount, "reason": "quest", "reference_id": reference}
            case "credits.reserve_credits":
                arguments |= {"amount": amount, "reason": dice.choice(["chat:x", "art"])}
            case _:
                arguments["reservation_id"] = self._of(RESERVE, self._known)
                # Mostly without a user, or with whoever it is.
                if dice.random() < 0.6:
                    del arguments["user_id"]
                if function == COMMIT:
                    arguments["amount"] = dice.choice([None, amount])
                else:
                    del arguments["id"]
        return function, arguments


def on(names: Names, calls: list[tuple[str, dict[str, Any]]]) -> list[Call]:
    """Calls as one side makes them."""
    return [
        (
            function,
            {
                name: names.user(value)
                if name == "user_id"
                else names.id(value)
                if name in ("id", *IDS)
                else value
                for name, value in arguments.items()
            },
        )
        for function, arguments in calls
    ]


@pytest.mark.parametrize("seed", range(8))
async def test_a_random_sequence_comes_to_the_same_in_batches(
    admin: Connection, service_login: Connection, seed: int
) -> None:
    dice = random.Random(f"sizes {seed}")
    sequence = Sequence(seed)
    single, together = Names("single"), Names("batch")
    for names in (single, together):
        for number in range(3):
            await grant(service_login, names.user(number), 60)
    words = Counter[str]()
    for _ in range(20):
        calls = sequence.group(dice.choice([1, 2, 3, 8, 20]))
        one_by_one = [
            await run_alone(service_login, function, **arguments)
            for function, arguments in on(single, calls)
        ]
        at_once = await run_all(service_login, on(together, calls))
        for call, expected, found in zip(calls, one_by_one, at_once, strict=True):
            assert together.outcome(found) == single.outcome(expected), call
            words[expected.refused.sqlstate if expected.refused else call[0]] += 1
            words["replayed"] += expected.row is not None and expected.row["replayed"]
        assert await together.state(admin) == await single.state(admin)
    # Else the dice have left something out.
    assert words.keys() >= {"MC001", "MC002", "MC003", "MC004", USE, REFUND, GRANT, RESERVE}, words
    assert words["replayed"] > 0


# Several calls of one user, and several users


async def test_a_users_calls_are_made_in_the_order_of_the_array(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 10)
    outcomes = await run_batch(
        service_login,
        debit("ann", 8),
        debit("ann", 3),
        refund("ann", 5),
        debit("ann", 3),
        hold("ann", 4),
        debit("ann", 1),
        reward("ann", "quest", 20),
        debit("ann", 20),
    )
    told = [
        outcome.error.facts if outcome.refused else outcome.done["available"]
        for outcome in outcomes
    ]
    assert told == [
        2,
        {"required": 3, "available": 2},
        7,
        4,
        0,
        {"required": 1, "available": 0},
        20,
        0,
    ]
    assert await amounts(admin, "ann") == [
        ("grant", 10),
        ("usage", -8),
        ("refund", 5),
        ("usage", -3),
        ("grant", 20),
        ("usage", -20),
    ]
    rows = await ledger(admin, "ann")
    assert [row["balance_after"] for row in rows] == [10, 2, 7, 4, 24, 4]
    assert [row["seq"] for row in rows] == [1, 2, 3, 4, 5, 6]


async def test_many_users_at_once_do_not_touch_each_other(
    admin: Connection, service_login: Connection
) -> None:
    users = ["cleo", "ann", "bob"]
    for user in users:
        await grant(service_login, user, 10)
    calls = [debit(user, amount) for amount in (1, 2, 100, 3) for user in users]
    outcomes = await run_batch(service_login, *calls)
    for (_, arguments), outcome in zip(calls, outcomes, strict=True):
        if arguments["amount"] == 100:
            assert outcome.error == Refusal("MC002", {"required": 100, "available": 7})
        else:
            move = outcome.done
            assert (move["id"], move["user_id"]) == (arguments["id"], arguments["user_id"])
            assert move["amount"] == -arguments["amount"]
    for user in users:
        assert await amounts(admin, user) == [
            ("grant", 10),
            ("usage", -1),
            ("usage", -2),
            ("usage", -3),
        ]


async def test_a_refused_call_leaves_nothing_between_others(
    admin: Connection, service_login: Connection
) -> None:
    """Also what it has written before it was refused."""
    await grant(service_login, "ann", 10)
    some = await held(service_login, "ann", 3)
    before, refused, after = await run_batch(
        service_login,
        debit("ann", 2),
        commit(some, amount=4),
        debit("ann", 2),
    )
    assert (before.done["available"], after.done["available"]) == (5, 3)
    assert refused.error.field == "amount"
    assert await admin.fetchval("SELECT status::text FROM credits.reservations") == "open"
    assert await amounts(admin, "ann") == [("grant", 10), ("usage", -2), ("usage", -2)]


async def test_one_key_twice_in_a_batch_moves_once(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    await grant(service_login, "bob", 30)
    key = {"idempotency_key": "k"}
    first, again, other, held_, users, bobs = await run_batch(
        service_login,
        debit("ann", 2, **key),
        debit("ann", 2, **key),
        debit("ann", 3, **key),
        hold("ann", 2, **key),
        # Another's key space each.
        debit("ann", 3, origin="user", **key),
        debit("bob", 3, **key),
    )
    assert (first.done["replayed"], again.done["replayed"]) == (False, True)
    assert again.done["id"] == first.done["id"]
    assert (other.error.sqlstate, held_.error.sqlstate) == ("MC003", "MC003")
    assert (users.done["available"], bobs.done["available"]) == (25, 27)
    assert await amounts(admin, "ann") == [("grant", 30), ("usage", -2), ("usage", -3)]
    assert await admin.fetchval("SELECT count(*) FROM credits.reservations") == 0


async def test_a_key_of_a_hold_is_known_to_a_debit_behind_it(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    held_, debited = await run_batch(
        service_login, hold("ann", 2, idempotency_key="k"), debit("ann", 2, idempotency_key="k")
    )
    assert held_.done["available"] == 28
    assert debited.error.sqlstate == "MC003"
    assert await amounts(admin, "ann") == [("grant", 30)]


async def test_an_id_and_a_key_of_before_are_found_by_a_batch(
    admin: Connection, service_login: Connection
) -> None:
    for user in ("ann", "bob", "cleo"):
        await grant(service_login, user, 30)
    by_id, by_key = debit("ann", 2), debit("bob", 2, idempotency_key="k")
    first = [await run_alone(service_login, f, **given) for f, given in (by_id, by_key)]
    function, given = by_key
    again = await run_batch(
        service_login, by_id, (function, {**given, "id": uuid4()}), debit("cleo", 2)
    )
    assert [outcome.done["id"] for outcome in again[:2]] == [one.done["id"] for one in first]
    assert [outcome.done["replayed"] for outcome in again] == [False, True, False]
    assert await admin.fetchval("SELECT sum(total_spent) FROM credits.balances") == 6


async def test_a_key_that_was_refused_is_free_for_the_next(service_login: Connection) -> None:
    await grant(service_login, "ann", 5)
    refused, done = await run_batch(
        service_login,
        debit("ann", 6, idempotency_key="k"),
        debit("ann", 4, idempotency_key="k"),
    )
    assert refused.error.sqlstate == "MC002"
    assert (done.done["amount"], done.done["replayed"]) == (-4, False)


async def test_a_debit_is_refunded_in_its_own_batch(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    await grant(service_login, "bob", 30)
    spent = debit("ann", 10)
    back = {"transaction_id": spent[1]["id"]}
    early, made, some, rest, more, foreign = await run_batch(
        service_login,
        refund("ann", 1, **back),
        spent,
        refund("ann", 6, **back),
        refund("ann", 4, **back),
        refund("ann", 1, **back),
        refund("bob", 1, **back),
    )
    assert (early.error.sqlstate, foreign.error.sqlstate) == ("MC004", "MC004")
    available = [outcome.done["available"] for outcome in (made, some, rest)]
    assert available == [20, 26, 30]
    assert (more.error.sqlstate, more.error.facts["left"]) == ("MC001", 0)
    assert await admin.fetchval("SELECT refunded FROM credits.debit_refunds") == 10


async def test_a_refused_refund_does_not_count_against_its_debit(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    spent = debit("ann", 10)
    back = {"transaction_id": spent[1]["id"]}
    _, too_much, all_ = await run_batch(
        service_login, spent, refund("ann", 11, **back), refund("ann", 10, **back)
    )
    assert too_much.error.facts["left"] == 10
    assert all_.done["available"] == 30


async def test_one_reference_twice_in_a_batch_is_granted_once(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 1)
    await grant(service_login, "bob", 1)
    first, again, bobs = await run_batch(
        service_login, reward("ann", "q", 5), reward("ann", "q", 9), reward("bob", "q", 7)
    )
    assert (first.done["replayed"], again.done["replayed"]) == (False, True)
    assert (again.done["id"], again.done["amount"]) == (first.done["id"], 5)
    assert bobs.done["amount"] == 7
    assert await amounts(admin, "ann") == [("grant", 1), ("grant", 5)]


async def test_a_hold_is_settled_once_in_a_batch(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    one, two = await held(service_login, "ann", 5), await held(service_login, "ann", 7)
    committed, again, late, back, once_more, spent = await run_batch(
        service_login,
        commit(one, amount=3),
        commit(one, amount=3),
        give_back(one),
        give_back(two),
        give_back(two),
        debit("ann", 27),
    )
    assert (committed.done["amount"], committed.done["available"]) == (3, 20)
    assert (again.done["replayed"], again.done["transaction_id"]) == (
        True,
        committed.done["transaction_id"],
    )
    assert late.error == Refusal("MC013", {"status": "committed"})
    assert (back.done["available"], once_more.done["replayed"]) == (27, True)
    assert spent.done["available"] == 0


async def test_what_a_commit_gives_back_can_be_spent_behind_it(
    service_login: Connection,
) -> None:
    await grant(service_login, "ann", 20)
    some = await held(service_login, "ann", 15)
    key = {"idempotency_key": "k"}
    keyed, committed, too_much, again, spent = await run_batch(
        service_login,
        debit("ann", 1, **key),
        commit(some, amount=4),
        debit("ann", 16),
        debit("ann", 1, **key),
        debit("ann", 15),
    )
    assert (keyed.done["available"], keyed.done["reserved"]) == (4, 15)
    assert committed.done["available"] == 15
    assert too_much.error.facts == {"required": 16, "available": 15}
    # A repetition is told what there is now.
    move = again.done
    assert (move["available"], move["reserved"], move["total_spent"]) == (15, 0, 5)
    assert (spent.done["available"], spent.done["total_spent"]) == (0, 20)


# Time


async def test_the_ledgers_time_does_not_go_back(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "ann", 1000)
    dice = random.Random(1)
    for _ in range(10):
        some = await held(service_login, "ann", 1)
        calls = [
            debit("ann"),
            refund("ann"),
            reward("ann", uuid4().hex),
            hold("ann"),
            commit(some),
            debit("ann"),
        ]
        await run_batch(service_login, *dice.sample(calls, len(calls)))
        function, arguments = debit("ann")
        await run_alone(service_login, function, **arguments)
    times = [row["created_at"] for row in await ledger(admin, "ann")]
    assert times == sorted(times)


async def test_the_time_of_a_move_is_after_the_wait_for_its_locks(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    await wait_longer(admin)
    async with connections(database, 2) as (holder, batching):
        await holder.execute("BEGIN")
        await holder.fetch("SELECT * FROM credits.use_credits('ann', 1, 'app', 'x')")
        batch = asyncio.ensure_future(run_batch(batching, debit("ann"), debit("ann")))
        await blocked(admin, batching, batch)
        held_until = await admin.fetchval("SELECT clock_timestamp()")
        await holder.execute("COMMIT")
        outcomes = await batch
    assert all(outcome.done["created_at"] >= held_until for outcome in outcomes)


# What is left to the functions


async def test_a_user_without_a_balance_is_left(
    admin: Connection, service_login: Connection
) -> None:
    await grant(service_login, "bob", 10)
    before = await counts(admin)
    calls = [
        reward("ann", "q"),
        refund("ann"),
        debit("ann"),
        hold("no user, and no id either"),
        debit(""),
        commit(uuid4()),
        give_back(uuid4(), user_id="ann"),
    ]
    outcomes = await run_batch(service_login, *calls)
    assert all(outcome.alone for outcome in outcomes)
    assert await counts(admin) == before

    first, bobs, last = await run_batch(
        service_login, reward("ann", "q"), debit("bob", 3), commit(uuid4(), user_id="bob")
    )
    assert (first.alone, last.alone) == (True, True)
    assert bobs.done["available"] == 7


async def test_who_is_held_by_somebody_is_left_and_the_others_are_served(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    for user in ("ann", "bob", "cleo"):
        await grant(service_login, user, 30)
    async with connections(database, 1) as (holder,):
        await holder.execute("BEGIN")
        await holder.fetch("SELECT * FROM credits.use_credits('bob', 25, 'app', 'x')")
        calls = [debit(user, 10) for user in ("ann", "bob", "cleo", "bob", "ann")]
        outcomes = await run_batch(service_login, *calls)
        # What was left is not there, however the other one ends.
        assert [outcome.alone for outcome in outcomes] == [False, True, False, True, False]
        assert [outcomes[place].done["available"] for place in (0, 2, 4)] == [20, 20, 10]
        await holder.execute("COMMIT")
    assert await amounts(admin, "bob") == [("grant", 30), ("usage", -25)]
    assert len(await ledger(admin, "ann")) == 3
    again = await run_batch(service_login, *(calls[place] for place in (1, 3)))
    assert [outcome.error.facts["available"] for outcome in again] == [5, 5]


async def test_a_hold_that_is_held_by_somebody_is_left(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    for user in ("ann", "bob"):
        await grant(service_login, user, 30)
    one, two = await held(service_login, "ann", 5), await held(service_login, "ann", 7)
    bobs = await held(service_login, "bob", 5)
    async with superusers(database, 1) as (holder,):
        await holder.execute("BEGIN")
        await holder.execute("SELECT FROM credits.reservations WHERE id = $1 FOR UPDATE", one)
        outcomes = await run_batch(
            service_login,
            commit(one),
            give_back(one),
            commit(two),
            give_back(bobs),
            debit("ann", 5),
        )
        await holder.execute("ROLLBACK")
    assert [outcome.alone for outcome in outcomes] == [True, True, False, False, False]
    assert (outcomes[2].done["amount"], outcomes[3].done["available"]) == (7, 30)
    assert outcomes[4].done["available"] == 13
    rows = await admin.fetch("SELECT id, status::text FROM credits.reservations")
    assert {row["id"]: row["status"] for row in rows} == {
        one: "open",
        two: "committed",
        bobs: "refunded",
    }


async def test_a_batch_that_has_waited_decides_on_what_it_then_finds(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    await grant(service_login, "ann", 30)
    some, other = await held(service_login, "ann", 5), await held(service_login, "ann", 5)
    await wait_longer(admin)
    async with connections(database, 2) as (holder, batching):
        await holder.execute("BEGIN")
        await run_alone(holder, COMMIT, **commit(some)[1])
        await run_alone(holder, USE, **debit("ann", 15, idempotency_key="k")[1])
        await run_alone(holder, GRANT, **reward("ann", "q", 1)[1])
        batch = asyncio.ensure_future(
            run_batch(
                batching,
                debit("ann", 15, idempotency_key="k"),
                reward("ann", "q", 1),
                give_back(some),
                give_back(other),
                debit("ann", 12),
                debit("ann", 11),
            )
        )
        await blocked(admin, batching, batch)
        await holder.execute("COMMIT")
        keyed, again, resolved, back, too_much, rest = await batch
    assert (keyed.done["replayed"], again.done["replayed"]) == (True, True)
    assert resolved.error == Refusal("MC013", {"status": "committed"})
    assert back.done["available"] == 11
    assert too_much.error == Refusal("MC002", {"required": 12, "available": 11})
    assert rest.done["available"] == 0


async def test_who_is_erased_meanwhile_is_left(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    for user in ("ann", "bob"):
        await grant(service_login, user, 30)
    some = await held(service_login, "ann", 5)
    await wait_longer(admin)
    async with connections(database, 2) as (holder, batching):
        await holder.execute("BEGIN")
        await holder.fetch("SELECT * FROM credits.erase_user('ann', $1)", uuid4())
        calls = [commit(some), debit("ann"), debit("bob"), give_back(some, user_id="ann")]
        batch = asyncio.ensure_future(run_batch(batching, *calls))
        await blocked(admin, batching, batch)
        await holder.execute("COMMIT")
        committed, anns, bobs, back = await batch
    assert (committed.alone, anns.alone, back.alone) == (True, True, True)
    assert bobs.done["available"] == 29
    # The hold is nobody's now that could be named.
    for (function, arguments), sqlstate in ((calls[0], "MC013"), (calls[3], "MC004")):
        refused = await run_alone(service_login, function, **arguments)
        assert refused.error.sqlstate == sqlstate


async def test_the_hold_of_somebody_who_was_erased_and_came_back_is_left(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    """It is no more of whom the batch has locked."""
    await grant(service_login, "ann", 30)
    some = await held(service_login, "ann", 5)
    await wait_longer(admin)
    async with connections(database, 2) as (holder, batching):
        await holder.execute("BEGIN")
        await holder.fetch("SELECT * FROM credits.erase_user('ann', $1)", uuid4())
        await run_alone(holder, GRANT, **reward("ann", "again", 10)[1])
        batch = asyncio.ensure_future(run_batch(batching, commit(some), debit("ann")))
        await blocked(admin, batching, batch)
        await holder.execute("COMMIT")
        committed, debited = await batch
    assert committed.alone
    assert debited.done["available"] == 9


async def test_also_past_those_who_are_held_a_batch_holds_no_others(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    for user in ("ann", "bob"):
        await grant(service_login, user, 30)
    one, other = await held(service_login, "ann"), await held(service_login, "ann")
    async with superusers(database, 2) as (holder, batching):
        await holder.execute("BEGIN")
        await holder.execute("SELECT FROM credits.balances WHERE user_id = 'bob' FOR UPDATE")
        await batching.execute("BEGIN")
        bobs, anns = await run_batch(batching, debit("bob"), give_back(one))
        assert (bobs.alone, anns.alone) == (True, False)
        free = await admin.fetch("SELECT id FROM credits.reservations FOR UPDATE SKIP LOCKED")
        assert [row["id"] for row in free] == [other]
        await batching.execute("ROLLBACK")
        await holder.execute("ROLLBACK")


async def test_a_batch_holds_the_rows_that_it_names_and_no_others(
    admin: Connection, database: Clone, service_login: Connection
) -> None:
    for user in ("ann", "bob", "cleo", "dan"):
        await grant(service_login, user, 30)
    anns, others, cleos, dans = [
        await held(service_login, user) for user in ("ann", "ann", "cleo", "dan")
    ]
    async with connections(database, 1) as (batching,):
        await batching.execute("BEGIN")
        await run_batch(batching, debit("ann"), give_back(anns), commit(cleos))

        async def is_free(table: str, column: str, value: Any) -> bool:
            row = f"SELECT FROM {table} WHERE {column} = $1 FOR UPDATE SKIP LOCKED"
            return len(await admin.fetch(row, value)) == 1

        free = {
            user: await is_free("credits.balances", "user_id", user)
            for user in ("ann", "bob", "cleo", "dan")
        }
        assert free == {"ann": False, "bob": True, "cleo": False, "dan": True}
        holds = [
            await is_free("credits.reservations", "id", id_) for id_ in (anns, others, cleos, dans)
        ]
        assert holds == [False, True, False, True]
        await batching.execute("ROLLBACK")


# What fails as a whole


async def require_nothing(
    admin: Connection, connection: Connection, calls: list[Any], sqlstate: str | None = None
) -> None:
    """The batch fails, and has done nothing."""
    before = await counts(admin)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await connection.fetch(RUN, calls)
    assert sqlstate in (None, caught.value.sqlstate)
    assert not str(caught.value.sqlstate).startswith("MC") or sqlstate is not None
    assert await counts(admin) == before


async def test_one_id_twice_fails_all(admin: Connection, service_login: Connection) -> None:
    for user in ("ann", "bob"):
        await grant(service_login, user, 30)
    call = debit("bob", 2)
    calls = [batch_call(function, **given) for function, given in (debit("ann"), call, call)]
    await require_nothing(admin, service_login, calls, "23505")
    assert [outcome.done["available"] for outcome in await run_batch(service_login, call)] == [28]


async def test_an_id_of_another_call_fails_all(
    admin: Connection, service_login: Connection
) -> None:
    for user in ("ann", "bob"):
        await grant(service_login, user, 30)
    _, given = debit("ann", 2)
    await run_alone(service_login, USE, **given)
    wrong = {**given, "amount": 3}
    calls = [batch_call(function, **args) for function, args in (debit("bob"), (USE, wrong))]
    await require_nothing(admin, service_login, calls)


@pytest.mark.parametrize("number", [0, 1001])
async def test_a_batch_of_none_or_too_many_is_refused(
    admin: Connection, service_login: Connection, number: int
) -> None:
    await grant(service_login, "ann", 3000)
    calls = [batch_call(USE, **debit("ann")[1]) for _ in range(number)]
    await require_nothing(admin, service_login, calls, "MC001")


async def test_no_array_is_refused(admin: Connection, service_login: Connection) -> None:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await service_login.fetch(RUN, None)
    assert caught.value.sqlstate == "MC001"


async def test_a_thousand_calls_are_one_batch(admin: Connection, service_login: Connection) -> None:
    await grant(service_login, "ann", 2000)
    outcomes = await run_batch(service_login, *(debit("ann", 2) for _ in range(1000)))
    assert [outcome.done["available"] for outcome in outcomes] == list(range(1998, -1, -2))
    assert await admin.fetchval("SELECT total_spent FROM credits.balances") == 2000


@pytest.mark.parametrize("place", [0, 1])
async def test_a_call_of_nothing_fails_all(
    admin: Connection, service_login: Connection, place: int
) -> None:
    await grant(service_login, "ann", 30)
    nothing = dict(zip(BATCH_FIELDS, batch_call(USE, **debit("ann")[1]), strict=True))
    nothing["operation"] = None
    calls = [batch_call(USE, **debit("ann")[1])]
    calls.insert(place, tuple(nothing.values()))
    await require_nothing(admin, service_login, calls)


# Credits that nobody has earned.
@pytest.mark.unsound
@pytest.mark.parametrize("place", [0, 1])
async def test_a_defect_that_one_call_meets_fails_all(
    admin: Connection, service_login: Connection, place: int
) -> None:
    for user in ("ann", "bob"):
        await grant(service_login, user, 30)
    await admin.execute(
        "UPDATE credits.balances SET total_spent = 9223372036854775800,"
        " total_earned = 9223372036854775800 + 7, balance = 7 WHERE user_id = 'bob'"
    )
    given = [debit("ann"), debit("ann")]
    given.insert(place, refund("bob", 1))
    calls = [batch_call(function, **arguments) for function, arguments in given]
    await require_nothing(admin, service_login, calls, "22003")


async def test_a_batch_that_waits_for_more_than_its_locks_fails(
    database: Clone, admin: Connection, service_login: Connection
) -> None:
    for user in ("ann", "bob"):
        await grant(service_login, user, 30)
    function, given = debit("ann", 2)
    async with superusers(database, 1) as (other,):
        # The same id, of which nobody knows yet whether it will be there.
        await other.execute("BEGIN")
        await other.fetch(
            "SELECT credits.use_credits(p_user_id => 'bob', p_amount => 2, p_app_id => 'app',"
            " p_description => 'x', p_id => $1)",
            given["id"],
        )
        calls = [batch_call(function, **given)]
        with pytest.raises(asyncpg.LockNotAvailableError):
            await service_login.fetch(RUN, calls)
        await other.execute("ROLLBACK")
    assert await amounts(admin, "ann") == [("grant", 30)]


async def test_a_batch_leaves_no_multixact(admin: Connection, service_login: Connection) -> None:
    """A row that is locked in a subtransaction and changed outside of it would have one."""
    await grant(service_login, "ann", 30)
    await run_batch(service_login, debit("ann"), debit("ann"))
    await admin.execute("CREATE EXTENSION pageinspect")
    rows = await admin.fetch(
        "SELECT t_infomask & 4096 AS multi"
        " FROM public.heap_page_items(public.get_raw_page('credits.balances', 0))"
    )
    assert len(rows) > 1
    assert [row["multi"] for row in rows] == [0] * len(rows)


async def test_the_time_limit_of_a_batch_ends_with_it(service_login: Connection) -> None:
    await grant(service_login, "ann", 30)
    before = await service_login.fetchval("SHOW lock_timeout")
    async with service_login.transaction():
        await run_batch(service_login, debit("ann"))
        assert await service_login.fetchval("SHOW lock_timeout") == before


# Reads


async def test_balances_are_read_in_the_order_of_the_array(service_login: Connection) -> None:
    await grant(service_login, "ann", 30)
    await grant(service_login, "bob", 20)
    await held(service_login, "bob", 5)
    await run_alone(service_login, USE, **debit("ann", 4)[1])
    users = ["bob", "nobody", "ann", "bob", ""]
    single = [
        dict((await run_alone(service_login, "credits.get_balance", user_id=user)).done)
        for user in users
    ]
    found = await service_login.fetch("SELECT * FROM credits.get_balances($1)", users)
    assert [dict(row) for row in found] == single
    assert [(row["user_id"], row["available"]) for row in found] == [
        ("bob", 15),
        ("nobody", 0),
        ("ann", 26),
        ("bob", 15),
        ("", 0),
    ]
    assert await service_login.fetch("SELECT * FROM credits.get_balances('{}')") == []


async def test_sync_statuses_are_read_in_the_order_of_the_array(
    admin: Connection, service_login: Connection
) -> None:
    start = await admin.fetchval("SELECT now()")
    for user, interval in (("ann", "yearly"), ("bob", "monthly")):
        await grant(service_login, user, 1000)
        await subscribe(admin, user, interval, at=start)
    users = ["bob", "nobody", "ann", "bob"]
    single = [
        dict((await run_alone(service_login, "credits.get_sync_status", user_id=user)).done)
        for user in users
    ]
    found = await service_login.fetch("SELECT * FROM credits.get_sync_statuses($1)", users)
    assert [dict(row) for row in found] == single
    assert [(row["user_id"], row["active"], row["billing_interval"]) for row in found] == [
        ("bob", True, "monthly"),
        ("nobody", False, "monthly"),
        ("ann", True, "yearly"),
        ("bob", True, "monthly"),
    ]
    assert await service_login.fetch("SELECT * FROM credits.get_sync_statuses('{}')") == []
