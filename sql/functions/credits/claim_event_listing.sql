-- credits.claim_event_listing: may Stripe's list of events be read now, and from where?
--
-- At most once a minute, by one process: the caller that gets a time has this turn until its lease
-- ends. An hour is read again each time, because Stripe's list is not complete at once.
--
-- Locks: the one row of stripe_listing.
CREATE OR REPLACE FUNCTION credits.claim_event_listing(p_lease_seconds integer DEFAULT 120)
RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now   CONSTANT timestamptz := clock_timestamp();
    v_lease CONSTANT timestamptz := credits._utc_add(v_now, make_interval(secs => p_lease_seconds));
    v_since timestamptz;
BEGIN
    UPDATE credits.stripe_listing SET next_at = v_lease
    WHERE next_at <= v_now
    RETURNING credits._utc_add(listed_until, '-1 hour') INTO v_since;
    RETURN v_since;
END
$$;
COMMENT ON FUNCTION credits.claim_event_listing(integer) IS
'Since when Stripe''s events are to be listed, or null when it is not this caller''s turn; settle_event_listing ends the turn';
