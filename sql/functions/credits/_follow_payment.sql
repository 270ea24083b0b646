-- credits._follow_payment: bring a purchase to where Stripe says that its payment stands.
--
-- A failure that arrives after the success changes nothing; a success after a failure completes.
--
-- Locks:  the user's balance row when it completes; the caller holds the purchase row.
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits._follow_payment(
    p_purchase credits.purchases, p_stripe_payment_intent_id text, p_stripe_status text,
    p_received_euro_cents bigint, p_currency text, p_failure text
)
RETURNS credits.purchases
LANGUAGE plpgsql
AS $$
DECLARE
    v_now timestamptz;
BEGIN
    CASE p_stripe_status
        WHEN 'succeeded' THEN
            RETURN credits._complete_purchase(
                p_purchase, p_stripe_payment_intent_id, p_received_euro_cents, p_currency
            );
        WHEN 'canceled' THEN
            RETURN credits._fail_purchase(
                p_purchase, 'cancelled', coalesce(p_failure, 'cancelled'), clock_timestamp()
            );
        WHEN 'processing' THEN
            -- Another attempt at a payment that had failed; SEPA takes days to tell.
            IF p_purchase.status = 'failed' THEN
                v_now := clock_timestamp();
                UPDATE credits.purchases SET status = 'pending', failure = NULL, updated_at = v_now
                WHERE user_id = p_purchase.user_id AND id = p_purchase.id
                RETURNING * INTO STRICT p_purchase;
            END IF;
            RETURN p_purchase;
        ELSE
            -- The buyer has not paid yet. Where an attempt has failed, Stripe says why.
            IF p_failure IS NOT NULL THEN
                RETURN credits._fail_purchase(p_purchase, 'failed', p_failure, clock_timestamp());
            END IF;
            RETURN p_purchase;
    END CASE;
END
$$;
COMMENT ON FUNCTION credits._follow_payment(credits.purchases, text, text, bigint, text, text) IS
'Brings a purchase to where Stripe''s PaymentIntent stands';
