"""The loader: whatever it fills, every money rule holds in it."""

import psycopg
import pytest

from tests.bench import ledger
from tests.bench.ledger import Shape
from tests.bench.pgbench import SQL
from tests.support.databases import Clone

SHAPES = {
    "few rows": Shape(30),
    "due": Shape.of_due(30),
    "heavy": Shape(
        30, 7, heavy_every=10, heavy_rows=41, subscribed_every=5, short_every=4, held_every=3
    ),
    "nobody": Shape(5, 12, subscribed_every=0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_filled_is_sound(database: Clone, name: str) -> None:
    shape = SHAPES[name]
    told: list[int] = []
    with psycopg.connect(database.admin_url, autocommit=True) as db:
        ledger.fill(db, shape, told.append)
        ledger.fill_one(db, "user-deep", 123)
        assert ledger.violations(db) == 0
        count = db.execute("SELECT count(*) FROM credits.transactions").fetchone()
    assert sum(told) == shape.total
    assert count == (shape.total + 123,)


def test_one_statement_does_what_the_charge_job_does(database: Clone) -> None:
    # What each changes, times and ids aside; half of the users by either.
    look = """
        SELECT s.active, s.periods, s.next_charge_month, s.next_charge_at, s.paid_until,
            b.balance, b.total_spent, b.last_seq, t.amount, t.app_id, t.description, t.metadata,
            t.idempotency_key, t.origin, u.credits_used, u.operations, n.kind, n.data, n.state
        FROM credits.sync_subscriptions AS s
        INNER JOIN credits.balances AS b ON b.user_id = s.user_id
        INNER JOIN credits.transactions AS t ON t.user_id = b.user_id AND t.seq = b.last_seq
        LEFT JOIN credits.usage_stats AS u
            ON u.user_id = s.user_id AND u.day = (t.created_at AT TIME ZONE 'UTC')::date
        LEFT JOIN credits.notices AS n ON n.user_id = s.user_id
        ORDER BY length(s.user_id), s.user_id
    """
    found = []
    # One transaction around both, so that both see the same now().
    with psycopg.connect(database.admin_url) as db, db.transaction():
        for how in (
            "SELECT credits.charge_due_subscriptions()",
            (SQL / "charge_all.sql").read_text(),
        ):
            with db.transaction(force_rollback=True):
                ledger.fill(db, Shape.of_due(30))
                db.execute(how.encode())
                assert ledger.violations(db) == 0
                found.append(db.execute(look.encode()).fetchall())
    assert found[0] == found[1]
    assert sum(row[0] for row in found[0]) == 27


@pytest.mark.parametrize("script", sorted(path.stem for path in SQL.glob("*.sql")))
def test_scripts_run(database: Clone, script: str) -> None:
    statement = (SQL / f"{script}.sql").read_text()
    text = "\n".join(line for line in statement.splitlines() if not line.startswith("\\set"))
    with psycopg.connect(database.admin_url, autocommit=True) as db:
        ledger.fill(db, Shape(3))
        assert db.execute(text.replace(":n", "2").encode()).fetchone() is not None
        assert ledger.violations(db) == 0
