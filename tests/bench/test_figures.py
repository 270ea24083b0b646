"""Medians, ratios, targets and the report, from figures that are known."""

import io
from pathlib import Path

import pytest

from tests.bench.figures import Figure, Samples, percentile, ratio
from tests.bench.growth import Grown, compared
from tests.bench.ledger import Shape
from tests.bench.plans import FULL, QUICK
from tests.bench.progress import Progress, clock, describe
from tests.bench.report import About, number, render, shown, table
from tests.bench.served import Watch
from tests.bench.servers import Tokens
from tests.bench.targets import Target, targets

ABOUT = About("today", "abc", ["2 cores"], {"server_version": "15", "fsync": "on"}, QUICK)


def a_run() -> Samples:
    """Three rounds in which the service is twice as fast as its floor at 32 connections."""
    samples = Samples()
    for round_, noise in enumerate((0, 10, -10)):
        samples.add("pools", "pool of 4", 32, round_, rate=900 + noise, p50=9, p99=40)
        samples.add("pools", "pool of 8", 32, round_, rate=1000 + noise, p50=9, p99=30)
        samples.add("service", "balance", 32, round_, rate=2000 + noise, p50=4, p99=12)
        samples.add("alone", "balance", 32, round_, rate=500, p50=20, p99=60)
        samples.add("bare", "balance", 32, round_, rate=2500, p50=3, p99=10)
    return samples


def find(found: list[Target], part: str) -> Target:
    (target,) = [
        target
        for target in found
        if part in target.what and "asyncpg's own pool" not in target.what
    ]
    return target


def test_a_figure_is_the_median_with_its_spread() -> None:
    figure = Figure.of([3, 1, 2])
    assert (figure.median, figure.low, figure.high, figure.times) == (2, 1, 3, 3)
    assert figure.spread == 1
    assert Figure.of([0, 0]).spread == 0


def test_a_ratio_compares_what_was_measured_in_the_same_turn() -> None:
    samples = Samples()
    # The machine is half as fast in the second turn, and only one of both had a third.
    for turn, (part, whole) in enumerate(((100, 50), (50, 25), (7, 0))):
        samples.add("service", "debit", 32, turn, rate=part)
        samples.add("pools", "pool of 4", 32, turn, rate=whole)
    samples.add("service", "debit", 32, 3, rate=9)
    assert samples.ratio(("service", "debit"), ("pools", "pool of 4"), 32, "rate") == Figure.of(
        [2, 2]
    )
    assert samples.ratio(("service", "debit"), ("pools", "pool of 4"), 1, "rate") is None
    assert samples.ratio(("service", "debit"), ("pools", "pool of 8"), 32, "rate") is None


def test_a_ratio_needs_both_sides() -> None:
    one, two, none = Figure.of([1]), Figure.of([2]), Figure.of([0])
    assert ratio(one, two) == 0.5
    assert ratio(None, two) is None
    assert ratio(one, None) is None
    assert ratio(one, none) is None


@pytest.mark.parametrize(("part", "value"), [(0, 1), (50, 50), (99, 99), (100, 100)])
def test_percentiles(part: float, value: float) -> None:
    assert percentile(range(1, 101), part) == value


def test_percentiles_of_few() -> None:
    assert percentile([], 99) == 0
    assert percentile([7.0], 50) == 7
    assert percentile([7.0, 9.0], 99) == 9


def test_the_best_pool_is_the_floor() -> None:
    samples = a_run()
    assert samples.best("pools", 32) == "pool of 8"
    assert samples.best("pools", 1) is None
    found = targets(samples)
    rate = find(found, "balance: rate at 32 connections / floor")
    assert (rate.measured, rate.held) == (2.0, True)
    assert rate.low == pytest.approx(2010 / 1010)
    assert rate.high == pytest.approx(1990 / 990)
    late = find(found, "balance: p99 at 32 connections / that of the floor")
    assert (late.measured, late.held) == (0.4, True)
    assert find(found, "balance: rate at 128 connections / floor").held is None


def test_targets_hold_at_their_bound() -> None:
    assert Target("", 0.8, 0.8).held is True
    assert Target("", 0.8, 0.79).held is False
    assert Target("", 50, 50, at_least=False).held is True
    assert Target("", 50, 51, at_least=False).held is False


def test_growth_is_read_from_its_own_run() -> None:
    found = targets(a_run(), {"ratios": {"debit": 0.9}, "rows": [1_000_000, 10_000_000]})
    assert find(found, "debits on the database").held is True
    assert find(found, "history on the database").held is None
    smaller = targets(a_run(), {"ratios": {"debit": 0.9}, "rows": [1_000_000, 2_000_000]})
    assert find(smaller, "debits on the database").held is None


def test_a_ledger_that_grows_is_compared_turn_by_turn() -> None:
    samples = Samples()
    # The machine is slower in every turn, and the larger one has nine tenths in all of them.
    for turn, rate in enumerate((4_000, 2_000, 1_000)):
        samples.add("small", "debit", 1, turn, rate=rate, p99=1, cpu=100, fetched=0, logged=700)
        samples.add("large", "debit", 1, turn, rate=rate * 0.9, cpu=110, fetched=2, logged=770)
    # Another turn that only one of them had changes nothing.
    samples.add("large", "debit", 1, 3, rate=100)
    both = [
        Grown(name, Shape.of_total(rows, rows // 10), Tokens("", Path()))
        for name, rows in (("small", 1_000_000), ("large", 10_000_000))
    ]
    found = compared(both, samples, ["a machine"])
    assert found["ratios"]["debit"] == pytest.approx(0.9)
    assert found["ratios"]["history"] is None
    assert "| 0.90 (0.90-0.90) | 1.00 |  | 100 | 110 | 1.10 |" in found["table"]
    assert (
        "| pages a debit finds outside shared_buffers | 0.00 (0.00-0.00) | 2.00" in found["table"]
    )


def test_the_worst_round_counts_for_memory_and_the_loop() -> None:
    samples = Samples()
    for round_, (peak, held) in enumerate(((70, 20), (81, 51), (70, 20))):
        samples.add("service", "process", 0, round_, peak=peak, rss=peak, pss=50, pool=10)
        samples.add("service", "loop", 0, round_, held=held, late=99, worked=9, collected=1)
    found = targets(samples)
    assert find(found, "memory").held is False
    assert find(found, "event loop").held is False


def test_the_report_shows_what_was_missed_and_what_is_missing() -> None:
    samples = a_run()
    text = render(ABOUT, samples, targets(samples), {"ratios": {}, "table": "| grown |"})
    assert "2,000 (1,990-2,010)" in text
    assert "| floor: `SELECT 1`, pool of 8 | 1,000 (990-1,010) |" in text
    # Of batches alone: their rate, by the floor, by asyncpg's, wanted, and the service's by theirs.
    assert "| balance | 32 | 2,500 (2,500-2,500) | 2.50 |  | 2 | 0.80 |" in text
    assert "not measured" in text
    assert "| grown |" in text
    assert "No call was refused" in text
    samples.add("service", "debit", 1, 0, rate=1, p50=1, p99=1, refused=3, broken=0)
    assert "## Calls that went wrong" in render(ABOUT, samples, [], None)


def test_the_report_of_nothing_can_be_written() -> None:
    assert "not measured" in render(ABOUT, Samples(), targets(Samples()), None)


def test_tables_and_numbers() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |\n"
    assert [number(n) for n in (12345.6, 99.94, 9.876, 0)] == ["12,346", "99.9", "9.88", "0.00"]
    assert shown(None) == ""
    assert shown(Figure.of([1])) == "1.00"


def test_progress_tells_the_rate_and_what_is_left() -> None:
    assert describe("rows", 50, 100, 10) == "rows: 50 % of 100 (5/s, 0:10 left)"
    assert describe("rows", 0, 100, 0) == "rows: 0 % of 100 (0/s, …)"
    assert describe("rows", 100, 100, 61) == "rows: 100 % of 100 (2/s, took 1:01)"
    assert clock(3599.6) == "60:00"


def test_progress_ends_with_a_line() -> None:
    to = io.StringIO()
    with Progress("rows", 2, to=to) as progress:
        progress.add(2)
    assert to.getvalue().startswith("rows: 100 % of 2 ")


def test_a_plan_knows_how_many_measurements_it_has() -> None:
    assert QUICK.steps < 60
    assert FULL.steps == 5 * (5 * (30 + 30 + 8 + 30 + 6) + 4) + 2 * 3 * 5 + 2 + 20


def test_a_watch_keeps_the_latest_ticks() -> None:
    watch = Watch()
    for late in range(20):
        watch.note(late / 1000, worked=late / 2000, waited=0.005)
    told = watch.told()
    assert told["ticks"] == 20
    assert told["late"] == pytest.approx(19)
    assert told["held"] == pytest.approx(14)
    assert told["worked"] == pytest.approx(9.5)
    assert [round(one["late"]) for one in told["worst"]] == list(range(19, 9, -1))


def test_a_shape_has_about_as_many_rows_as_were_asked_for() -> None:
    for rows, users in ((1_000_000, 100_000), (10_000_000, 1_000_000), (50_000_000, 1_000_000)):
        assert Shape.of_total(rows, users).total == pytest.approx(rows, rel=0.01)
    assert Shape.of_due(50_000).total == 100_000
