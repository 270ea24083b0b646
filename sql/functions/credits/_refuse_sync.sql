-- credits._refuse_sync: Cloud Sync is not in the state that a call needs.
--
-- Raises: the given SQLSTATE.
CREATE OR REPLACE FUNCTION credits._refuse_sync(p_sqlstate text, p_message text)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION '%', p_message USING ERRCODE = p_sqlstate, DETAIL = '{}';
END
$$;
COMMENT ON FUNCTION credits._refuse_sync(text, text) IS
'Raises one of the errors of Cloud Sync, MC008 to MC012';
