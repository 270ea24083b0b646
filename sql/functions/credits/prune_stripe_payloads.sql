-- credits.prune_stripe_payloads: clear the payloads of old Stripe events; their ids stay, so that
-- a late repeat is still known.
--
-- Locks: the events' rows.
CREATE OR REPLACE FUNCTION credits.prune_stripe_payloads(p_batch_size integer DEFAULT 500)
RETURNS credits.batch_result
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_before CONSTANT timestamptz := credits._utc_add(clock_timestamp(), '-90 days');
    v_result credits.batch_result;
BEGIN
    WITH old AS (
        SELECT e.id FROM credits.stripe_events AS e
        -- What failed may still be replayed, for which its payload is needed.
        WHERE e.payload IS NOT NULL AND e.received_at < v_before AND e.state IN ('applied', 'ignored')
            AND e.next_attempt_at IS NULL
        ORDER BY e.received_at
        LIMIT p_batch_size
        FOR UPDATE SKIP LOCKED
    ),
    cleared AS (
        UPDATE credits.stripe_events AS e SET payload = NULL
        FROM old
        WHERE e.id = old.id
        RETURNING 1
    )
    SELECT count(*), 0, count(*) = p_batch_size
    INTO v_result.done, v_result.errors, v_result.more
    FROM cleared;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION credits.prune_stripe_payloads(integer) IS
'Clears the payloads of Stripe events that were applied or ignored more than 90 days ago';
