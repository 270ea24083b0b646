"""The mutants that no test can find out, each with its reason."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("survivors.toml")


@dataclass(frozen=True, slots=True)
class Survivor:
    """A mutant that is known to survive."""

    mutant: str  # its id
    change: str
    why: str


def known_survivors(file: Path = FILE) -> list[Survivor]:
    """What survivors.toml names."""
    entries = tomllib.loads(file.read_text("utf-8")).get("survivor", [])
    return [Survivor(**entry) for entry in entries]


def as_table(survivors: Iterable[Survivor]) -> str:
    """The table of tests/README.md."""
    lines = ["| mutant | what is broken | why no test fails |", "| --- | --- | --- |"]
    for one in survivors:
        change = one.change.replace("|", "\\|")
        lines.append(f"| `{one.mutant}` | `{change}` | {one.why} |")
    return "\n".join(lines)
