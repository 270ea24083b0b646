-- credits._apply_stripe_event: what a Stripe event means for a purchase.
--
-- Returns a word for what it did, or null where it is not about a purchase of ours.
--
-- Locks:  the purchase row, then the user's balance row.
-- Raises: MC001 invalid_request where the payment is not the one that was asked for.
CREATE OR REPLACE FUNCTION credits._apply_stripe_event(p_type text, p_object jsonb)
RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    v_is_session CONSTANT boolean := starts_with(p_type, 'checkout.session.');
    v_intent_id  CONSTANT text := CASE
        WHEN v_is_session THEN p_object ->> 'payment_intent' ELSE p_object ->> 'id'
    END;
    v_named      CONSTANT text := p_object #>> '{metadata,purchaseId}';
    v_user_id    text;
    v_id         uuid;
    v_purchase   credits.purchases;
    v_before     credits.purchases;
BEGIN
    IF p_type NOT IN (
        'payment_intent.succeeded', 'payment_intent.payment_failed', 'payment_intent.canceled',
        'payment_intent.processing', 'checkout.session.completed',
        'checkout.session.async_payment_succeeded', 'checkout.session.async_payment_failed',
        'checkout.session.expired'
    ) THEN
        RETURN NULL;
    END IF;

    -- The user first, without a lock, since every lock names him. The metadata find a purchase
    -- also before Stripe's answer with the payment's id has been written down.
    SELECT user_id, id INTO v_user_id, v_id FROM credits.purchases
    WHERE stripe_payment_intent_id = v_intent_id;
    IF NOT found AND pg_catalog.lower(v_named) ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
        SELECT user_id, id INTO v_user_id, v_id FROM credits.purchases WHERE id = v_named::uuid;
    END IF;
    IF v_id IS NULL THEN
        RETURN NULL;
    END IF;
    v_before := credits._lock_purchase(v_user_id, v_id);

    IF v_is_session THEN
        -- A foreign key leads from the address to the balance: without this lock first, the insert
        -- would take a weaker one on it, and wait for the stronger one later.
        PERFORM credits._lock_balance(v_user_id);
        INSERT INTO credits.contacts (user_id, email, updated_at)
        SELECT v_user_id, e.email, clock_timestamp()
        FROM (SELECT p_object #>> '{customer_details,email}' AS email) AS e
        WHERE e.email LIKE '%_@_%' AND char_length(e.email) <= 254
        ON CONFLICT (user_id) DO NOTHING;
    END IF;

    v_purchase := credits._follow_payment(
        v_before,
        v_intent_id,
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
    RETURN CASE
        WHEN v_purchase.status IS NOT DISTINCT FROM v_before.status THEN 'nothing to do'
        ELSE 'purchase ' || v_purchase.status::text
    END;
END
$$;
COMMENT ON FUNCTION credits._apply_stripe_event(text, jsonb) IS
'Applies a Stripe event to the purchase it is about; null where there is none';
