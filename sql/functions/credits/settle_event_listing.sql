-- credits.settle_event_listing: Stripe's events were listed, and those that lacked are stored.
--
-- Locks: the one row of stripe_listing.
CREATE OR REPLACE FUNCTION credits.settle_event_listing(p_listed_until timestamptz)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_next CONSTANT timestamptz := credits._utc_add(clock_timestamp(), '1 minute');
BEGIN
    -- One that overran its lease must not set back what another has reached.
    UPDATE credits.stripe_listing SET
        listed_until = greatest(listed_until, p_listed_until),
        next_at = v_next;
END
$$;
COMMENT ON FUNCTION credits.settle_event_listing(timestamptz) IS
'Keeps that every event of Stripe before a time is stored; the next turn is in a minute';
