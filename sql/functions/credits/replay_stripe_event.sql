-- credits.replay_stripe_event: apply a stored event once more.
--
-- For a DBA who has mended what stood in its way, and for reconciliation. What was applied
-- already moves nothing again. A result of received means that Stripe is to be asked for refunds:
-- the service does, wherever this is called. Only reconciliation says p_asking: it asks by itself,
-- and where it fails the event waits longer each time; called by anybody else, it is due at once.
--
-- Locks:  the event's row, then the purchase row, the payer's active gifts and balance row.
-- Raises: MC001 invalid_request where the payload was pruned, MC004 not_found.
-- Replaces: credits.replay_stripe_event(text)
CREATE OR REPLACE FUNCTION credits.replay_stripe_event(p_id text, p_asking boolean DEFAULT false)
RETURNS credits.stripe_event_result
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now    CONSTANT timestamptz := clock_timestamp();
    v_result credits.stripe_event_result;
BEGIN
    v_result := credits._try_stripe_event(credits._lock_stripe_event(p_id), NULL);
    IF v_result.state = 'received' AND p_asking IS NOT TRUE THEN
        UPDATE credits.stripe_events SET next_attempt_at = v_now WHERE id = p_id;
    END IF;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION credits.replay_stripe_event(text, boolean) IS
'Applies a stored Stripe event again, which moves nothing twice; what needs an answer of Stripe is fetched by the service at once. p_asking is for the service alone. Raises MC001 invalid_request for one whose payload was pruned, MC004 not_found';
