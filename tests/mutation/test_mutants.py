"""What is broken in a function, and that nothing which moves money is left out."""

import re

import pytest

from tests.mutation.money import PASSED_OVER, TABLES, all_mutants, money_functions, movers
from tests.mutation.operators import OPERATORS, mutants
from tests.mutation.sqltext import Function, parse, read_functions
from tests.mutation.survivors import as_table, known_survivors
from tests.mutation.tests import ROOT, Record, Seen, select

FUNCTIONS = read_functions()
MUTANTS = all_mutants(FUNCTIONS)


def function(body: str, name: str = "credits.f") -> Function:
    return parse(
        f"-- {name}: > FOR UPDATE\n"
        f"CREATE OR REPLACE FUNCTION {name}(p_id text)\nRETURNS void\nLANGUAGE plpgsql\nAS $$\n"
        f"{body}\n$$;\nCOMMENT ON FUNCTION {name}(text) IS\n'a > b FOR UPDATE'\n"
    )


def changes(body: str, operator: str) -> list[str]:
    """The bodies that an operator makes of one."""
    broken = function(body)
    return [
        " ".join(parse(mutant.sql).body.split())
        for mutant in mutants(broken, FUNCTIONS)
        if mutant.operator == operator
    ]


CASES: list[tuple[str, str, list[str]]] = [
    ("unlock", "SELECT 1 FOR UPDATE SKIP LOCKED;", ["SELECT 1 ;"]),
    ("unlock", "PERFORM 1 FROM t FOR KEY SHARE;", ["PERFORM 1 FROM t ;"]),
    ("wait", "SELECT 1 FOR UPDATE SKIP LOCKED;", ["SELECT 1 FOR UPDATE ;"]),
    ("skip", "IF a THEN RAISE EXCEPTION 'x;'; END IF;", ["IF a THEN NULL; END IF;"]),
    ("skip", "PERFORM credits._require(a, 'f', 'm');", ["NULL;"]),
    ("skip", "RAISE WARNING 'x'; PERFORM pg_notify('a', '');", []),
    ("never", "IF a = 1 AND b THEN c := 1; END IF;", ["IF false THEN c := 1; END IF;"]),
    ("never", "IF a THEN PERFORM credits._refuse_key(b); END IF;", []),
    ("never", "EXIT WHEN NOT more;", ["EXIT WHEN false;"]),
    ("never", "BEGIN EXCEPTION WHEN OTHERS OR assert_failure THEN END;", []),
    ("compare", "a := b < c;", ["a := b <= c;"]),
    ("compare", "a := b >= c;", ["a := b > c;"]),
    ("compare", "WHERE t.a = b;", []),
    ("compare", "IF a = b THEN", []),
    ("compare", "IF a = b OR c THEN", ["IF a <> b OR c THEN"]),
    ("compare", "WHERE until <= v_now;", []),
    ("bound", "a BETWEEN 1 AND 9;", ["a BETWEEN 0 AND 9;", "a BETWEEN 1 AND 9 + 1;"]),
    ("part", "IF a AND (b OR c) THEN",
        ["IF (b OR c) THEN", "IF a THEN", "IF a AND (c) THEN", "IF a AND (b ) THEN"]),
    ("part", "IF a AND b OR c THEN",
        ["IF b OR c THEN", "IF c THEN", "IF a OR c THEN", "IF a AND b THEN"]),
    ("part", "IF a BETWEEN 1 AND 9 AND b THEN", ["IF b THEN", "IF a BETWEEN 1 AND 9 THEN"]),
    ("part", "WHERE a IS DISTINCT FROM b AND c ORDER BY d;",
        ["WHERE c ORDER BY d;", "WHERE a IS DISTINCT FROM b ORDER BY d;"]),
    ("part", "WHERE a = CASE WHEN b THEN 1 ELSE 2 END AND c;",
        ["WHERE c;", "WHERE a = CASE WHEN b THEN 1 ELSE 2 END ;"]),
    # The id finds the row alone, but whose it is has to be asked.
    ("part", "WHERE user_id = v_row.user_id AND id = 1;", ["WHERE user_id = v_row.user_id ;"]),
    ("part", "WHERE user_id = p_user_id AND id = p_id;",
        ["WHERE id = p_id;", "WHERE user_id = p_user_id ;"]),
    ("sign", "a := -b + c;", ["a := b + c;", "a := -b - c;"]),
    ("extreme", "a := greatest(b, 0);", ["a := least(b, 0);"]),
    ("order", "SELECT 1 ORDER BY a, b DESC LIMIT 1;", ["SELECT 1 ORDER BY a DESC, b LIMIT 1;"]),
    ("conflict", "INSERT INTO t ON CONFLICT (a) DO NOTHING;", ["INSERT INTO t ;"]),
    ("conflict", "INSERT INTO t ON CONFLICT (a) DO UPDATE SET b = 1 RETURNING c;",
        ["INSERT INTO t ON CONFLICT (a) DO NOTHING RETURNING c;"]),
    ("interval", "a := credits._utc_add(b, f(c, d));", ["a := credits._utc_add(b, '0');"]),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "body", "expected"), CASES)
def test_an_operator_changes_one_thing(operator: str, body: str, expected: list[str]) -> None:
    assert changes(body, operator) == expected


def test_comments_strings_and_what_is_around_the_body_are_left_alone() -> None:
    assert mutants(function("-- a > b FOR UPDATE\na := 'b > c AND d FOR UPDATE';"), {}) == []


def test_a_call_of_a_locks_helper_calls_a_twin_that_locks_nothing() -> None:
    body = "v := credits._lock_balance(a);"
    (mutant,) = mutants(function(body), FUNCTIONS)
    assert mutant.operator == "unlocked-call"
    twin, broken = mutant.sql.split("-- credits.f", 1)
    assert "v := credits._see_balance(a);" in broken
    assert "FUNCTION credits._see_balance(" in twin
    assert "ON CONFLICT (user_id) DO NOTHING" in twin
    assert "FOR UPDATE" not in re.sub(r"--[^\n]*", "", twin)


def test_every_operator_finds_something() -> None:
    assert {mutant.operator for mutant in MUTANTS} == OPERATORS.keys()


def test_every_function_that_moves_money_is_broken() -> None:
    broken = {mutant.function for mutant in MUTANTS}
    # These hand on what they are given, to one that is broken.
    bare = {
        "credits.charge_due_subscriptions",
        "credits.expire_reservations",
        "gifts.expire_gifts",
    }
    assert movers(FUNCTIONS) - broken == bare | (movers(FUNCTIONS) & PASSED_OVER)
    for name in bare:
        assert FUNCTIONS[name].calls <= broken
    # Erasing writes the ledger anew, and moves nothing in it.
    moving = {name for name, f in FUNCTIONS.items() if f.writes & {"credits.transactions"}}
    writing = {"credits._record_move", "credits._write_moves", "credits._erase_ledger"}
    assert moving == writing


def test_what_is_passed_over_or_named_is_there() -> None:
    assert FUNCTIONS.keys() >= PASSED_OVER
    written = {table for f in FUNCTIONS.values() for table in f.writes}
    assert written >= TABLES


def test_every_lock_of_a_money_function_is_broken() -> None:
    for name in money_functions(FUNCTIONS):
        clauses = len(re.findall(r"\bFOR (?:KEY )?(?:UPDATE|SHARE)\b", FUNCTIONS[name].code))
        unlocked = [m for m in mutants(FUNCTIONS[name], FUNCTIONS) if m.operator == "unlock"]
        assert len(unlocked) == clauses, name


def test_mutants_differ_from_their_function_and_have_a_name_of_their_own() -> None:
    names, texts = {mutant.id for mutant in MUTANTS}, {mutant.sql for mutant in MUTANTS}
    assert len(names) == len(texts) == len(MUTANTS)
    for mutant in MUTANTS:
        assert mutant.sql != FUNCTIONS[mutant.function].text


def test_each_known_survivor_is_still_a_mutant_and_has_a_reason() -> None:
    made = {mutant.id: mutant.change for mutant in MUTANTS}
    known = known_survivors()
    assert len({one.mutant for one in known}) == len(known)
    for one in known:
        assert made.get(one.mutant) == one.change, one.mutant
        assert len(one.why) > 20


def test_the_readme_has_the_table_of_the_survivors() -> None:
    assert as_table(known_survivors()) in (ROOT / "tests" / "README.md").read_text("utf-8")


def test_the_tests_that_called_the_function_run_and_the_cheapest_first() -> None:
    mutant = next(m for m in MUTANTS if m.id == "credits.use_credits/never/1")
    use, other = frozenset({mutant.function}), frozenset({"credits.grant_credits"})
    seen = {"a": Seen(3, use), "b": Seen(1, use), "c": Seen(0.1, other), "d": Seen(2, use)}
    collected = {"a": True, "b": False, "c": True, "d": True, "left out": True}
    record = Record("", seen)
    assert select(mutant, FUNCTIONS, record, collected, []) == ["b", "d", "a"]
    assert select(mutant, FUNCTIONS, record, collected, ["a"]) == ["a", "b", "d"]
    # One caller alone sees no lock.
    unlocked = next(m for m in MUTANTS if m.id == "credits.use_credits/unlocked-call/1")
    assert select(unlocked, FUNCTIONS, record, collected, []) == ["d", "a"]
