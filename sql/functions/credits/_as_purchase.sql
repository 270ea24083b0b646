-- credits._as_purchase: a purchase as its buyer sees it.
--
-- A pending one says in its metadata that the money is on its way (SEPA takes days), so that
-- nobody pays once more.
CREATE OR REPLACE FUNCTION credits._as_purchase(p_purchase credits.purchases, p_replayed boolean)
RETURNS credits.purchase
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN ROW(
        p_purchase.id, p_purchase.user_id, p_purchase.package_id,
        (SELECT k.name FROM credits.packages AS k WHERE k.id = p_purchase.package_id),
        p_purchase.credits, p_purchase.price_euro_cents, p_purchase.status, p_purchase.failure,
        p_purchase.stripe_customer_id, p_purchase.stripe_payment_intent_id,
        p_purchase.stripe_checkout_session_id, p_purchase.stripe_checkout_url,
        p_purchase.success_url, p_purchase.cancel_url,
        CASE
            WHEN p_purchase.status = 'pending' AND p_purchase.stripe_status = 'processing'
                THEN coalesce(p_purchase.metadata, '{}') || '{"payment": "processing"}'
            ELSE p_purchase.metadata
        END,
        p_purchase.created_at, p_purchase.completed_at, p_replayed
    )::credits.purchase;
END
$$;
COMMENT ON FUNCTION credits._as_purchase(credits.purchases, boolean) IS
'Puts a purchase into the type that functions return';
