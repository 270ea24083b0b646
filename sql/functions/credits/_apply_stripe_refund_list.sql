-- credits._apply_stripe_refund_list: the refunds that Stripe named when it was asked for them.
--
-- Locks:  the purchase row, the payer's active gifts, the payer's balance row.
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits._apply_stripe_refund_list(p_charge jsonb, p_refunds jsonb)
RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    v_purchase credits.purchases;
    v_refund   jsonb;
    v_outcome  text := 'nothing to do';
BEGIN
    v_purchase := credits._find_purchase(
        p_charge ->> 'payment_intent', p_charge #>> '{metadata,purchaseId}'
    );
    IF v_purchase.id IS NULL THEN
        RETURN NULL;
    END IF;
    FOR v_refund IN SELECT r.refund FROM jsonb_array_elements(p_refunds) AS r (refund) LOOP
        v_outcome := credits._apply_stripe_refund(
            credits._lock_found_purchase(v_purchase), v_refund,
            to_timestamp((v_refund ->> 'created')::double precision)
        );
    END LOOP;
    RETURN v_outcome;
END
$$;
COMMENT ON FUNCTION credits._apply_stripe_refund_list(jsonb, jsonb) IS
'Applies Stripe''s refund objects (a JSON array) to the purchase of a charge; null where it is none of ours';
