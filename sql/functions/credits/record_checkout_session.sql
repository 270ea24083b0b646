-- credits.record_checkout_session: Stripe has made the page on which a purchase is paid.
--
-- Locks:  the purchase row.
-- Raises: MC004 not_found.
CREATE OR REPLACE FUNCTION credits.record_checkout_session(
    p_user_id text,
    p_purchase_id uuid,
    p_stripe_checkout_session_id text,
    p_stripe_checkout_url text,
    p_stripe_customer_id text
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
    UPDATE credits.purchases SET
        stripe_checkout_session_id = p_stripe_checkout_session_id,
        stripe_checkout_url = p_stripe_checkout_url,
        stripe_customer_id = p_stripe_customer_id,
        status = CASE status WHEN 'failed' THEN 'pending' ELSE status END,
        failure = CASE status WHEN 'failed' THEN NULL ELSE failure END,
        updated_at = v_now
    WHERE user_id = p_user_id
        AND id = p_purchase_id
        AND stripe_checkout_url IS NULL
    RETURNING * INTO v_purchase;
    IF NOT found THEN
        v_purchase := credits._lock_purchase(p_user_id, p_purchase_id);
    END IF;
    RETURN credits._as_purchase(v_purchase, p_replayed => false);
END
$$;
COMMENT ON FUNCTION credits.record_checkout_session(text, uuid, text, text, text) IS
'Keeps Stripe''s Checkout Session of a purchase. Raises MC004 not_found';
