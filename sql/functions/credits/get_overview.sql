-- credits.get_overview: how the whole of it stands now, for the support page.
--
-- The next run of charges is within the hour; ten thousand of them are looked at, which say enough.
-- Subscriptions are counted one by one, the rest is read from indexes of what is open.
CREATE OR REPLACE FUNCTION credits.get_overview()
RETURNS credits.overview
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now      CONSTANT timestamptz := clock_timestamp();
    v_overview credits.overview;
BEGIN
    SELECT s.active, s.paused, s.gifted, r.due, r.charges, r.pauses, r.credits
    INTO
        v_overview.subscriptions_active, v_overview.subscriptions_paused,
        v_overview.subscriptions_gifted, v_overview.next_run_due, v_overview.next_run_charges,
        v_overview.next_run_pauses, v_overview.next_run_credits
    FROM (
        SELECT
            count(*) FILTER (WHERE u.active AND NOT u.gifted) AS active,
            count(*) FILTER (WHERE u.paused_at IS NOT NULL) AS paused,
            count(*) FILTER (WHERE u.gifted) AS gifted
        FROM credits.sync_subscriptions AS u
    ) AS s
    CROSS JOIN (
        SELECT
            count(*) AS due,
            count(*) FILTER (WHERE p.action = 'charge') AS charges,
            count(*) FILTER (WHERE p.action = 'pause') AS pauses,
            coalesce(sum(p.price) FILTER (WHERE p.action = 'charge'), 0)::bigint AS credits
        FROM credits.preview_charge(credits._utc_add(v_now, '1 hour'), p_limit => 10000) AS p
        WHERE p.action <> 'skip'
    ) AS r;

    SELECT r.ended_at, (r.did ->> 'violations')::bigint
    INTO v_overview.ledger_checked_at, v_overview.ledger_violations
    FROM credits.job_runs AS r
    WHERE r.job = 'ledger-check' AND r.ended_at IS NOT NULL AND r.error IS NULL
    ORDER BY r.started_at DESC LIMIT 1;

    SELECT count(*) FILTER (WHERE e.state = 'failed'), count(*) FILTER (WHERE e.state = 'received')
    INTO v_overview.events_failed, v_overview.events_received
    FROM credits.stripe_events AS e
    WHERE e.state IN ('received', 'failed');

    SELECT count(*) INTO v_overview.notices_waiting
    FROM credits.notices AS n
    WHERE n.state = 'pending';

    SELECT
        count(*) FILTER (WHERE n.state = 'failed'),
        count(*) FILTER (WHERE n.state = 'undeliverable')
    INTO v_overview.notices_failed, v_overview.notices_undeliverable
    FROM credits.notices AS n
    WHERE n.state IN ('failed', 'undeliverable');
    RETURN v_overview;
END
$$;
COMMENT ON FUNCTION credits.get_overview() IS
'Counts of subscriptions, what the next charge run will do (at most 10000 looked at), the last ledger check, Stripe events and notices that are open';
