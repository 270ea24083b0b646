-- credits.list_problems: what an operator should look at, one line each; none when all is well.
--
-- Readiness shows it as degraded (api.md): jobs that are late or failing, charges that fail, Stripe
-- events that do not come through, notices that did not go out, and a ledger check that found
-- something.
CREATE OR REPLACE FUNCTION credits.list_problems()
RETURNS SETOF text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now CONSTANT timestamptz := clock_timestamp();
BEGIN
    RETURN QUERY
    SELECT format(
        'job %s is late: its last success was %s', j.job,
        coalesce(credits._utc_text(s.started_at), 'never')
    )
    FROM credits.jobs AS j
    LEFT JOIN LATERAL (
        SELECT r.started_at FROM credits.job_runs AS r
        WHERE r.job = j.job AND r.ended_at IS NOT NULL AND r.error IS NULL
        ORDER BY r.started_at DESC LIMIT 1
    ) AS s ON true
    WHERE coalesce(s.started_at, j.since) < credits._utc_add(v_now, -j.late_after)
    ORDER BY j.job;

    RETURN QUERY
    SELECT format('job %s failed: %s', j.job, l.error)
    FROM credits.jobs AS j
    CROSS JOIN LATERAL (
        SELECT r.error FROM credits.job_runs AS r
        WHERE r.job = j.job AND r.ended_at IS NOT NULL
        ORDER BY r.started_at DESC LIMIT 1
    ) AS l
    WHERE l.error IS NOT NULL
    ORDER BY j.job;

    RETURN QUERY
    SELECT format('%s subscriptions could not be charged and wait for a retry', count(*))
    FROM credits.sync_subscriptions AS s
    WHERE s.retry_at IS NOT NULL
    HAVING count(*) > 0;

    -- Older ones have been seen; what is still to be done about them is in the table.
    RETURN QUERY
    SELECT format('%s Stripe events of the last 7 days could not be applied', count(*))
    FROM credits.stripe_events AS e
    WHERE e.state = 'failed' AND e.received_at > credits._utc_add(v_now, '-7 days')
    HAVING count(*) > 0;

    RETURN QUERY
    SELECT format('%s Stripe events wait for an answer of Stripe for more than an hour', count(*))
    FROM credits.stripe_events AS e
    WHERE e.state = 'received' AND e.received_at < credits._utc_add(v_now, '-1 hour')
    HAVING count(*) > 0;

    RETURN QUERY
    SELECT format('%s notices failed and wait for a person (retry_notices)', count(*))
    FROM credits.notices AS n
    WHERE n.state = 'failed'
    HAVING count(*) > 0;

    -- Nothing helps those but an address, so that they are not told of for ever.
    RETURN QUERY
    SELECT format('%s notices of the last 7 days could not be sent: no address is known', count(*))
    FROM credits.notices AS n
    WHERE n.state = 'undeliverable' AND n.created_at > credits._utc_add(v_now, '-7 days')
    HAVING count(*) > 0;

    RETURN QUERY
    SELECT format('the last ledger check found %s violations', l.did ->> 'violations')
    FROM (
        SELECT r.did FROM credits.job_runs AS r
        WHERE r.job = 'ledger-check' AND r.ended_at IS NOT NULL AND r.error IS NULL
        ORDER BY r.started_at DESC LIMIT 1
    ) AS l
    WHERE (l.did ->> 'violations')::bigint > 0;
END
$$;
COMMENT ON FUNCTION credits.list_problems() IS
'What an operator should look at: late or failing jobs, charges that fail, Stripe events and notices that are stuck, violations of the last ledger check';
