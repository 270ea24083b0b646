"""Break the money functions one at a time, and see that some test fails for each.

python -m tests.mutation                    all of them
python -m tests.mutation --resume           and go on where a run was interrupted
python -m tests.mutation --list             what there is to break
python -m tests.mutation --only unlock      the mutants whose id or change contains this
python -m tests.mutation --table            the table of tests/README.md

It ends with 0 where exactly those survived that tests/mutation/survivors.toml names.
"""

import argparse
import hashlib
import json
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

# Before the tests are imported, which read it: with a broken lock, what they wait for never comes.
os.environ.setdefault("MANA_TEST_PATIENCE", "15")
# And with a broken function, the first failure is enough.
os.environ.setdefault("MANA_MODEL_SHRINK", "0")

from tests.mutation.money import all_mutants, money_functions
from tests.mutation.operators import OPERATORS, Mutant, noop
from tests.mutation.running import Outcome, Task, Workers, collect, record
from tests.mutation.sqltext import Function, read_functions
from tests.mutation.survivors import as_table, known_survivors
from tests.mutation.tests import PATHS, ROOT, Record, select

BUILD = ROOT / "build" / "mutation"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; the exit status."""
    options = _parser().parse_args(arguments)
    functions = read_functions()
    wanted = [
        mutant
        for mutant in all_mutants(functions)
        if all(part in f"{mutant.id} {mutant.change}" for part in options.only)
        and (not options.function or mutant.function in options.function)
        and (not options.operator or mutant.operator in options.operator)
    ]
    if options.shuffle is not None:
        random.Random(options.shuffle).shuffle(wanted)
    # What only callers who meet can tell comes first: it is the least certain to be found out.
    wanted.sort(key=lambda mutant: not mutant.is_about_locks)
    if options.limit:
        wanted = wanted[: options.limit]
    if options.list:
        return _list(wanted)
    if options.table:
        print(as_table(known_survivors()))
        return 0
    return _run(wanted, functions, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--table", action="store_true", help="print the known survivors")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT")
    parser.add_argument("--function", action="append", metavar="SCHEMA.NAME")
    parser.add_argument("--operator", action="append", choices=sorted(OPERATORS))
    parser.add_argument("--limit", type=int, metavar="N", help="no more than the first N")
    parser.add_argument(
        "--shuffle", type=int, metavar="SEED", help="in random order: a part of it is a sample then"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="at once (2)")
    parser.add_argument("--results", type=Path, default=BUILD / "results.jsonl", metavar="FILE")
    parser.add_argument(
        "--resume", action="store_true", help="keep what the result file holds of unchanged mutants"
    )
    parser.add_argument(
        "--again", action="store_true", help="with --resume: try again what has survived"
    )
    parser.add_argument("--tests", action="append", metavar="PATH", help="other tests than usual")
    parser.add_argument(
        "--within",
        type=float,
        default=float("inf"),
        metavar="SECONDS",
        help="only tests that take no longer; with --resume --again the others afterwards",
    )
    parser.add_argument("--record", action="store_true", help="see again which test calls what")
    return parser


def _list(mutants: Sequence[Mutant]) -> int:
    for mutant in mutants:
        print(f"{mutant.id:<50} {mutant.line:>4}  {mutant.change}")
    print(f"{len(mutants)} mutants of {len({m.function for m in mutants})} functions:")
    for operator, count in sorted(Counter(m.operator for m in mutants).items()):
        print(f"{count:>6} {operator:<14} {OPERATORS[operator].splitlines()[0]}")
    return 0


@dataclass
class _Results:
    """The result file, a line for each mutant that was tried; the last one counts."""

    file: Path
    kept: dict[str, dict[str, object]] = field(default_factory=dict)

    def load(self) -> None:
        """Read what an earlier run has found."""
        if self.file.is_file():
            for line in self.file.read_text("utf-8").splitlines():
                result = json.loads(line)
                self.kept[result["mutant"]] = result

    def of(self, mutant: Mutant) -> dict[str, object] | None:
        """What is known of a mutant, unless its function was changed since."""
        result = self.kept.get(mutant.id)
        return result if result and result["digest"] == _digest(mutant.sql) else None

    def add(self, mutant: Mutant, outcome: Outcome) -> None:
        """Write down at once how a mutant ended."""
        result = {
            "mutant": mutant.id,
            "change": mutant.change,
            "line": mutant.line,
            "digest": _digest(mutant.sql),
            **asdict(outcome),
        }
        self.kept[mutant.id] = result
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result, ensure_ascii=False) + "\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _run(
    mutants: Sequence[Mutant], functions: Mapping[str, Function], options: argparse.Namespace
) -> int:
    options.results.parent.mkdir(parents=True, exist_ok=True)
    results = _Results(options.results)
    if options.resume:
        results.load()
    else:
        options.results.unlink(missing_ok=True)
    collected = collect(options.tests or PATHS)
    recorded = _recorded(functions, collected, options)

    def is_open(mutant: Mutant) -> bool:
        known = results.of(mutant)
        return known is None or (options.again and known["state"] == "survived")

    waiting = [mutant for mutant in mutants if is_open(mutant)]
    seconds = {name: seen.seconds for name, seen in recorded.tests.items()}
    within = {
        name: meets for name, meets in collected.items() if seconds.get(name, 0) <= options.within
    }
    kills: defaultdict[str, list[str]] = defaultdict(list)
    start = time.monotonic()
    done = 0

    def tasks() -> Iterator[Task]:
        for number, mutant in enumerate(waiting):
            found = kills[mutant.function]
            yield number, mutant.sql, select(mutant, functions, recorded, within, found)

    def tell(number: int, outcome: Outcome) -> None:
        nonlocal done
        done += 1
        mutant = waiting[number]
        results.add(mutant, outcome)
        if outcome.by:
            kills[mutant.function].append(outcome.by)
        left = (time.monotonic() - start) / done * (len(waiting) - done)
        said = outcome.by or outcome.message
        print(
            f"[{done}/{len(waiting)}, {left / 60:.0f} min left] {outcome.state:<9} {mutant.id}"
            f" ({outcome.tests} tests, {outcome.seconds:.1f} s) {said}",
            flush=True,
        )

    if waiting:
        workers = Workers(options.jobs, seconds)
        try:
            workers.run(tasks(), tell)
        except KeyboardInterrupt:
            print(f"interrupted; go on with --resume ({options.results})")
            return 130
        finally:
            workers.close()
    return _sum_up(mutants, results)


def _recorded(
    functions: Mapping[str, Function], collected: Iterable[str], options: argparse.Namespace
) -> Record:
    """Which test calls what, from earlier runs, and by running once those that are new."""
    digest = _digest("".join(function.text for function in functions.values()))
    path = BUILD / "record.json"
    known = None if options.record else Record.load(path)
    tests = dict(known.tests) if known is not None and known.digest == digest else {}
    new = [name for name in collected if name not in tests]
    if new:
        print(f"running {len(new)} tests once, to see what each of them calls", flush=True)
        # Nothing but a comment is changed in any function. A test that fails for this would fail
        # for every mutant, and show nothing: it is left out, and recorded again the next time.
        unchanged = "\n".join(noop(functions[name]) for name in money_functions(functions))
        seen, failed = record(new, unchanged, options.jobs)
        for name, said in failed.items():
            print(f"left out, since it fails without a mutant: {name}\n{said}", flush=True)
        tests |= seen
        Record(digest, tests).save(path)
    return Record(digest, tests)


def _sum_up(mutants: Sequence[Mutant], results: _Results) -> int:
    known = {survivor.mutant for survivor in known_survivors()}
    tried = {mutant.id: results.kept[mutant.id] for mutant in mutants}
    states = Counter(str(result["state"]) for result in tried.values())
    print(", ".join(f"{count} {state}" for state, count in states.most_common()))
    survived = {name for name, result in tried.items() if result["state"] == "survived"}
    for name in sorted(survived - known):
        print(f"survived, and is not in survivors.toml: {name}  {tried[name]['change']}")
    for name in sorted(known & tried.keys() - survived):
        print(f"in survivors.toml, but {tried[name]['state']}: {name}  {tried[name]['by']}")
    return int(survived != known & tried.keys())


if __name__ == "__main__":
    sys.exit(main())
