"""Medians, their spread, and ratios."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured several times: the median, the least and the most."""

    median: float
    low: float
    high: float
    times: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """The figure of at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    @property
    def spread(self) -> float:
        """How far the values lie apart, as a part of the median; 0 for a median of 0."""
        return 0.0 if self.median == 0 else (self.high - self.low) / self.median


def ratio(part: Figure | None, whole: Figure | None) -> float | None:
    """One median by another; None where one of them is missing or the second is 0."""
    if part is None or whole is None or whole.median == 0:
        return None
    return part.median / whole.median


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one thing in one round."""

    subject: str
    """Who was measured: `service`, `alone`, `floor`, `sql` …"""
    scenario: str
    connections: int
    round: int
    """In which turn: what has the same number was measured within a minute."""
    values: dict[str, float]
    """By name: `rate` (a second), `p50` and `p99` (milliseconds), and what else there is."""


Thing = tuple[str, str]
"""A subject and a scenario."""


class Samples:
    """Everything that was measured so far."""

    def __init__(self) -> None:
        self.all: list[Sample] = []

    def add(
        self, subject: str, scenario: str, connections: int, round_: int, **values: float
    ) -> None:
        """Keep one."""
        self.all.append(Sample(subject, scenario, connections, round_, values))

    def figure(self, subject: str, scenario: str, connections: int, name: str) -> Figure | None:
        """What the turns say about one thing; None when it was not measured."""
        values = list(self._by_round((subject, scenario), connections, name).values())
        return Figure.of(values) if values else None

    def ratio(self, part: Thing, whole: Thing, connections: int, name: str) -> Figure | None:
        """One by the other, turn by turn; None when there is no turn with both.

        A machine that is slower for a while is slower for both, where one median by another would
        compare what each had luck with.
        """
        below = self._by_round(whole, connections, name)
        ratios = [
            value / below[round_]
            for round_, value in self._by_round(part, connections, name).items()
            if below.get(round_)
        ]
        return Figure.of(ratios) if ratios else None

    def _by_round(self, thing: Thing, connections: int, name: str) -> dict[int, float]:
        return {
            sample.round: sample.values[name]
            for sample in self.all
            if (sample.subject, sample.scenario, sample.connections) == (*thing, connections)
            and name in sample.values
        }

    def best(self, subject: str, connections: int) -> str | None:
        """The scenario of a subject whose median rate is the highest: a floor's best pool."""
        rates = {
            scenario: figure.median
            for scenario in dict.fromkeys(s.scenario for s in self.all if s.subject == subject)
            if (figure := self.figure(subject, scenario, connections, "rate")) is not None
        }
        return max(rates, key=lambda scenario: rates[scenario]) if rates else None

    def plain(self) -> list[dict[str, Any]]:
        """All of it as JSON can hold it."""
        return [
            {
                "subject": sample.subject,
                "scenario": sample.scenario,
                "connections": sample.connections,
                "round": sample.round,
                **sample.values,
            }
            for sample in self.all
        ]


def percentile(ordered: Sequence[float], part: float) -> float:
    """The value below or at which `part` percent of them lie; 0 for none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(len(ordered) * part / 100) - 1)]
