-- credits.fail_purchase: Stripe could not be asked for a purchase's payment.
--
-- Locks:  the purchase row.
-- Raises: MC004 not_found.
CREATE OR REPLACE FUNCTION credits.fail_purchase(
    p_user_id text, p_purchase_id uuid, p_failure text
)
RETURNS credits.purchase
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now      CONSTANT timestamptz := clock_timestamp();
    v_purchase credits.purchases;
BEGIN
    v_purchase := credits._lock_purchase(p_user_id, p_purchase_id);
    -- Of two calls with one key, the other may have reached Stripe: then there is a payment.
    IF v_purchase.stripe_payment_intent_id IS NULL AND v_purchase.stripe_checkout_session_id IS NULL THEN
        UPDATE credits.purchases SET
            status = 'failed',
            failure = left(p_failure, 500),
            updated_at = v_now
        WHERE user_id = p_user_id AND id = p_purchase_id AND status IN ('pending', 'failed')
        RETURNING * INTO v_purchase;
        IF NOT found THEN
            v_purchase := credits._lock_purchase(p_user_id, p_purchase_id);
        END IF;
    END IF;
    RETURN credits._as_purchase(v_purchase, p_replayed => false);
END
$$;
COMMENT ON FUNCTION credits.fail_purchase(text, uuid, text) IS
'Marks a purchase for which Stripe made no payment as failed; with its key it is resumed. Raises MC004 not_found';
