-- The least that a debit can be: one statement, the same tables, constraints and indexes, no rule.
\set n random(1, :users)
WITH b AS (
    UPDATE credits.balances SET
        balance = balance - 1, total_spent = total_spent + 1, last_seq = last_seq + 1,
        version = version + 1, updated_at = clock_timestamp()
    WHERE user_id = 'user-' || :n AND balance - reserved >= 1
    RETURNING *
),
t AS (
    INSERT INTO credits.transactions (
        user_id, seq, id, type, origin, amount, balance_before, balance_after, app_id,
        description, created_at
    )
    SELECT
        user_id, last_seq, credits._new_id(), 'usage', 'service', -1, balance + 1, balance, 'chat',
        'A message', updated_at
    FROM b
    RETURNING *
),
s AS (
    INSERT INTO credits.usage_stats AS s (user_id, day, app_id, credits_used, operations)
    SELECT user_id, (updated_at AT TIME ZONE 'UTC')::date, 'chat', 1, 1 FROM b
    ON CONFLICT (user_id, day, app_id) DO UPDATE SET
        credits_used = s.credits_used + excluded.credits_used,
        operations = s.operations + 1
)
SELECT t.*, b.balance, b.reserved FROM t INNER JOIN b ON b.user_id = t.user_id;
