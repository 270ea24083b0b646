"""Fills a migrated database with users and a ledger in which every money rule holds.

Row `r` of user `n` follows from `r` and `n` alone, so that any part of the ledger can be written
without looking at the rest: row 1 grants, row 2 debits (Cloud Sync, where the user has it), every
tenth row gives back what a debit took, and all others debit. Rows are written in the order of their
time, one row of each user after the other, so that a user's rows lie as far apart as in real life.

Every index and constraint is there while it is filled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg

CHUNK: Final = 100_000
"""Rows a transaction."""
PLENTY: Final = 1_000_000
"""Credits that a user has left; who is short has one too few for the next charge."""
ROWS_A_DAY: Final = 5

Say = Callable[[int], None]
"""Told how many more rows of the ledger there are."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Who there is, and how much of a ledger: users are called user-1, user-2 …"""

    users: int
    rows: int = 2
    """Of each user, at least 2."""
    heavy_every: int = 0
    """Every so many-th user has `heavy_rows` more; 0: nobody."""
    heavy_rows: int = 0
    subscribed_every: int = 1
    """Every so many-th user has Cloud Sync; 0: nobody."""
    short_every: int = 0
    """Every so many-th user cannot pay the next charge; 0: everybody can."""
    held_every: int = 0
    """Every so many-th user has an open hold of 5 credits; 0: nobody."""
    interval: str = "yearly"
    price: int = 360
    months: int = 12
    began_days_ago: int = 100
    """When everybody came: with `monthly` and 40 days, everybody's charge is due."""

    @classmethod
    def of_total(cls, rows: int, users: int) -> "Shape":
        """About so many rows: seven of ten spread evenly, the rest with one user in a hundred."""
        each = max(2, rows * 7 // 10 // users)
        heavy = max(0, rows - each * users) * 100 // users
        return cls(
            users,
            each,
            heavy_every=100,
            heavy_rows=heavy,
            subscribed_every=5,
            held_every=10,
        )

    @classmethod
    def of_due(cls, users: int) -> "Shape":
        """Everybody has a charge that is due, and nine in ten can pay it."""
        return cls(users, short_every=10, interval="monthly", price=30, months=1, began_days_ago=40)

    @property
    def most_rows(self) -> int:
        """How many rows the longest ledger has."""
        return self.rows + (self.heavy_rows if self.heavy_every else 0)

    @property
    def total(self) -> int:
        """How many rows all of it has."""
        heavy = self.users // self.heavy_every if self.heavy_every else 0
        return self.users * self.rows + heavy * self.heavy_rows


# Who they are: n, the name, how many rows (k), what a debit takes (c), what row 1 grants (g).
_PEOPLE = """
(
    SELECT
        p.*, p.price + p.final + p.c * ((p.k - 2) - 2 * (p.k / 10)) AS g,
        %(sub)s > 0 AND p.n %% greatest(%(sub)s, 1) = 0 AS subscribed,
        CASE WHEN %(held)s > 0 AND p.n %% greatest(%(held)s, 1) = 0 THEN 5 ELSE 0 END AS held
    FROM (
        SELECT
            n, coalesce(%(name)s, 'user-' || n) AS who, %(price)s::bigint AS price,
            %(rows)s + CASE WHEN %(heavy)s > 0 AND n %% greatest(%(heavy)s, 1) = 0
                THEN %(more)s ELSE 0 END AS k,
            1 + n %% 5 AS c,
            CASE WHEN %(short)s > 0 AND n %% greatest(%(short)s, 1) = 0
                THEN %(price)s - 1 ELSE %(plenty)s END::bigint AS final
        FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
    ) AS p
) AS u
"""

# What a user has after row r, and the day of row r.
_AFTER = "(u.g - CASE WHEN r.r = 1 THEN 0 ELSE u.price + u.c * ((r.r - 2) - 2 * (r.r / 10)) END)"
_DAY = f"CASE WHEN r.r < 3 THEN 0 ELSE 1 + (r.r - 3) / {ROWS_A_DAY} END"
_MIDNIGHT = "(date_trunc('day', now() AT TIME ZONE 'UTC') - make_interval(days => %(ago)s))"
_PAID_UNTIL = f"(({_MIDNIGHT} + make_interval(months => %(months)s)) AT TIME ZONE 'UTC')"
_APP = "(ARRAY['chat', 'images', 'research'])[1 + (u.n + d.day) %% 3]"

_BALANCES = f"""
INSERT INTO credits.balances (
    user_id, balance, reserved, total_earned, total_spent, last_seq, version, created_at, updated_at
)
SELECT
    u.who, u.final, u.held, u.g + u.c * (u.k / 10), u.price + u.c * ((u.k - 2) - u.k / 10),
    u.k, u.k,
    {_MIDNIGHT} AT TIME ZONE 'UTC', {_MIDNIGHT} AT TIME ZONE 'UTC'
FROM {_PEOPLE}
"""

_LEDGER = f"""
INSERT INTO credits.transactions (
    user_id, seq, id, type, origin, amount, balance_before, balance_after, app_id, description,
    metadata, idempotency_key, created_at
)
SELECT
    x.who, x.r, credits._new_id(),
    CASE WHEN x.r = 1 THEN 'grant' WHEN x.amount > 0 THEN 'refund' ELSE 'usage' END
        ::credits.transaction_type,
    CASE WHEN x.r = 1 OR (x.r = 2 AND x.subscribed) THEN 'system' ELSE 'service' END
        ::credits.origin,
    x.amount, x.after - x.amount, x.after,
    CASE WHEN x.r = 1 THEN 'system' WHEN x.r = 2 AND x.subscribed THEN 'sync' ELSE x.app END,
    CASE WHEN x.r = 2 AND x.subscribed THEN 'Cloud Sync' ELSE 'A message to a large model' END,
    CASE
        WHEN x.r = 2 AND x.subscribed THEN jsonb_build_object(
            'interval', %(interval)s::text,
            'dueAt', credits._utc_text(x.at),
            'paidUntil', credits._utc_text({_PAID_UNTIL}),
            'periodsSkipped', 0
        )
        WHEN x.r > 2 AND (x.n + x.r) %% 3 = 0 THEN jsonb_build_object('tokens', x.n %% 4096)
    END,
    CASE
        WHEN x.r = 1 THEN 'start'
        WHEN x.r = 2 AND x.subscribed THEN 'sync:1'
        WHEN x.r > 2 AND (x.n + x.r) %% 5 = 0 THEN 'key-' || x.r
    END,
    x.at
FROM (
    SELECT
        u.*, r.r, {_APP} AS app, {_AFTER} AS after,
        CASE
            WHEN r.r = 1 THEN u.g WHEN r.r = 2 THEN -u.price WHEN r.r %% 10 = 0 THEN u.c ELSE -u.c
        END AS amount,
        ({_MIDNIGHT} + make_interval(
            days => d.day::integer, secs => u.n * 7919 %% 80000 + r.r %% {ROWS_A_DAY} * 1000
        )) AT TIME ZONE 'UTC' AS at
    FROM {_PEOPLE}
    INNER JOIN generate_series(%(from_row)s::bigint, %(to_row)s::bigint) AS r (r) ON r.r <= u.k
    CROSS JOIN LATERAL (SELECT {_DAY} AS day) AS d
) AS x
ORDER BY x.r, x.n
"""

_USAGE = f"""
INSERT INTO credits.usage_stats (user_id, day, app_id, credits_used, operations)
SELECT
    u.who, ({_MIDNIGHT} + make_interval(days => d.day::integer))::date,
    CASE WHEN d.day = 0 AND u.subscribed THEN 'sync' ELSE {_APP} END,
    CASE WHEN d.day = 0 THEN u.price ELSE u.c * o.debits END,
    CASE WHEN d.day = 0 THEN 1 ELSE o.debits END
FROM {_PEOPLE}
CROSS JOIN LATERAL generate_series(
    0::bigint, CASE WHEN u.k < 3 THEN 0 ELSE 1 + (u.k - 3) / {ROWS_A_DAY} END
) AS d (day)
CROSS JOIN LATERAL (
    SELECT count(*) AS debits
    FROM generate_series(
        3 + (d.day - 1) * {ROWS_A_DAY}, least(u.k, 2 + d.day * {ROWS_A_DAY})
    ) AS r (r)
    WHERE r.r %% 10 <> 0
) AS o
WHERE d.day = 0 OR o.debits > 0
"""

_SUBSCRIPTIONS = f"""
INSERT INTO credits.sync_subscriptions (
    user_id, active, billing_interval, price, periods, anchor_at, next_charge_month, next_charge_at,
    paid_until, created_at, updated_at
)
SELECT
    u.who, true, %(interval)s::credits.sync_interval, u.price, 1, {_MIDNIGHT} AT TIME ZONE 'UTC',
    %(months)s, {_PAID_UNTIL}, {_PAID_UNTIL},
    {_MIDNIGHT} AT TIME ZONE 'UTC', {_MIDNIGHT} AT TIME ZONE 'UTC'
FROM {_PEOPLE}
WHERE u.subscribed
"""

_HOLDS = f"""
INSERT INTO credits.reservations (user_id, id, amount, reason, expires_at, created_at)
SELECT u.who, credits._new_id(), u.held, 'chat: a message', now() + interval '7 days', now()
FROM {_PEOPLE}
WHERE u.held > 0
"""


def fill(connection: psycopg.Connection[Any], shape: Shape, say: Say = lambda _: None) -> None:
    """Write everybody, and then the ledger from the oldest row to the newest."""
    for first in range(1, shape.users + 1, CHUNK):
        last = min(first + CHUNK - 1, shape.users)
        _write(connection, shape, first, last, _BALANCES)
        _write(connection, shape, first, last, _USAGE, _SUBSCRIPTIONS, _HOLDS)
    # A row of everybody, and another one of everybody …
    for row in range(1, shape.rows + 1):
        for first in range(1, shape.users + 1, CHUNK):
            last = min(first + CHUNK - 1, shape.users)
            say(_write(connection, shape, first, last, _LEDGER, rows=(row, row)))
    # … and then those that only few have, as many rounds at once as make a chunk.
    few = max(1, shape.users // shape.heavy_every) if shape.heavy_every else 1
    rounds = max(1, CHUNK // few)
    for row in range(shape.rows + 1, shape.most_rows + 1, rounds):
        until = min(row + rounds - 1, shape.most_rows)
        say(_write(connection, shape, 1, shape.users, _LEDGER, rows=(row, until)))


def fill_one(connection: psycopg.Connection[Any], name: str, rows: int) -> None:
    """Write one more user, of this name and with so many rows (2 and more)."""
    shape = Shape(0, rows)
    for statement in (_BALANCES, _USAGE, _SUBSCRIPTIONS):
        _write(connection, shape, 0, 0, statement, name=name)
    _write(connection, shape, 0, 0, _LEDGER, rows=(1, rows), name=name)


def settle(connection: psycopg.Connection[Any]) -> None:
    """Leave the tables as autovacuum leaves them in the end, and everything on the disk."""
    connection.execute("VACUUM ANALYZE")
    connection.execute("CHECKPOINT")


def violations(connection: psycopg.Connection[Any]) -> int:
    """How many the ledger check finds."""
    row = connection.execute("SELECT count(*) FROM credits.check_ledger()").fetchone()
    return int(row[0]) if row else -1


def _write(
    connection: psycopg.Connection[Any],
    shape: Shape,
    first: int,
    last: int,
    *statements: str,
    rows: tuple[int, int] = (1, 1),
    name: str | None = None,
) -> int:
    """Write one chunk in a transaction of its own; how many rows the last statement wrote."""
    values = {
        "first": first,
        "last": last,
        "name": name,
        "rows": shape.rows,
        "heavy": shape.heavy_every,
        "more": shape.heavy_rows,
        "sub": shape.subscribed_every,
        "short": shape.short_every,
        "held": shape.held_every,
        "interval": shape.interval,
        "price": shape.price,
        "months": shape.months,
        "ago": shape.began_days_ago,
        "plenty": PLENTY,
        "from_row": rows[0],
        "to_row": rows[1],
    }
    written = 0
    with connection.transaction():
        for statement in statements:
            # Sent as text: what the values are must be known to the planner.
            with psycopg.ClientCursor(connection) as cursor:
                cursor.execute(statement.encode(), values)
                written = cursor.rowcount
    return written
