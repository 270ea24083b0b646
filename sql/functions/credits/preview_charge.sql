-- credits.preview_charge: what a charge run at a given time would do. It changes nothing.
--
-- p_at is a parameter here, and only here and in private functions: a look ahead moves no money.
-- p_limit bounds what is looked at: so many that would be charged or paused, and as many to skip.
--
-- Replaces: credits.preview_charge(timestamptz)
CREATE OR REPLACE FUNCTION credits.preview_charge(
    p_at timestamptz DEFAULT NULL, p_limit integer DEFAULT NULL
)
RETURNS SETOF credits.planned_charge
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_at CONSTANT timestamptz := coalesce(p_at, clock_timestamp());
BEGIN
    RETURN QUERY
    SELECT
        s.user_id, s.billing_interval, s.price, b.balance - b.reserved, s.next_charge_at,
        a.action,
        CASE a.action WHEN 'charge' THEN n.next_at END,
        CASE a.action WHEN 'charge' THEN n.periods_skipped END
    FROM (
        (
            SELECT d.* FROM credits.sync_subscriptions AS d
            WHERE d.due_at <= v_at
            ORDER BY d.due_at, d.user_id
            LIMIT p_limit
        )
        UNION ALL
        (
            SELECT w.* FROM credits.sync_subscriptions AS w
            WHERE w.retry_at > v_at AND w.next_charge_at <= v_at
            ORDER BY w.retry_at
            LIMIT p_limit
        )
    ) AS s
    INNER JOIN credits.balances AS b ON b.user_id = s.user_id
    INNER JOIN credits.sync_prices AS p ON p.billing_interval = s.billing_interval
    CROSS JOIN LATERAL (
        SELECT
            CASE
                WHEN s.retry_at > v_at THEN 'skip'
                WHEN b.balance - b.reserved >= s.price THEN 'charge'
                ELSE 'pause'
            END AS action
    ) AS a
    CROSS JOIN LATERAL credits._next_charge(s.anchor_at, s.next_charge_month, p.months, v_at) AS n
    ORDER BY s.next_charge_at, s.user_id;
END
$$;
COMMENT ON FUNCTION credits.preview_charge(timestamptz, integer) IS
'What a charge run at p_at (default: now) would charge, pause, or skip because a retry is waited for, at most p_limit of each; changes nothing';
