-- credits._find_purchase: the purchase that a payment at Stripe is for; a row of NULLs for none.
--
-- Without a lock: whoever wants one locks it by the user that stands in it. The metadata find a
-- purchase also before Stripe's answer with the payment's id has been written down.
CREATE OR REPLACE FUNCTION credits._find_purchase(p_stripe_payment_intent_id text, p_named text)
RETURNS credits.purchases
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_purchase credits.purchases;
BEGIN
    SELECT * INTO v_purchase FROM credits.purchases
    WHERE stripe_payment_intent_id = p_stripe_payment_intent_id;
    IF NOT found AND credits._is_uuid(p_named) THEN
        SELECT * INTO v_purchase FROM credits.purchases WHERE id = p_named::uuid;
    END IF;
    RETURN v_purchase;
END
$$;
COMMENT ON FUNCTION credits._find_purchase(text, text) IS
'Finds a purchase by its PaymentIntent or by the id in the metadata; a row of NULLs where there is none';
