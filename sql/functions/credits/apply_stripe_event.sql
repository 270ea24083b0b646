-- credits.apply_stripe_event: store a verified Stripe event once, and apply it with it.
--
-- What cannot be applied is stored with its error and returned as failed, not raised: a raise
-- would undo the record. Errors of locks, resources and the connection are raised, so that
-- Stripe sends the event again.
--
-- Locks: the event's row, then the purchase row, then the user's balance row.
CREATE OR REPLACE FUNCTION credits.apply_stripe_event(
    p_id text, p_type text, p_created_at timestamptz, p_payload jsonb
)
RETURNS credits.stripe_event_result
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now    CONSTANT timestamptz := clock_timestamp();
    v_event  credits.stripe_events;
    v_result credits.stripe_event_result;
BEGIN
    INSERT INTO credits.stripe_events (id, type, payload, created_at, received_at)
    VALUES (p_id, p_type, p_payload, p_created_at, v_now)
    ON CONFLICT (id) DO NOTHING;
    -- A second delivery waits here until the first has committed.
    SELECT * INTO STRICT v_event FROM credits.stripe_events WHERE id = p_id FOR UPDATE;
    IF v_event.state IN ('applied', 'ignored') THEN
        RETURN ROW(v_event.state, v_event.outcome, NULL, true)::credits.stripe_event_result;
    END IF;

    BEGIN
        v_result.outcome := credits._apply_stripe_event(p_type, p_payload #> '{data,object}');
        v_result.state := (
            CASE WHEN v_result.outcome IS NULL THEN 'ignored' ELSE 'applied' END
        )::credits.stripe_event_state;
    EXCEPTION
        WHEN
            serialization_failure OR deadlock_detected OR lock_not_available
            OR insufficient_resources OR operator_intervention OR system_error
        THEN
            RAISE;
        WHEN OTHERS OR assert_failure THEN
            v_result.state := 'failed';
            v_result.error := sqlstate || ' ' || sqlerrm;
    END;

    UPDATE credits.stripe_events SET
        state = v_result.state,
        outcome = v_result.outcome,
        error = v_result.error,
        attempts = attempts + 1,
        applied_at = CASE WHEN v_result.state = 'applied' THEN v_now END
    WHERE id = p_id;
    v_result.repeated := v_event.attempts > 0;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION credits.apply_stripe_event(text, text, timestamptz, jsonb) IS
'Stores a Stripe event once by its id and applies it in the same transaction; an event that cannot be applied is returned as failed with its error';
