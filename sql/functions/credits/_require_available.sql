-- credits._require_available: nothing is spent or held that is not there (database.md, rule 3).
--
-- Needs:  the balance row is locked.
-- Raises: MC002 insufficient_credits.
CREATE OR REPLACE FUNCTION credits._require_available(p_balance credits.balances, p_amount bigint)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_available CONSTANT bigint := p_balance.balance - p_balance.reserved;
BEGIN
    IF v_available < p_amount THEN
        RAISE EXCEPTION 'insufficient credits' USING
            ERRCODE = 'MC002',
            -- A reversal may have made it negative; a caller has nothing then, not less.
            DETAIL = json_build_object('required', p_amount, 'available', greatest(v_available, 0));
    END IF;
END
$$;
COMMENT ON FUNCTION credits._require_available(credits.balances, bigint) IS
'Raises MC002 insufficient_credits unless the amount can be spent';
