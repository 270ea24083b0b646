-- credits.get_sync_status: Cloud Sync of a user; inactive and monthly for a user never seen.
CREATE OR REPLACE FUNCTION credits.get_sync_status(p_user_id text)
RETURNS credits.sync_status
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_status credits.sync_status;
BEGIN
    SELECT
        s.user_id, s.active, s.billing_interval, s.price, s.next_charge_at, s.paid_until,
        s.paused_at, s.gifted
    INTO v_status
    FROM credits.sync_subscriptions AS s
    WHERE s.user_id = p_user_id;
    IF NOT found THEN
        SELECT
            p_user_id, false, p.billing_interval, p.price, NULL::timestamptz, NULL::timestamptz,
            NULL::timestamptz, false
        INTO v_status
        FROM credits.sync_prices AS p
        WHERE p.billing_interval = 'monthly';
    END IF;
    RETURN v_status;
END
$$;
COMMENT ON FUNCTION credits.get_sync_status(text) IS
'Cloud Sync of a user: whether it is on, until when it is paid, what the next charge takes';
