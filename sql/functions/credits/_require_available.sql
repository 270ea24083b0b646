-- credits._require_available: refuse to spend or hold what is not there.
--
-- One expression, as _require_amount.
--
-- Needs:  the balance row is locked.
-- Raises: MC002 insufficient_credits.
--
-- Replaces: credits._require_available(credits.balances, bigint)
CREATE OR REPLACE FUNCTION credits._require_available(p_balance credits.balances, p_amount bigint)
RETURNS boolean
LANGUAGE sql
AS $$
    SELECT CASE
        WHEN credits._can_spend(p_balance.balance, p_balance.reserved, p_amount) THEN true
        ELSE credits._refuse_spending(p_balance, p_amount)
    END
$$;
COMMENT ON FUNCTION credits._require_available(credits.balances, bigint) IS
'True where the amount can be spent; else it raises MC002 insufficient_credits';
