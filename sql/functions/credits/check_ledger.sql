-- credits.check_ledger: check the money rules, over the whole database or for one user.
--
-- One row per violation; none means sound. STABLE is what makes it one look: everything is read
-- in the snapshot of the calling statement, so that moves under way are never taken for damage.
CREATE OR REPLACE FUNCTION credits.check_ledger(p_user_id text DEFAULT NULL)
RETURNS SETOF credits.violation
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT * FROM credits._check_users(p_user_id);
    RETURN QUERY SELECT * FROM credits._check_gifts(p_user_id);
    IF p_user_id IS NULL THEN
        RETURN QUERY SELECT * FROM credits._check_conservation();
    END IF;
END
$$;
COMMENT ON FUNCTION credits.check_ledger(text) IS
'Checks the money rules over the whole database, or for one user, and returns one row per violation; no row: sound. Changes nothing';
