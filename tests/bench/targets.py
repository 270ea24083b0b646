"""What must be seen to hold, and whether it was."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.bench.figures import Figure, Samples, Thing, ratio
from tests.bench.plans import SCENARIOS

SLOWER = 0.95
"""As fast as, within noise."""
MEMORY_MB = 80.0
LOOP_MS = 50.0


@dataclass(frozen=True, slots=True)
class Target:
    """One line: what was wanted, and what was measured (None: it was not)."""

    what: str
    wanted: float
    measured: float | None
    at_least: bool = True
    note: str = ""
    low: float | None = None
    """Of the turns that it is the median of, where there were several."""
    high: float | None = None

    @classmethod
    def of(
        cls,
        what: str,
        wanted: float,
        figure: Figure | None,
        *,
        at_least: bool = True,
        note: str = "",
    ) -> "Target":
        """One whose measure is the median of turns."""
        if figure is None:
            return cls(what, wanted, None, at_least, note)
        if figure.times == 1:
            return cls(what, wanted, figure.median, at_least, note)
        return cls(what, wanted, figure.median, at_least, note, figure.low, figure.high)

    @property
    def held(self) -> bool | None:
        """Whether it holds; None when it was not measured."""
        if self.measured is None:
            return None
        if self.at_least:
            return self.measured >= self.wanted
        return self.measured <= self.wanted


def targets(samples: Samples, growth: Mapping[str, Any] | None = None) -> list[Target]:
    """Every target; `growth` is what tests.bench.growth has written, if it has."""
    return [
        *_rates(samples),
        *_latencies(samples),
        *_one_connection(samples),
        *_database(samples),
        *_charges(samples),
        *_history(samples),
        *_growth(growth or {}),
        *_process(samples),
    ]


POOLS: Final = {"pools": "floor", "usual pools": "floor with asyncpg's own pool"}
"""The floors: pools set as the service's is, and as asyncpg makes them."""


def floor(samples: Samples, connections: int, name: str, pools: str = "pools") -> Figure | None:
    """A floor at its best pool for this number of connections."""
    best = samples.best(pools, connections)
    return None if best is None else samples.figure(pools, best, connections, name)


def to_floor(
    samples: Samples, thing: Thing, connections: int, name: str, pools: str = "pools"
) -> Figure | None:
    """What that did in a turn by what the floor's best pool did in the same."""
    best = samples.best(pools, connections)
    return None if best is None else samples.ratio(thing, (pools, best), connections, name)


RATES: Final = {
    "debit": {32: 0.8, 128: 1.1},
    "debit_hot": {32: 1.0, 128: 1.4},
    "balance": {32: 2.0, 128: 2.5},
    "status": {32: 2.0, 128: 2.5},
}
"""What part of the floor's rate is wanted, by the number of connections."""


def _rates(samples: Samples) -> Iterator[Target]:
    for scenario, wanted in RATES.items():
        for connections, at_least in wanted.items():
            for pools, which in POOLS.items():
                yield Target.of(
                    f"{SCENARIOS[scenario]}: rate at {connections} connections / {which}",
                    at_least,
                    to_floor(samples, ("service", scenario), connections, "rate", pools),
                )


def _latencies(samples: Samples) -> Iterator[Target]:
    for scenario in ("debit", "debit_hot", "balance", "status"):
        for pools, which in POOLS.items():
            yield Target.of(
                f"{SCENARIOS[scenario]}: p99 at 32 connections / that of the {which}",
                0.5,
                to_floor(samples, ("service", scenario), 32, "p99", pools),
                at_least=False,
            )


def _one_connection(samples: Samples) -> Iterator[Target]:
    for scenario in ("debit", "balance"):
        yield Target.of(
            f"{SCENARIOS[scenario]}: rate at 1 connection / every call alone",
            SLOWER,
            samples.ratio(("service", scenario), ("alone", scenario), 1, "rate"),
            note="no slower, within noise",
        )


def _database(samples: Samples) -> Iterator[Target]:
    for clients in (1, 8):
        yield Target.of(
            f"the SQL debit, clients: {clients}: rate / the bare statement",
            0.8,
            samples.ratio(("sql", "use_credits"), ("sql", "bare_debit"), clients, "rate"),
        )


def _charges(samples: Samples) -> Iterator[Target]:
    def rate(subject: str, due: int) -> Figure | None:
        return samples.figure(subject, f"charge_{due}", 1, "rate")

    yield Target.of(
        "charging 50,000: rate / one set-based statement",
        0.7,
        samples.ratio(("job", "charge_50000"), ("statement", "charge_50000"), 1, "rate"),
    )
    yield Target(
        "charging 1,000,000: rate / the rate of 50,000",
        0.8,
        ratio(rate("job", 1_000_000), rate("job", 50_000)),
    )
    for scenario, connections, how in (
        ("debit_payers", 32, "over HTTP, 32 connections, as many as go"),
        ("sql", 8, "on the database, 200 a second"),
    ):
        yield Target.of(
            f"p99 of debits while charges go on / idle: {how}",
            2.0,
            samples.ratio(("charging", scenario), ("idle", scenario), connections, "p99"),
            at_least=False,
        )


def _history(samples: Samples) -> Iterator[Target]:
    yield Target.of(
        "history: p50 of page 1,800 / page 1, 1 connection",
        1.3,
        samples.ratio(("service", "history_deep"), ("service", "history_first"), 1, "p50"),
        at_least=False,
    )


def _growth(growth: Mapping[str, Any]) -> Iterator[Target]:
    small, large = growth.get("rows", (0, 0))
    # Other sizes say nothing about these.
    fits = 0 < small <= 1.01e6 and large >= 0.99e7
    ratios = growth.get("ratios", {}) if fits else {}
    for name, what in (
        ("debit over HTTP", "debits over HTTP"),
        ("debit", "debits on the database"),
        ("history over HTTP", "history over HTTP"),
        ("history", "history on the database"),
    ):
        yield Target(
            f"{what}: rate at 10 million ledger rows / at 1 million",
            0.8,
            ratios.get(name),
            note="by tests.bench.growth",
        )


def _process(samples: Samples) -> Iterator[Target]:
    peak = samples.figure("service", "process", 0, "peak")
    yield Target(
        "memory of one process under load, peak resident (MB)",
        MEMORY_MB,
        None if peak is None else peak.high,
        at_least=False,
    )
    loop = samples.figure("service", "loop", 0, "held")
    late = samples.figure("service", "loop", 0, "late")
    note = ""
    if late is not None:
        note = f"{late.high:.0f} ms with the waiting for a core"
    yield Target(
        "the event loop's longest block (ms)",
        LOOP_MS,
        None if loop is None else loop.high,
        at_least=False,
        note=note,
    )
