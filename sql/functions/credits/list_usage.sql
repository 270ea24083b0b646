-- credits.list_usage: what a user's apps used in the last p_days days (UTC, today included).
CREATE OR REPLACE FUNCTION credits.list_usage(p_user_id text, p_days integer DEFAULT 30)
RETURNS SETOF credits.usage_day
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT s.day, s.app_id, s.credits_used, s.operations
    FROM credits.usage_stats AS s
    WHERE s.user_id = p_user_id
        AND s.day > (clock_timestamp() AT TIME ZONE 'UTC')::date - p_days
    ORDER BY s.day DESC, s.app_id;
END
$$;
COMMENT ON FUNCTION credits.list_usage(text, integer) IS
'Credits and debits per day (UTC) and app, newest day first; refunds are not subtracted';
