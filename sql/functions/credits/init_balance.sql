-- credits.init_balance: make a user known; calling again changes nothing.
--
-- Locks:  none but the new row's.
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits.init_balance(p_user_id text)
RETURNS credits.balance_summary
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM credits._require_user_id(p_user_id);
    INSERT INTO credits.balances (user_id, created_at, updated_at)
    VALUES (p_user_id, clock_timestamp(), clock_timestamp())
    ON CONFLICT (user_id) DO NOTHING;
    RETURN credits.get_balance(p_user_id);
END
$$;
COMMENT ON FUNCTION credits.init_balance(text) IS
'Makes the balance row of a user if there is none, and returns what he has';
