-- credits.apply_stripe_refunds: what Stripe answered when it was asked for a payment's refunds.
--
-- charge.refunded says that something was refunded and names no refund (database.md, Purchases):
-- the event stays received until this brings them. Any number of times is the same.
--
-- Locks:  the event's row, then the purchase row, the payer's active gifts and balance row.
-- Raises: MC001 invalid_request, MC004 not_found.
CREATE OR REPLACE FUNCTION credits.apply_stripe_refunds(p_event_id text, p_refunds jsonb)
RETURNS credits.stripe_event_result
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM credits._require(
        jsonb_typeof(p_refunds) = 'array', 'refunds', 'must be a JSON array of Stripe''s refunds'
    );
    RETURN credits._try_stripe_event(credits._lock_stripe_event(p_event_id), p_refunds);
END
$$;
COMMENT ON FUNCTION credits.apply_stripe_refunds(text, jsonb) IS
'Applies the refunds (Stripe''s objects, as a JSON array) that a charge.refunded event is about. Raises MC001 invalid_request, MC004 not_found';
