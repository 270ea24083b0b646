"""What is measured, and for how long."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

CONNECTIONS: Final = (1, 32, 128)
SCENARIOS: Final = {
    "debit": "debit, 10,000 users",
    "debit_hot": "debit, one user",
    "debit_keyed": "debit with a key",
    "reserve_commit": "reserve, then commit",
    "balance": "balance",
    "balance_jwt": "balance, by a token",
    "status": "sync status",
    "history_first": "history, page 1",
    "history_deep": "history, page 1,800",
    "mixed": "mixed",
}
BARE: Final = ("debit", "debit_hot", "balance", "status")
"""Those that are held against the floor."""
USERS: Final = 10_000
TOKEN_USERS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the benchmark; times in seconds."""

    rounds: int
    """Each on copies of its own."""
    turns: int
    """How often in a round each call, each floor and each pgbench has its turn."""
    seconds: float
    """Of a turn over HTTP."""
    sql_seconds: float
    """Of a turn of pgbench."""
    long_seconds: float
    """Of what has one turn in a round."""
    warm_up: float
    service: Mapping[str, tuple[int, ...]]
    """The scenarios, each with its numbers of connections."""
    alone: Mapping[str, tuple[int, ...]]
    """The same for the service that sends every call alone."""
    bare: Mapping[str, tuple[int, ...]]
    """The same for batches with nothing around them."""
    pools: tuple[int, ...]
    """The sizes of the floor's pools."""
    usual_pools: tuple[int, ...]
    """The sizes of those that are as asyncpg makes them."""
    clients: tuple[int, ...] = (1, 8)
    charges: tuple[tuple[int, int, int], ...] = ()
    """How many subscriptions are due, in how many rounds that is measured, and how often in one."""
    meanwhile: int = 0
    """How many are due while debits go on; 0: not measured."""

    @property
    def steps(self) -> int:
        """How many measurements there are."""
        calls = sum(len(n) for load in (self.service, self.alone, self.bare) for n in load.values())
        pools = (len(self.pools) + len(self.usual_pools) + 1) * len(CONNECTIONS)
        a_turn = calls + pools + 3 * len(self.clients)
        charges = sum(2 * min(rounds, self.rounds) * turns for _, rounds, turns in self.charges)
        a_round = self.turns * a_turn + len(WATCHED) + (4 if self.meanwhile else 0)
        return self.rounds * a_round + charges


WATCHED: Final = (("mixed", 128), ("debit", 128), ("balance", 128), ("history_deep", 32))
"""What goes on while the event loop is watched."""

FULL: Final = Plan(
    rounds=5,
    turns=5,
    seconds=1,
    sql_seconds=2,
    long_seconds=5,
    warm_up=3,
    service=dict.fromkeys(SCENARIOS, CONNECTIONS),
    alone=dict.fromkeys(SCENARIOS, CONNECTIONS),
    bare=dict.fromkeys(BARE, (32, 128)),
    pools=(2, 4, 8, 10, 16),
    usual_pools=(4, 8, 10, 16),
    charges=((50_000, 3, 5), (1_000_000, 1, 1)),
    meanwhile=1_000_000,
)
QUICK: Final = Plan(
    rounds=1,
    turns=1,
    seconds=1,
    sql_seconds=1,
    long_seconds=1,
    warm_up=1,
    service={
        **dict.fromkeys(SCENARIOS, (32,)),
        **dict.fromkeys(("debit", "debit_hot", "balance", "status"), CONNECTIONS),
        **dict.fromkeys(("history_first", "history_deep"), (1, 32)),
    },
    alone=dict.fromkeys(("debit", "balance"), (1, 32)),
    bare=dict.fromkeys(("debit", "balance"), (32, 128)),
    pools=(4, 10),
    usual_pools=(4, 10),
    charges=((5_000, 1, 1),),
)
