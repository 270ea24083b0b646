"""One table of errors: in the SQL, in service/errors.py and in sql/README.md."""

import json
import re
from pathlib import Path

import asyncpg
import pytest

from service.errors import SQLSTATES, gift_refusal
from service.paths import FUNCTIONS, MIGRATIONS
from tests.support.databases import Connection

README = MIGRATIONS.parent / "README.md"


def sources() -> list[Path]:
    """Every SQL file."""
    found = [*MIGRATIONS.glob("*.sql"), *FUNCTIONS.rglob("*.sql")]
    assert len(found) > 90
    return found


def code(path: Path) -> str:
    """A file without its comments."""
    return re.sub(r"--[^\n]*", "", path.read_text("utf-8"))


def raised() -> set[str]:
    """The SQLSTATEs of class MC that the SQL raises, by name or through a helper."""
    states = set()
    for path in sources():
        text = re.sub(r"\bCOMMENT ON [^;]*;", "", code(path))
        states |= set(re.findall(r"'(MC\d{3})'", text))
    return states


def mapped() -> set[str]:
    """The SQLSTATEs of class MC that the service knows."""
    return {state for state in SQLSTATES if state.startswith("MC")}


def documented() -> dict[str, tuple[str, str]]:
    """The table of sql/README.md: SQLSTATE to code and HTTP status."""
    rows = re.findall(
        r"^\| `(MC\d{3})` \| ([^|]+) \| (\d{3}) \|", README.read_text("utf-8"), re.MULTILINE
    )
    states = [state for state, _code, _status in rows]
    assert len(states) == len(set(states))
    return {state: (name.strip().strip("`"), status) for state, name, status in rows}


def test_what_is_raised_is_mapped_and_what_is_mapped_is_raised() -> None:
    # A gift for somebody else is an outcome, since the attempt is kept, and never raised.
    assert raised() | {"MC007"} == mapped()
    assert "MC007" not in raised()


def test_the_readme_has_the_same_table() -> None:
    assert set(documented()) == mapped()
    for state, (name, status) in documented().items():
        spec = SQLSTATES[state]
        assert status == str(spec.status), state
        if spec.status < 500:
            assert name == spec.code, state


def test_every_errcode_is_of_class_mc_or_a_parameter() -> None:
    for path in sources():
        for errcode in re.findall(r"ERRCODE\s*=\s*('?\w+'?)", code(path)):
            assert re.fullmatch(r"'MC\d{3}'|p_sqlstate", errcode), (path.name, errcode)


def test_what_a_function_says_it_raises_is_mapped() -> None:
    for path in sources():
        named = re.findall(r"\b(MC\d{3}) (\w+)", path.read_text("utf-8"))
        for state, name in named:
            if name not in {"or", "and", "to", "where", "when", "for"}:
                expected = SQLSTATES[state].code
                # The last one is told to nobody but us.
                assert name == (expected if state != "MC014" else "ledger_append_only"), path.name


async def test_every_refused_attempt_on_a_gift_has_its_answer(admin: Connection) -> None:
    outcomes = await admin.fetch("SELECT unnest(enum_range(NULL::gifts.attempt_outcome))::text")
    refused = {row["unnest"] for row in outcomes} - {"success"}
    assert len(refused) == 5
    for outcome in refused:
        assert gift_refusal(outcome).status in (400, 403)


async def test_the_facts_of_an_error_are_json(admin: Connection) -> None:
    for statement in (
        "SELECT credits._require(NULL, 'a', 'b \"c\"')",
        "SELECT credits._refuse_key('\"')",
        "SELECT credits._refuse_missing('x')",
        "SELECT credits._refuse_sync('MC010', 'x')",
        "SELECT gifts._refuse_gift('expired')",
        "SELECT gifts._refuse_gift('depleted')",
    ):
        with pytest.raises(asyncpg.PostgresError) as caught:
            await admin.execute(statement)
        assert caught.value.sqlstate in mapped()
        assert isinstance(json.loads(caught.value.detail or "?"), dict)
