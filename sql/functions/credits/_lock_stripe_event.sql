-- credits._lock_stripe_event: lock a stored event that can be applied again.
--
-- Locks:  the event's row; the caller then takes the purchase.
-- Raises: MC001 invalid_request where its payload was pruned, MC004 not_found.
CREATE OR REPLACE FUNCTION credits._lock_stripe_event(p_id text)
RETURNS credits.stripe_events
LANGUAGE plpgsql
AS $$
DECLARE
    v_event credits.stripe_events;
BEGIN
    SELECT * INTO v_event FROM credits.stripe_events WHERE id = p_id FOR UPDATE;
    IF NOT found THEN
        PERFORM credits._refuse_missing('Stripe event');
    END IF;
    PERFORM credits._require(
        v_event.payload IS NOT NULL, 'id', 'names an event whose payload was pruned'
    );
    RETURN v_event;
END
$$;
COMMENT ON FUNCTION credits._lock_stripe_event(text) IS
'Locks a stored Stripe event with its payload. Raises MC001 invalid_request, MC004 not_found';
