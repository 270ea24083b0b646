-- credits.change_sync_interval: another interval and its price, from the next charge on.
--
-- Locks:  the subscription row.
-- Raises: MC001 invalid_request, MC010 sync_not_active, MC011 sync_gifted.
CREATE OR REPLACE FUNCTION credits.change_sync_interval(
    p_user_id text, p_interval credits.sync_interval
)
RETURNS credits.interval_change
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now          CONSTANT timestamptz := clock_timestamp();
    v_price        CONSTANT credits.sync_prices := credits._sync_price(p_interval);
    v_subscription credits.sync_subscriptions;
BEGIN
    v_subscription := credits._lock_subscription(p_user_id);
    IF v_subscription.gifted THEN
        PERFORM credits._refuse_sync('MC011', 'Cloud Sync was gifted');
    ELSIF NOT v_subscription.active THEN
        PERFORM credits._refuse_sync('MC010', 'Cloud Sync is not active');
    END IF;

    UPDATE credits.sync_subscriptions SET
        billing_interval = p_interval,
        price = v_price.price,
        updated_at = v_now
    WHERE user_id = p_user_id;
    RETURN ROW(p_interval, v_price.price, v_subscription.next_charge_at)::credits.interval_change;
END
$$;
COMMENT ON FUNCTION credits.change_sync_interval(text, credits.sync_interval) IS
'Changes the interval and price from the next charge on; charges nothing now. Raises MC010 sync_not_active, MC011 sync_gifted';
