-- credits.list_admin_actions: what administrators did to a user, newest first.
CREATE OR REPLACE FUNCTION credits.list_admin_actions(
    p_user_id text, p_limit integer DEFAULT 50, p_offset integer DEFAULT 0
)
RETURNS SETOF credits.recorded_action
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Ids are time-ordered, so that the primary key serves the order as well.
    RETURN QUERY
    SELECT
        a.id, a.user_id, a.admin_id, a.admin_name, a.action, a.reason, a.transaction_id, a.details,
        a.created_at
    FROM credits.admin_actions AS a
    WHERE a.user_id = p_user_id
    ORDER BY a.id DESC
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION credits.list_admin_actions(text, integer, integer) IS
'What administrators did to a user, newest first, and why';
