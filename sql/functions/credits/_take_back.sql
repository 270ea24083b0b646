-- credits._take_back: make the credits taken from a purchase what its refunds and disputes say.
--
-- Locks: the payer's active gifts and balance row; the caller holds the purchase row.
CREATE OR REPLACE FUNCTION credits._take_back(p_purchase credits.purchases)
RETURNS credits.purchases
LANGUAGE plpgsql
AS $$
BEGIN
    IF p_purchase.transaction_id IS NULL THEN
        -- Nothing was given yet. When it is, what is kept by now is taken with it.
        RETURN p_purchase;
    END IF;
    PERFORM credits._lock_for_reversal(p_purchase);
    RETURN credits._settle_reversals(p_purchase, clock_timestamp());
END
$$;
COMMENT ON FUNCTION credits._take_back(credits.purchases) IS
'Locks what a reversal needs, and settles a purchase''s refunds and disputes';
