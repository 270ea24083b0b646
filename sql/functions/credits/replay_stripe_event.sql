-- credits.replay_stripe_event: apply a stored event once more.
--
-- For a DBA who has mended what stood in its way, and for reconciliation. What was applied
-- already moves nothing again. A result of received means that Stripe is to be asked for refunds:
-- the service does, wherever this is called.
--
-- Locks:  the event's row, then the purchase row, the payer's active gifts and balance row.
-- Raises: MC001 invalid_request where the payload was pruned, MC004 not_found.
CREATE OR REPLACE FUNCTION credits.replay_stripe_event(p_id text)
RETURNS credits.stripe_event_result
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN credits._try_stripe_event(credits._lock_stripe_event(p_id), NULL);
END
$$;
COMMENT ON FUNCTION credits.replay_stripe_event(text) IS
'Applies a stored Stripe event again, which moves nothing twice. Raises MC001 invalid_request for one whose payload was pruned, MC004 not_found';
