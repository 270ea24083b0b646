"""Which tests run against a mutant, and in which order."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.money import callees, callers
from tests.mutation.operators import Mutant
from tests.mutation.sqltext import Function

ROOT = Path(__file__).resolve().parents[2]
# Left out: what makes databases of its own from the files, what is about the files' text, what
# shares a database over a module, and what reads the ledger check alone.
PATHS = ["tests/sql", "tests/payments", "tests/concurrency", "tests/model"]
IGNORED = ["tests/concurrency/test_outage.py", "tests/sql/test_sql_check_ledger.py"]
# It is about much at once, and has statements that take longer than anything is waited for here.
DESELECTED = [
    "tests/concurrency/test_race_expiry.py"
    "::test_a_hundred_thousand_go_back_in_batches_beside_everybody_else"
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
        tests = {name: Seen(s, frozenset(functions)) for name, (s, functions) in kept["tests"].items()}
        return cls(kept["digest"], tests)


def select(
    mutant: Mutant,
    functions: Mapping[str, Function],
    record: Record,
    collected: Sequence[str],
    kills: Iterable[str],
) -> list[str]:
    """The tests that can tell this mutant from the function as it is, those first that cost least.

    A test can, if it has called the function when it was recorded. What is written in plain SQL
    PostgreSQL may have inlined, so that its callers are looked for instead; and a test that is new
    since the record can, if its file names the function or one that calls it.
    """
    names = {mutant.function}
    if "LANGUAGE sql" in functions[mutant.function].text:
        names = callers(functions, names)
    killed = Counter(kills)

    def may_tell(test: str) -> bool:
        seen = record.tests.get(test)
        return bool(seen.functions & names) if seen else _names(test, mutant, functions)

    def cost(test: str) -> tuple[int, bool, float]:
        seen = record.tests.get(test)
        meets = mutant.is_about_locks and test.startswith("tests/concurrency/")
        # What has found out another mutant of the function may find this one.
        return -killed[test], mutant.is_about_locks and not meets, seen.seconds if seen else 0.0

    return sorted(filter(may_tell, collected), key=cost)


def _names(test: str, mutant: Mutant, functions: Mapping[str, Function]) -> bool:
    text = (ROOT / test.partition("::")[0]).read_text("utf-8")
    named = set(re.findall(r"\b(?:credits|gifts)\.\w+", text)) & functions.keys()
    return mutant.function in callees(functions, named)
