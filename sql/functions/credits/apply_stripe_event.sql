-- credits.apply_stripe_event: store a verified Stripe event once, and apply it with it.
--
-- What cannot be applied is stored with its error and returned as failed, not raised: a raise
-- would undo the record. Errors of locks, resources and the connection are raised, so that
-- Stripe sends the event again.
--
-- Locks: the event's row, then the purchase row, the payer's active gifts and balance row.
CREATE OR REPLACE FUNCTION credits.apply_stripe_event(
    p_id text, p_type text, p_created_at timestamptz, p_payload jsonb
)
RETURNS credits.stripe_event_result
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_event credits.stripe_events;
BEGIN
    INSERT INTO credits.stripe_events (id, type, payload, created_at, received_at)
    VALUES (p_id, p_type, p_payload, p_created_at, clock_timestamp())
    ON CONFLICT (id) DO NOTHING;
    -- A second delivery waits here until the first has committed.
    SELECT * INTO STRICT v_event FROM credits.stripe_events WHERE id = p_id FOR UPDATE;
    -- One that was received waits for an answer of Stripe, which is not this caller's to fetch.
    IF v_event.state IN ('applied', 'ignored') OR (v_event.state = 'received' AND v_event.attempts > 0)
    THEN
        RETURN ROW(v_event.state, v_event.outcome, NULL, true, NULL)::credits.stripe_event_result;
    END IF;
    RETURN credits._try_stripe_event(v_event, NULL);
END
$$;
COMMENT ON FUNCTION credits.apply_stripe_event(text, text, timestamptz, jsonb) IS
'Stores a Stripe event once by its id and applies it in the same transaction; an event that cannot be applied is returned as failed with its error. received: Stripe is to be asked for refunds, see apply_stripe_refunds';
