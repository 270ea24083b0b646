-- credits.get_balance: what a user has, in credits; zeros for a user never seen.
CREATE OR REPLACE FUNCTION credits.get_balance(p_user_id text)
RETURNS credits.balance_summary
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_summary credits.balance_summary;
BEGIN
    SELECT * INTO v_summary FROM credits.get_balances(ARRAY[p_user_id]);
    RETURN v_summary;
END
$$;
COMMENT ON FUNCTION credits.get_balance(text) IS
'What a user has: available is what can be spent, reserved what open reservations hold; zeros for a user never seen';
