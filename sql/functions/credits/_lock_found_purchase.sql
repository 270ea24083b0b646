-- credits._lock_found_purchase: lock a purchase that was found by Stripe's ids.
--
-- Its user may be erased while this waits; then it is the pseudonym's, for good.
--
-- Locks: the purchase row; a caller that moves credits then takes the payer's balance row.
CREATE OR REPLACE FUNCTION credits._lock_found_purchase(p_purchase credits.purchases)
RETURNS credits.purchases
LANGUAGE plpgsql
AS $$
DECLARE
    v_purchase credits.purchases;
BEGIN
    SELECT * INTO v_purchase FROM credits.purchases
    WHERE user_id = p_purchase.user_id AND id = p_purchase.id
    FOR UPDATE;
    IF NOT found THEN
        SELECT * INTO STRICT v_purchase FROM credits.purchases WHERE id = p_purchase.id;
        v_purchase := credits._lock_purchase(v_purchase.user_id, v_purchase.id);
    END IF;
    RETURN v_purchase;
END
$$;
COMMENT ON FUNCTION credits._lock_found_purchase(credits.purchases) IS
'Locks a purchase, also where its user was erased since it was found';
