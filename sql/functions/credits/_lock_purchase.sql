-- credits._lock_purchase: lock a user's purchase, and return it as it is once locked.
--
-- Locks:  the purchase row; a caller that moves credits then takes the user's balance row.
-- Raises: MC004 not_found, also for another user's purchase.
CREATE OR REPLACE FUNCTION credits._lock_purchase(p_user_id text, p_purchase_id uuid)
RETURNS credits.purchases
LANGUAGE plpgsql
AS $$
DECLARE
    v_purchase credits.purchases;
BEGIN
    SELECT * INTO v_purchase FROM credits.purchases
    WHERE user_id = p_user_id AND id = p_purchase_id
    FOR UPDATE;
    IF NOT found THEN
        PERFORM credits._refuse_missing('purchase');
    END IF;
    RETURN v_purchase;
END
$$;
COMMENT ON FUNCTION credits._lock_purchase(text, uuid) IS
'Locks a user''s purchase; raises MC004 not_found';
