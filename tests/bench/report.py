"""The report: Markdown for people, and everything that was measured as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.figures import Figure, Samples
from tests.bench.plans import CONNECTIONS, SCENARIOS, Plan
from tests.bench.targets import POOLS, RATES, Target, floor, targets, to_floor


@dataclass(frozen=True, slots=True)
class About:
    """What the figures were taken on."""

    when: str
    commit: str
    machine: list[str]
    settings: Mapping[str, str]
    plan: Plan


def write(
    folder: Path, about: About, samples: Samples, growth: Mapping[str, Any] | None
) -> tuple[str, list[Target]]:
    """Write report.md and report.json; the Markdown, and the targets."""
    found = targets(samples, growth)
    text = render(about, samples, found, growth)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(text)
    document = {
        "about": asdict(about),
        "targets": [{**asdict(target), "held": target.held} for target in found],
        "samples": samples.plain(),
        "growth": growth,
    }
    (folder / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    return text, found


def render(
    about: About, samples: Samples, found: Sequence[Target], growth: Mapping[str, Any] | None
) -> str:
    """The Markdown."""
    parts = [
        _head(about),
        _targets(found),
        _rates(samples),
        _floors(samples),
        _bare(samples),
        _database(samples),
        _charges(samples),
        _process(samples),
        _growth(growth),
        _trouble(samples),
    ]
    return "\n".join(part for part in parts if part)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def number(value: float) -> str:
    """As many digits as say something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def shown(figure: Figure | None) -> str:
    """The median, and how far the rounds lie apart."""
    if figure is None:
        return ""
    if figure.times == 1:
        return number(figure.median)
    return f"{number(figure.median)} ({number(figure.low)}-{number(figure.high)})"


def _many(connections: int) -> str:
    return "1 connection" if connections == 1 else f"{connections} connections"


def _times(figure: Figure | None) -> str:
    return "" if figure is None else f"{figure.median:.2f}"


def _head(about: About) -> str:
    plan = about.plan
    lines = [
        "# Benchmark",
        "",
        f"{about.when}, commit {about.commit}.",
        "",
        *(f"- {line}" for line in about.machine),
        f"- PostgreSQL {about.settings['server_version']}: "
        + ", ".join(f"{k} {v}" for k, v in about.settings.items() if k != "server_version"),
        f"- Rounds: {plan.rounds}, each on a fresh copy of the database, with {plan.turns} turns. "
        f"In a turn everything is measured once, for {plan.seconds:g} s over HTTP and "
        f"{plan.sql_seconds:g} s by pgbench. Shown: the median of the turns (lowest-highest); "
        "a ratio is the median of the ratios within each turn.",
        "- wrk, one thread, one service process, everything on this machine.",
        "",
    ]
    return "\n".join(lines)


def _targets(found: Sequence[Target]) -> str:
    words = {True: "held", False: "**MISSED**", None: "not measured"}
    rows = [
        [
            target.what + (f" ({target.note})" if target.note else ""),
            f"{'≥' if target.at_least else '≤'} {target.wanted:g}",
            _measured(target),
            words[target.held],
        ]
        for target in found
    ]
    missed = sum(target.held is False for target in found)
    unknown = sum(target.held is None for target in found)
    summary = f"{len(found) - missed - unknown} held, {missed} missed, {unknown} not measured."
    return "\n".join(
        [
            "## What must be seen to hold",
            "",
            summary,
            "",
            table(["what", "wanted", "measured", ""], rows),
        ]
    )


def _measured(target: Target) -> str:
    if target.measured is None:
        return ""
    if target.low is None or target.high is None:
        return number(target.measured)
    return f"{number(target.measured)} ({number(target.low)}-{number(target.high)})"


def _rates(samples: Samples) -> str:
    parts = [
        "## Over HTTP",
        "",
        "CPU is what the process that serves worked for a call, the database's work left out: this "
        "depends less on what else the machine is doing.",
        "",
    ]
    for connections in CONNECTIONS:
        rows = []
        lines = [("service", s) for s in SCENARIOS] + [("alone", s) for s in SCENARIOS]
        for subject, scenario in lines:
            rate, p50, p99, cpu = (
                samples.figure(subject, scenario, connections, name)
                for name in ("rate", "p50", "p99", "cpu")
            )
            if rate is None:
                continue
            thing = (subject, scenario)
            alone = (
                samples.ratio(thing, ("alone", scenario), connections, "rate")
                if subject == "service"
                else None
            )
            what = SCENARIOS[scenario] + (", every call alone" if subject == "alone" else "")
            rows.append(
                [
                    what,
                    shown(rate),
                    shown(p50),
                    shown(p99),
                    shown(cpu),
                    *(_times(to_floor(samples, thing, connections, "rate", p)) for p in POOLS),
                    _times(alone),
                ]
            )
        for pools, which in POOLS.items():
            if (rate := floor(samples, connections, "rate", pools)) is not None:
                best = samples.best(pools, connections) or ""
                others = [
                    shown(floor(samples, connections, n, pools)) for n in ("p50", "p99", "cpu")
                ]
                line = [f"{which}: `SELECT 1`, {best}", shown(rate), *others]
                ratios = (to_floor(samples, (pools, best), connections, "rate", p) for p in POOLS)
                rows.append([*line, *map(_times, ratios), ""])
        head = [
            "call",
            "a second",
            "p50 ms",
            "p99 ms",
            "CPU µs",
            "/ floor",
            "/ asyncpg's",
            "/ alone",
        ]
        parts += [f"### {_many(connections)}", "", table(head, rows)]
    return "\n".join(parts)


def _floors(samples: Samples) -> str:
    rows = []
    for pools, which in POOLS.items():
        scenarios = dict.fromkeys(s.scenario for s in samples.all if s.subject == pools)
        for name in scenarios:
            rates = [shown(samples.figure(pools, name, c, "rate")) for c in CONNECTIONS]
            rows.append([f"{which}: `SELECT 1`, {name}", *rates])
    rates = [shown(samples.figure("floor", "nothing", c, "rate")) for c in CONNECTIONS]
    rows.append(["no database", *rates])
    cores = [shown(samples.figure("floor", "nothing", c, "wrk_cores")) for c in CONNECTIONS]
    rows.append(["cores that wrk took meanwhile", *cores])
    most = max((s.values["wrk_cores"] for s in samples.all if "wrk_cores" in s.values), default=0.0)
    head = ["answers a second", *(_many(c) for c in CONNECTIONS)]
    return "\n".join(
        [
            "## The floor, and the load",
            "",
            table(head, rows),
            f"wrk took {most:.2f} of a core at most, over all measurements: it is not the limit.",
            "",
        ]
        if most < 0.9
        else [
            "## The floor, and the load",
            "",
            table(head, rows),
            f"**wrk took {most:.2f} of a core: it may have been the limit.**",
            "",
        ]
    )


def _bare(samples: Samples) -> str:
    rows = []
    for scenario, wanted in RATES.items():
        for connections, least in wanted.items():
            thing = ("bare", scenario)
            rate = samples.figure(*thing, connections, "rate")
            if rate is None:
                continue
            whole = samples.ratio(("service", scenario), thing, connections, "rate")
            rows.append(
                [
                    SCENARIOS[scenario],
                    str(connections),
                    shown(rate),
                    *(_times(to_floor(samples, thing, connections, "rate", p)) for p in POOLS),
                    f"{least:g}",
                    _times(whole),
                ]
            )
    if not rows:
        return ""
    head = ["call", "connections", "a second", "/ floor", "/ asyncpg's", "wanted", "service / it"]
    parts = [
        "## Batches with nothing around them",
        "",
        "The service's queries behind handlers that look at nothing: nobody signs in, no input is "
        "looked at, nothing is logged or counted. No change to the rest of a request can make the "
        "service faster than this.",
        "",
        table(head, rows),
    ]
    return "\n".join(parts)


def _database(samples: Samples) -> str:
    names = {
        "bare_debit": "a debit as one bare statement",
        "use_credits": "credits.use_credits",
        "commit": "pg_logical_emit_message: a commit",
    }
    rows = []
    for clients in (1, 8):
        for script, what in names.items():
            rate = samples.figure("sql", script, clients, "rate")
            to_bare = samples.ratio(("sql", script), ("sql", "bare_debit"), clients, "rate")
            others = [
                shown(samples.figure("sql", script, clients, n)) for n in ("p50", "p99", "cpu")
            ]
            rows.append([what, str(clients), shown(rate), *others, _times(to_bare)])
    head = ["on the database", "clients", "a second", "p50 ms", "p99 ms", "CPU µs", "/ bare"]
    return "\n".join(["## On the database, by pgbench", "", table(head, rows)])


def _charges(samples: Samples) -> str:
    rows = []
    for scenario in dict.fromkeys(s.scenario for s in samples.all if s.subject == "job"):
        job = samples.figure("job", scenario, 1, "rate")
        statement = samples.figure("statement", scenario, 1, "rate")
        due = int(scenario.removeprefix("charge_"))
        both = samples.ratio(("job", scenario), ("statement", scenario), 1, "rate")
        worked = [samples.figure(s, scenario, 1, "cpu") for s in ("job", "statement")]
        rows.append([f"{due:,}", shown(job), shown(statement), shown(both), *map(shown, worked)])
    if not rows:
        return ""
    head = ["due", "the job, a second", "one statement, a second", "/ statement"]
    head += ["the job, CPU µs", "one statement, CPU µs"]
    parts = ["## Charging", "", table(head, rows)]
    rows = []
    for what, scenario, connections in (
        ("over HTTP, 32 connections, as many as go", "debit_payers", 32),
        ("on the database, 8 clients, 200 a second", "sql", 8),
    ):
        if samples.figure("idle", scenario, connections, "p99") is None:
            continue
        for subject in ("idle", "charging"):
            rate, p50, p99 = (
                samples.figure(subject, scenario, connections, name)
                for name in ("rate", "p50", "p99")
            )
            rows.append([what, subject, shown(rate), shown(p50), shown(p99)])
    if rows:
        head = ["debits meanwhile", "", "a second", "p50 ms", "p99 ms"]
        parts += [table(head, rows)]
    return "\n".join(parts)


def _process(samples: Samples) -> str:
    rows = []
    for subject, what in (("service", "the service"), ("alone", "every call alone")):
        figures = [
            samples.figure(subject, "process", 0, name) for name in ("peak", "rss", "pss", "pool")
        ]
        rows.append([what, *(shown(figure) for figure in figures)])
    parts = [
        "## The process",
        "",
        table(["after the load", "peak MB", "resident MB", "PSS MB", "connections"], rows),
    ]
    held, late, worked, collected = (
        shown(samples.figure("service", "loop", 0, name))
        for name in ("held", "late", "worked", "collected")
    )
    parts += [
        f"Its event loop, by a timer of 1 ms, was held up {held} ms at most, or {late} ms with the "
        "time for which its thread was ready and got no core. Between two ticks it ran "
        f"{worked} ms at most; the longest garbage collection took {collected} ms.",
        "",
    ]
    return "\n".join(parts)


def _growth(growth: Mapping[str, Any] | None) -> str:
    if growth is None:
        return ""
    return "\n".join(["## Growth", "", str(growth["table"])])


def _trouble(samples: Samples) -> str:
    bad = [s for s in samples.all if s.values.get("refused") or s.values.get("broken")]
    if not bad:
        return "No call was refused, and no connection failed.\n"
    rows = [
        [
            f"{s.subject}: {s.scenario}, {s.connections} connections, round {s.round + 1}",
            number(s.values["refused"]),
            number(s.values["broken"]),
        ]
        for s in bad
    ]
    return "\n".join(["## Calls that went wrong", "", table(["", "refused", "failed"], rows)])
