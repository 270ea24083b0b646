"""What wrk and pgbench say, as it is read."""

from pathlib import Path

import pytest

from tests.bench.pgbench import SQL, PgbenchError, parse_rate, parse_times
from tests.bench.plans import FULL, QUICK, SCENARIOS
from tests.bench.wrk import CALLS, Caller, LoadError, parse

WRK = """Running 2s test @ http://127.0.0.1:3061
  1 threads and 32 connections
Requests/sec:   1000.00
BENCH {"answers":2010,"duration_us":2000000,"p50_us":1500,"p99_us":20250,"max_us":31000,\
"refused":10,"broken":1}
"""

PGBENCH = """pgbench (15.18)
number of transactions actually processed: 1912
latency average = 5.219 ms
initial connection time = 6.482 ms
tps = 191.604271 (without initial connection time)
"""


def test_a_load_counts_what_was_not_refused() -> None:
    load = parse(WRK)
    assert load.rate == 1000
    assert (load.p50, load.p99, load.longest) == (1.5, 20.25, 31)
    assert (load.seconds, load.answers, load.refused, load.broken) == (2, 2010, 10, 1)


def test_a_load_that_says_nothing_fails() -> None:
    with pytest.raises(LoadError, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_pgbench_rate() -> None:
    assert parse_rate(PGBENCH) == pytest.approx(191.604271)
    with pytest.raises(PgbenchError):
        parse_rate("pgbench: error: connection failed")


def test_pgbench_times_are_milliseconds() -> None:
    # client, transaction, microseconds, script, second, microsecond; at a rate, also the lag
    assert parse_times(["0 1 5219 0 1700000000 12", "1 1 800 0 1700000000 13 40"]) == [5.219, 0.8]


def test_every_scenario_is_a_call() -> None:
    calls = CALLS.read_text()
    for kind in (*SCENARIOS, "debit_payers", "one", "nothing"):
        assert f"function calls.{kind}()" in calls
    for plan in (FULL, QUICK):
        assert set(plan.service) == set(SCENARIOS)
        assert set(plan.alone) <= set(SCENARIOS)


def test_arguments_stand_where_calls_lua_reads_them() -> None:
    caller = Caller(3061, 10, "key", Path("/tokens"), 151)
    assert caller.arguments("debit", 7) == ["debit", "10", "7", "key", "/tokens", "151"]
    assert Caller(3061, 0).arguments("one", 7, users=4) == ["one", "4", "7", "-", "-", "0"]


def test_scripts_say_what_they_are() -> None:
    for script in SQL.glob("*.sql"):
        assert script.read_text().startswith("-- "), script
