-- credits.follow_payment: what Stripe answered when it was asked about a purchase.
--
-- The answer is of this moment: what Stripe said before it is known to be over.
--
-- Locks:  the purchase row, the payer's active gifts, the payer's balance row.
-- Raises: MC001 invalid_request (another amount, currency or payment), MC004 not_found.
CREATE OR REPLACE FUNCTION credits.follow_payment(
    p_user_id text,
    p_purchase_id uuid,
    p_stripe_payment_intent_id text,
    p_stripe_status text,
    p_received_euro_cents bigint,
    p_currency text,
    p_failure text DEFAULT NULL
)
RETURNS credits.purchase
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN credits._as_purchase(
        credits._follow_payment(
            credits._lock_purchase(p_user_id, p_purchase_id), p_stripe_payment_intent_id,
            p_stripe_status, clock_timestamp(), p_received_euro_cents, p_currency, p_failure
        ),
        p_replayed => false
    );
END
$$;
COMMENT ON FUNCTION credits.follow_payment(text, uuid, text, text, bigint, text, text) IS
'Brings a purchase to the state of its PaymentIntent (Stripe''s status, money received in euro cents). Raises MC001 invalid_request, MC004 not_found';
