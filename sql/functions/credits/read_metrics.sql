-- credits.read_metrics: the figures that operators watch, each cheap to read.
--
-- Ages are in seconds. What nothing can be said about has no row.
--
-- Locks: the one row of ledger_counting, without waiting.
CREATE OR REPLACE FUNCTION credits.read_metrics()
RETURNS SETOF credits.metric
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now  CONSTANT timestamptz := clock_timestamp();
    -- A variable, so that the planner takes the range for the small one that it is.
    v_ever CONSTANT timestamptz := timestamptz '-infinity';
BEGIN
    PERFORM credits._count_ledger(v_now);
    RETURN QUERY
    SELECT m.name, t.type || ':' || t.direction, m.value
    FROM credits.ledger_totals AS t
    CROSS JOIN LATERAL (
        VALUES ('moves', t.moves), ('credits', t.credits)
    ) AS m (name, value);

    RETURN QUERY
    SELECT m.name, m.label, m.value
    FROM (
        SELECT count(*) AS waiting, min(n.created_at) AS oldest
        FROM credits.notices AS n WHERE n.state = 'pending'
    ) AS p
    CROSS JOIN LATERAL (
        VALUES
        ('notices', 'pending', p.waiting),
        ('notices_oldest', NULL, coalesce(extract(epoch FROM v_now - p.oldest), 0)::bigint)
    ) AS m (name, label, value)
    UNION ALL
    SELECT 'notices', s.state::text, (
        SELECT count(*) FROM credits.notices AS n
        WHERE n.state = s.state AND n.state IN ('failed', 'undeliverable')
    )
    FROM unnest(ARRAY['failed', 'undeliverable']::credits.notice_state []) AS s (state);

    -- Those that nobody asks Stripe about any more were given up by their buyers.
    RETURN QUERY
    SELECT m.name, NULL, m.value
    FROM (
        SELECT count(*) AS open, min(p.created_at) AS oldest
        FROM credits.purchases AS p WHERE p.check_at IS NOT NULL AND p.status = 'pending'
    ) AS p
    CROSS JOIN LATERAL (
        VALUES
        ('purchases_pending', p.open),
        ('purchases_oldest', coalesce(extract(epoch FROM v_now - p.oldest), 0)::bigint)
    ) AS m (name, value);

    RETURN QUERY
    SELECT m.name, NULL, m.value
    FROM (
        SELECT
            (
                -- A hundred thousand say enough.
                SELECT count(*)
                FROM (
                    SELECT 1 FROM credits.sync_subscriptions AS s
                    WHERE s.due_at > v_ever AND s.due_at <= v_now
                    LIMIT 100000
                ) AS due
            ) AS overdue,
            (
                SELECT s.due_at FROM credits.sync_subscriptions AS s
                WHERE s.due_at <= v_now ORDER BY s.due_at LIMIT 1
            ) AS oldest
    ) AS d
    CROSS JOIN LATERAL (
        VALUES
        ('subscriptions_overdue', d.overdue),
        ('subscriptions_oldest', coalesce(extract(epoch FROM v_now - d.oldest), 0)::bigint)
    ) AS m (name, value);

    RETURN QUERY
    SELECT 'stripe_events', s.state::text, (
        SELECT count(*) FROM credits.stripe_events AS e
        WHERE e.state = s.state AND e.state IN ('received', 'failed')
    )
    FROM unnest(ARRAY['received', 'failed']::credits.stripe_event_state []) AS s (state);

    -- Never: since the job has been expected.
    RETURN QUERY
    SELECT 'job_last_success', j.job, extract(epoch FROM coalesce(l.ended_at, j.since))::bigint
    FROM credits.jobs AS j
    LEFT JOIN LATERAL (
        SELECT r.ended_at FROM credits.job_runs AS r
        WHERE r.job = j.job AND r.ended_at IS NOT NULL AND r.error IS NULL
        ORDER BY r.started_at DESC LIMIT 1
    ) AS l ON true;

    -- Those that were cut off tell nothing any more.
    RETURN QUERY
    SELECT m.name, p.job, sum(m.value)::bigint
    FROM credits.job_progress AS p
    CROSS JOIN LATERAL (VALUES ('job_done', p.done), ('job_total', p.total)) AS m (name, value)
    WHERE p.total IS NOT NULL
        AND coalesce(p.last_batch_at, p.started_at) > credits._utc_add(v_now, '-10 minutes')
    GROUP BY m.name, p.job;

    RETURN QUERY
    SELECT 'ledger_violations', NULL, (l.did ->> 'violations')::bigint
    FROM (
        SELECT r.did FROM credits.job_runs AS r
        WHERE r.job = 'ledger-check' AND r.ended_at IS NOT NULL AND r.error IS NULL
        ORDER BY r.started_at DESC LIMIT 1
    ) AS l;
END
$$;
COMMENT ON FUNCTION credits.read_metrics() IS
'Figures for monitoring: totals of the ledger, notices, purchases, subscriptions, Stripe events, jobs, the last ledger check; ages in seconds';
