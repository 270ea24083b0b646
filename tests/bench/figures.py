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
    values: dict[str, float]
    """By name: `rate` (a second), `p50` and `p99` (milliseconds), and what else there is."""


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
        """What the rounds say about one thing; None when it was not measured."""
        values = [
            sample.values[name]
            for sample in self.all
            if (sample.subject, sample.scenario, sample.connections)
            == (subject, scenario, connections)
            and name in sample.values
        ]
        return Figure.of(values) if values else None

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
