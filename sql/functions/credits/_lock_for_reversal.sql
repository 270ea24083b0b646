-- credits._lock_for_reversal: lock what taking credits back from a payer may touch.
--
-- His active gifts come before his balance in the lock order, but whether they are needed is known
-- for certain only once the balance is locked. So they are locked first where they may be needed;
-- should that look have been wrong, gifts._cancel_for refuses, and the transaction begins again.
--
-- Locks: the payer's active gifts by id, then the payer's balance row; the caller holds the purchase.
CREATE OR REPLACE FUNCTION credits._lock_for_reversal(p_purchase credits.purchases)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF EXISTS (
            SELECT 1 FROM credits.stripe_refunds
            WHERE user_id = p_purchase.user_id AND purchase_id = p_purchase.id
            UNION ALL
            SELECT 1 FROM credits.stripe_disputes
            WHERE user_id = p_purchase.user_id AND purchase_id = p_purchase.id
        )
        AND EXISTS (
            SELECT 1 FROM credits.balances
            WHERE user_id = p_purchase.user_id AND balance - reserved < p_purchase.credits
        )
    THEN
        PERFORM 1 FROM gifts.gift_codes
        WHERE creator_id = p_purchase.user_id AND status = 'active'
        ORDER BY id
        FOR UPDATE;
    END IF;
    PERFORM credits._lock_balance(p_purchase.user_id);
END
$$;
COMMENT ON FUNCTION credits._lock_for_reversal(credits.purchases) IS
'Locks the payer''s active gifts, where they may be needed, and his balance';
