-- credits._follow_payment: bring a purchase to where Stripe says that its payment stands.
--
-- Words come in any order, and days late. Money that came in wins over everything, and the end of
-- a payment over its course; of the rest what Stripe said last wins, and in the same second the
-- failure, since it comes after the processing (sql/README.md, Where a payment stands).
--
-- p_said_at is when Stripe said so.
--
-- Locks:  the payer's active gifts and balance row when it completes; the caller holds the
--         purchase row.
-- Raises: MC001 invalid_request.
-- Replaces: credits._follow_payment(credits.purchases, text, text, bigint, text, text)
-- Replaces: credits._fail_purchase(credits.purchases, credits.purchase_status, text, timestamptz)
CREATE OR REPLACE FUNCTION credits._follow_payment(
    p_purchase credits.purchases, p_stripe_payment_intent_id text, p_stripe_status text,
    p_said_at timestamptz, p_received_euro_cents bigint, p_currency text, p_failure text
)
RETURNS credits.purchases
LANGUAGE plpgsql
AS $$
DECLARE
    -- Stripe's events know the second alone.
    v_said_at CONSTANT timestamptz := to_timestamp(floor(extract(epoch FROM p_said_at)));
    v_now     CONSTANT timestamptz := clock_timestamp();
    v_status  credits.purchase_status;
    v_failure text;
BEGIN
    IF p_stripe_status = 'succeeded' THEN
        RETURN credits._complete_purchase(
            p_purchase, p_stripe_payment_intent_id, v_said_at, p_received_euro_cents, p_currency
        );
    END IF;
    IF p_purchase.status NOT IN ('pending', 'failed')
        OR p_stripe_payment_intent_id <> p_purchase.stripe_payment_intent_id
    THEN
        RETURN p_purchase;
    END IF;

    CASE p_stripe_status
        WHEN 'canceled' THEN
            v_status := 'cancelled';
            v_failure := coalesce(p_failure, 'cancelled');
        WHEN 'processing' THEN
            -- Maybe another attempt at a payment that had failed; SEPA takes days to tell.
            IF v_said_at < p_purchase.stripe_status_at
                OR (v_said_at = p_purchase.stripe_status_at AND p_purchase.status = 'failed')
            THEN
                RETURN p_purchase;
            END IF;
            v_status := 'pending';
        ELSE
            -- The buyer has not paid yet. Where an attempt has failed, Stripe says why.
            IF p_failure IS NULL OR v_said_at < p_purchase.stripe_status_at THEN
                RETURN p_purchase;
            END IF;
            v_status := 'failed';
            v_failure := left(p_failure, 500);
    END CASE;
    UPDATE credits.purchases SET
        status = v_status,
        failure = v_failure,
        stripe_payment_intent_id = coalesce(stripe_payment_intent_id, p_stripe_payment_intent_id),
        stripe_status = p_stripe_status,
        stripe_status_at = v_said_at,
        check_at = CASE WHEN v_status <> 'cancelled' THEN check_at END,
        updated_at = v_now
    WHERE user_id = p_purchase.user_id AND id = p_purchase.id
    RETURNING * INTO STRICT p_purchase;
    RETURN p_purchase;
END
$$;
COMMENT ON FUNCTION credits._follow_payment(
    credits.purchases, text, text, timestamptz, bigint, text, text
) IS 'Brings a purchase to where Stripe''s PaymentIntent stood at p_said_at';
