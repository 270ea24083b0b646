-- credits.unknown_stripe_events: which of these events are not stored here?
CREATE OR REPLACE FUNCTION credits.unknown_stripe_events(p_ids text [])
RETURNS SETOF text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT l.id FROM unnest(p_ids) AS l (id)
    WHERE NOT EXISTS (SELECT 1 FROM credits.stripe_events AS e WHERE e.id = l.id);
END
$$;
COMMENT ON FUNCTION credits.unknown_stripe_events(text []) IS
'Those of the given ids of Stripe events that are not stored';
