-- credits._apply_payment_event: a PaymentIntent or a Checkout Session says where a payment stands.
--
-- Locks:  the payer's active gifts and balance row; the caller holds the purchase row.
-- Raises: MC001 invalid_request where the payment is not the one that was asked for.
CREATE OR REPLACE FUNCTION credits._apply_payment_event(
    p_purchase credits.purchases, p_type text, p_object jsonb, p_stripe_payment_intent_id text,
    p_created_at timestamptz
)
RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    v_is_session CONSTANT boolean := starts_with(p_type, 'checkout.session.');
    -- Only a session has it.
    v_email      CONSTANT text := p_object #>> '{customer_details,email}';
    v_purchase   credits.purchases;
BEGIN
    v_purchase := credits._follow_payment(
        p_purchase,
        p_stripe_payment_intent_id,
        CASE p_type
            WHEN 'payment_intent.succeeded' THEN 'succeeded'
            WHEN 'payment_intent.canceled' THEN 'canceled'
            WHEN 'payment_intent.processing' THEN 'processing'
            WHEN 'payment_intent.payment_failed' THEN 'requires_payment_method'
            -- A session is completed before a SEPA debit is paid; only paid counts.
            WHEN 'checkout.session.completed' THEN
                CASE p_object ->> 'payment_status' WHEN 'paid' THEN 'succeeded' ELSE 'processing' END
            WHEN 'checkout.session.async_payment_succeeded' THEN 'succeeded'
            WHEN 'checkout.session.async_payment_failed' THEN 'requires_payment_method'
            WHEN 'checkout.session.expired' THEN 'canceled'
        END,
        p_created_at,
        CASE
            WHEN v_is_session THEN p_object ->> 'amount_total' ELSE p_object ->> 'amount_received'
        END::bigint,
        p_object ->> 'currency',
        CASE
            WHEN p_type IN ('payment_intent.payment_failed', 'checkout.session.async_payment_failed')
                THEN coalesce(p_object #>> '{last_payment_error,message}', 'the payment failed')
            WHEN p_type = 'checkout.session.expired' THEN 'the checkout session expired'
        END
    );
    IF v_email IS NOT NULL THEN
        -- A foreign key leads from the address to the balance: without this lock first, the insert
        -- would take a weaker one on it, and whoever has the balance may wait for this purchase.
        PERFORM credits._lock_balance(p_purchase.user_id);
        PERFORM credits._remember_address(
            p_purchase.user_id, v_email, clock_timestamp(), p_replace => false
        );
    END IF;
    RETURN credits._purchase_outcome(p_purchase, v_purchase);
END
$$;
COMMENT ON FUNCTION credits._apply_payment_event(
    credits.purchases, text, jsonb, text, timestamptz
) IS 'Brings a purchase to where an event of its PaymentIntent or Checkout Session says it stands';
