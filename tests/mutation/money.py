"""Which functions move money, and which of them are worth breaking."""

from collections.abc import Iterable, Mapping

from tests.mutation.operators import Mutant, mutants
from tests.mutation.sqltext import Function

# Who writes one of these moves credits, holds them, or decides what is still to be moved.
TABLES = frozenset(
    {
        "credits.balances",
        "credits.transactions",
        "credits.debit_refunds",
        "credits.reservations",
        "credits.purchases",
        "credits.stripe_refunds",
        "credits.stripe_disputes",
        "credits.sync_subscriptions",
        "gifts.gift_codes",
        "gifts.gift_redemptions",
    }
)
# They only draw, print, announce something, or hand out a turn.
PASSED_OVER = frozenset(
    {
        "credits._new_id",
        "credits._utc_text",
        "credits._charge_metadata",
        "credits._reason_app",
        "credits._remember_address",
        "credits._revive_notices",
        "credits._write_notice",
        "credits._purchase_outcome",
        "credits._as_purchase",
        "credits.announce_charges",
        "credits.begin_job_run",
        "credits.claim_purchase_checks",
        "credits.claim_purchase_poll",
        "credits.run_charge_notices",
        "credits.update_job_run",
        "gifts._new_code",
        "gifts._clean_name",
    }
)


def callers(functions: Mapping[str, Function], names: Iterable[str]) -> set[str]:
    """These functions and whoever calls them, directly or not."""
    found = set(names)
    while more := {f.name for f in functions.values() if f.calls & found} - found:
        found |= more
    return found


def callees(functions: Mapping[str, Function], names: Iterable[str]) -> set[str]:
    """These functions and whatever they call, directly or not."""
    found = set(names)
    while more := {c for name in found for c in functions[name].calls & functions.keys()} - found:
        found |= more
    return found


def movers(functions: Mapping[str, Function]) -> set[str]:
    """The functions that write a table of TABLES, themselves or by what they call."""
    return callers(functions, (f.name for f in functions.values() if f.writes & TABLES))


def money_functions(functions: Mapping[str, Function]) -> list[str]:
    """The functions that are broken: those that move money, and what they call for it."""
    return sorted(callees(functions, movers(functions)) - PASSED_OVER)


def all_mutants(functions: Mapping[str, Function]) -> list[Mutant]:
    """Every mutant of every money function."""
    return [
        mutant
        for name in money_functions(functions)
        for mutant in mutants(functions[name], functions)
    ]
