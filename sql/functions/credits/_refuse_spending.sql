-- credits._refuse_spending: more than there is to spend.
--
-- Raises: MC002 insufficient_credits. It answers nothing, as _refuse_argument.
CREATE OR REPLACE FUNCTION credits._refuse_spending(p_balance credits.balances, p_amount bigint)
RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'insufficient credits' USING
        ERRCODE = 'MC002',
        DETAIL = json_build_object(
            'required', p_amount,
            -- A reversal may have made it negative; a caller has nothing then, not less.
            'available', greatest(p_balance.balance - p_balance.reserved, 0)
        );
END
$$;
COMMENT ON FUNCTION credits._refuse_spending(credits.balances, bigint) IS
'Raises MC002 insufficient_credits naming what is required and what can be spent';
