-- credits._apply_stripe_event: what a Stripe event means for a purchase.
--
-- outcome is a word for what it did, null where it is not about a purchase of ours; then
-- may_become_ours tells that the payment may be one that is written down later. needs_refunds_of
-- names the PaymentIntent whose refunds Stripe is to be asked for: charge.refunded names none.
--
-- Locks:  the purchase row, the payer's active gifts, the payer's balance row.
-- Raises: MC001 invalid_request where the payment is not the one that was asked for.
-- Replaces: credits._apply_stripe_event(text, jsonb)
CREATE OR REPLACE FUNCTION credits._apply_stripe_event(
    p_type text, p_object jsonb, p_created_at timestamptz,
    OUT outcome text, OUT may_become_ours boolean, OUT needs_refunds_of text
)
LANGUAGE plpgsql
AS $$
DECLARE
    v_is_payment CONSTANT boolean := p_type IN (
        'payment_intent.succeeded', 'payment_intent.payment_failed', 'payment_intent.canceled',
        'payment_intent.processing', 'checkout.session.completed',
        'checkout.session.async_payment_succeeded', 'checkout.session.async_payment_failed',
        'checkout.session.expired'
    );
    v_is_refund  CONSTANT boolean := p_type IN (
        'refund.created', 'refund.updated', 'refund.failed', 'charge.refund.updated'
    );
    v_is_dispute CONSTANT boolean := p_type IN (
        'charge.dispute.created', 'charge.dispute.updated', 'charge.dispute.funds_withdrawn',
        'charge.dispute.funds_reinstated', 'charge.dispute.closed'
    );
    -- In a PaymentIntent it is the id; everything else names it.
    v_intent_id  CONSTANT text := CASE
        WHEN starts_with(p_type, 'payment_intent.') THEN p_object ->> 'id'
        ELSE p_object ->> 'payment_intent'
    END;
    v_named      CONSTANT text := p_object #>> '{metadata,purchaseId}';
    v_purchase   credits.purchases;
BEGIN
    may_become_ours := false;
    IF NOT (v_is_payment OR v_is_refund OR v_is_dispute OR p_type = 'charge.refunded') THEN
        RETURN;
    END IF;
    -- The user first, without a lock, since every lock names him.
    v_purchase := credits._find_purchase(v_intent_id, v_named);
    IF v_purchase.id IS NULL THEN
        -- A refund or a dispute carries no metadata of ours: it may be about a purchase whose
        -- payment's id is not written down yet.
        may_become_ours := credits._is_uuid(v_named)
            OR (NOT v_is_payment AND v_intent_id IS NOT NULL);
        RETURN;
    END IF;
    v_purchase := credits._lock_found_purchase(v_purchase);
    CASE
        WHEN v_is_payment THEN
            outcome := credits._apply_payment_event(
                v_purchase, p_type, p_object, v_intent_id, p_created_at
            );
        WHEN v_is_refund THEN
            outcome := credits._apply_stripe_refund(v_purchase, p_object, p_created_at);
        WHEN v_is_dispute THEN
            outcome := credits._apply_stripe_dispute(v_purchase, p_type, p_object, p_created_at);
        ELSE
            outcome := 'refunds to be asked for';
            needs_refunds_of := v_intent_id;
    END CASE;
END
$$;
COMMENT ON FUNCTION credits._apply_stripe_event(text, jsonb, timestamptz) IS
'Applies a Stripe event to the purchase it is about; outcome is null where there is none';
