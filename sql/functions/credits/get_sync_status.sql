-- credits.get_sync_status: Cloud Sync of a user; inactive and monthly for a user never seen.
CREATE OR REPLACE FUNCTION credits.get_sync_status(p_user_id text)
RETURNS credits.sync_status
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_status credits.sync_status;
BEGIN
    SELECT * INTO v_status FROM credits.get_sync_statuses(ARRAY[p_user_id]);
    RETURN v_status;
END
$$;
COMMENT ON FUNCTION credits.get_sync_status(text) IS
'Cloud Sync of a user: whether it is on, until when it is paid, what the next charge takes';
