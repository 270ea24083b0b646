-- credits.get_sync_statuses: Cloud Sync of these users, one row for each place of the array, in its
-- order; inactive and monthly for a user never seen.
CREATE OR REPLACE FUNCTION credits.get_sync_statuses(p_user_ids text [])
RETURNS SETOF credits.sync_status
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT
        u.user_id,
        coalesce(s.active, false),
        coalesce(s.billing_interval, p.billing_interval),
        coalesce(s.price, p.price),
        s.next_charge_at,
        s.paid_until,
        s.paused_at,
        coalesce(s.gifted, false)
    FROM unnest(p_user_ids) WITH ORDINALITY AS u (user_id, place)
    LEFT JOIN credits.sync_subscriptions AS s ON s.user_id = u.user_id
    CROSS JOIN credits.sync_prices AS p
    WHERE p.billing_interval = 'monthly'
    ORDER BY u.place;
END
$$;
COMMENT ON FUNCTION credits.get_sync_statuses(text []) IS
'Cloud Sync of these users, in the order of the array: whether it is on, until when it is paid, what the next charge takes';
