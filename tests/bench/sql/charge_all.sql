-- Everything that is due, charged or paused by one statement that knows no batch: what the charge
-- job does, at the least that it can cost. The same tables, constraints and indexes.
WITH due AS (
    SELECT
        s.user_id, s.price, s.billing_interval, s.periods, s.next_charge_at, s.anchor_at,
        s.next_charge_month, p.months, b.balance, b.last_seq,
        b.balance - b.reserved AS available, b.balance - b.reserved >= s.price AS covered
    FROM credits.sync_subscriptions AS s
    INNER JOIN credits.balances AS b ON b.user_id = s.user_id
    INNER JOIN credits.sync_prices AS p ON p.billing_interval = s.billing_interval
    WHERE s.due_at <= clock_timestamp()
),
dated AS (
    SELECT
        d.*,
        greatest(1, (
            extract(year FROM now.utc) * 12 + extract(month FROM now.utc)
            - extract(year FROM d.anchor_at AT TIME ZONE 'UTC') * 12
            - extract(month FROM d.anchor_at AT TIME ZONE 'UTC')
            - d.next_charge_month
        )::integer / d.months) AS least_periods
    FROM due AS d
    CROSS JOIN (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS utc) AS now
    WHERE d.covered
),
-- The first date behind now is this one or the next.
paying AS MATERIALIZED (
    SELECT d.*, n.*
    FROM dated AS d
    CROSS JOIN LATERAL (
        SELECT
            c.periods - 1 AS periods_skipped, d.next_charge_month + c.periods * d.months AS next_month,
            c.at AS next_at
        FROM (
            SELECT
                x.periods,
                (
                    d.anchor_at AT TIME ZONE 'UTC'
                    + make_interval(months => d.next_charge_month + x.periods * d.months)
                ) AT TIME ZONE 'UTC' AS at
            FROM (VALUES (d.least_periods), (d.least_periods + 1)) AS x (periods)
        ) AS c
        WHERE c.at > clock_timestamp()
        ORDER BY c.periods
        LIMIT 1
    ) AS n
),
booked AS (
    UPDATE credits.balances AS b SET
        balance = b.balance - p.price, total_spent = b.total_spent + p.price,
        last_seq = b.last_seq + 1, version = b.version + 1, updated_at = clock_timestamp()
    FROM paying AS p
    WHERE b.user_id = p.user_id
),
ledger AS (
    INSERT INTO credits.transactions (
        user_id, seq, id, type, origin, amount, balance_before, balance_after, app_id, description,
        metadata, idempotency_key, created_at
    )
    SELECT
        p.user_id, p.last_seq + 1, credits._new_id(), 'usage', 'system', -p.price, p.balance,
        p.balance - p.price, 'sync', 'Cloud Sync (' || p.billing_interval || ')',
        jsonb_build_object(
            'interval', p.billing_interval,
            'dueAt', to_char(p.next_charge_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'paidUntil', to_char(p.next_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'periodsSkipped', p.periods_skipped
        ),
        'sync:' || p.periods + 1, clock_timestamp()
    FROM paying AS p
),
used AS (
    INSERT INTO credits.usage_stats AS s (user_id, day, app_id, credits_used, operations)
    SELECT p.user_id, (clock_timestamp() AT TIME ZONE 'UTC')::date, 'sync', p.price, 1 FROM paying AS p
    ON CONFLICT (user_id, day, app_id) DO UPDATE SET
        credits_used = s.credits_used + excluded.credits_used,
        operations = s.operations + excluded.operations
),
renewed AS (
    UPDATE credits.sync_subscriptions AS s SET
        periods = s.periods + 1, next_charge_month = p.next_month, next_charge_at = p.next_at,
        paid_until = p.next_at, retry_at = NULL, failures = 0, last_error = NULL,
        updated_at = clock_timestamp()
    FROM paying AS p
    WHERE s.user_id = p.user_id
),
told AS (
    INSERT INTO credits.notices (user_id, id, kind, data, next_attempt_at, created_at)
    SELECT
        d.user_id, credits._new_id(), 'sync_paused',
        jsonb_build_object(
            'interval', d.billing_interval,
            'price', d.price,
            'available', greatest(d.available, 0),
            'dueAt', to_char(d.next_charge_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        ),
        clock_timestamp(), clock_timestamp()
    FROM due AS d
    WHERE NOT d.covered
),
paused AS (
    UPDATE credits.sync_subscriptions AS s SET
        active = false, next_charge_at = NULL, paused_at = clock_timestamp(), retry_at = NULL,
        failures = 0, last_error = NULL, updated_at = clock_timestamp()
    FROM due AS d
    WHERE s.user_id = d.user_id AND NOT d.covered
)
SELECT
    (SELECT count(*) FROM paying) AS charged,
    (SELECT count(*) FROM due WHERE NOT covered) AS paused,
    pg_notify('mana_credits_notices', '') AS told;
