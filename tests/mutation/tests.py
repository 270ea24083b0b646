"""Which tests run against a mutant, and in which order."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.money import callers
from tests.mutation.operators import Mutant
from tests.mutation.sqltext import Function

ROOT = Path(__file__).resolve().parents[2]
PATHS = ["tests/sql", "tests/concurrency"]
# What breaks its connections, shares a database over a module, or takes long. So do tests that go
# over HTTP, and a busy machine is an answer there too: a failure need not be the mutant's.
IGNORED = [
    "tests/sql/test_sql_check_ledger.py",
    "tests/concurrency/test_outage.py",
    "tests/concurrency/test_random_operations.py",
]
FIXTURES_IGNORED = {"service"}
DESELECTED = [
    "tests/concurrency/test_race_expiry.py::test_under_load_each_gift_and_each_hold_ends_once",
    "tests/concurrency/test_race_expiry.py"
    "::test_a_hundred_thousand_go_back_in_batches_beside_everybody_else",
]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a test has done to the functions as they are."""

    seconds: float
    functions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Record:
    """What every test has done; made by running all of them once."""

    digest: str  # of the functions that were called
    tests: Mapping[str, Seen]

    def save(self, path: Path) -> None:
        """Keep it for the next run."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tests = {name: [seen.seconds, sorted(seen.functions)] for name, seen in self.tests.items()}
        path.write_text(json.dumps({"digest": self.digest, "tests": tests}, indent=1), "utf-8")

    @classmethod
    def load(cls, path: Path) -> "Record | None":
        """Read what was kept."""
        if not path.is_file():
            return None
        kept = json.loads(path.read_text("utf-8"))
        tests = {
            name: Seen(s, frozenset(functions)) for name, (s, functions) in kept["tests"].items()
        }
        return cls(kept["digest"], tests)


def select(
    mutant: Mutant,
    functions: Mapping[str, Function],
    record: Record,
    collected: Mapping[str, bool],
    kills: Iterable[str],
) -> list[str]:
    """The tests that can tell this mutant from the function as it is, in the best order.

    First what has found out another mutant of the function; then of each file the test that costs
    least, and the next of each, since the tests of one file are much alike.

    A test can, if it called the function when it was recorded. What is written in plain SQL may
    have been inlined, so that its callers are looked for as well. A lock is seen only where
    callers may meet, which is what `collected` says.
    """
    names = {mutant.function}
    if "LANGUAGE sql" in functions[mutant.function].text:
        names = callers(functions, names)
    killed = Counter(kills)

    def can_tell(test: str) -> bool:
        seen = record.tests.get(test)
        meets = collected[test] or not mutant.is_about_locks
        return seen is not None and meets and bool(seen.functions & names)

    files: Counter[str] = Counter()
    places = {}
    for test in sorted(filter(can_tell, collected), key=lambda test: record.tests[test].seconds):
        file = test.partition("::")[0]
        places[test] = (-killed[test], files[file])
        files[file] += 1
    return sorted(places, key=lambda test: places[test])
