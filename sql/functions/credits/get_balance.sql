-- credits.get_balance: what a user has, in credits; zeros for a user never seen.
CREATE OR REPLACE FUNCTION credits.get_balance(p_user_id text)
RETURNS credits.balance_summary
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_summary credits.balance_summary;
BEGIN
    SELECT
        b.user_id, b.balance - b.reserved, b.reserved, b.total_earned, b.total_spent, b.last_seq,
        b.version, b.created_at, b.updated_at
    INTO v_summary
    FROM credits.balances AS b
    WHERE b.user_id = p_user_id;
    IF NOT found THEN
        RETURN ROW(p_user_id, 0, 0, 0, 0, 0, 0, NULL, NULL)::credits.balance_summary;
    END IF;
    RETURN v_summary;
END
$$;
COMMENT ON FUNCTION credits.get_balance(text) IS
'What a user has: available is what can be spent, reserved what open reservations hold; zeros for a user never seen';
