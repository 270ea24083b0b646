-- credits.claim_event_listing: may Stripe's list of events be read now, and from where?
--
-- At most once a minute, by one process: the caller that gets a time has this turn until its lease
-- ends. Ten minutes are read again each time: Stripe's list is not complete at once, and its
-- clock is not ours, though no further away than a webhook's signature may be old.
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
    RETURNING credits._utc_add(listed_until, '-10 minutes') INTO v_since;
    RETURN v_since;
END
$$;
COMMENT ON FUNCTION credits.claim_event_listing(integer) IS
'Since when Stripe''s events are to be listed, or null when it is not this caller''s turn; settle_event_listing ends the turn';
