-- credits.claim_stripe_events: take stored events that are due for another try.
--
-- next_attempt_at becomes the end of the lease, so that of several processes one tries an event.
--
-- Locks: the events, passing over those that somebody works on.
CREATE OR REPLACE FUNCTION credits.claim_stripe_events(
    p_limit integer DEFAULT 20, p_lease_seconds integer DEFAULT 120
)
RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now   CONSTANT timestamptz := clock_timestamp();
    v_lease CONSTANT timestamptz := credits._utc_add(v_now, make_interval(secs => p_lease_seconds));
BEGIN
    RETURN QUERY
    WITH claimed AS (
        UPDATE credits.stripe_events AS e SET next_attempt_at = v_lease
        WHERE e.id = ANY(ARRAY(
            SELECT d.id FROM credits.stripe_events AS d
            WHERE d.next_attempt_at <= v_now
            ORDER BY d.next_attempt_at
            LIMIT p_limit
            FOR UPDATE SKIP LOCKED
        ))
        RETURNING e.id, e.created_at
    )
    SELECT c.id FROM claimed AS c ORDER BY c.created_at, c.id;
END
$$;
COMMENT ON FUNCTION credits.claim_stripe_events(integer, integer) IS
'Ids of stored Stripe events that are due for another try, oldest first; the caller has them until the lease ends and calls replay_stripe_event';
