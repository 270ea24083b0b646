-- credits.deactivate_sync: turn Cloud Sync off at once; nothing is refunded, a pause is cleared.
--
-- What was paid for stays: activating again before paid_until charges nothing.
--
-- Locks:  the subscription row.
-- Raises: MC010 sync_not_active, MC011 sync_gifted.
CREATE OR REPLACE FUNCTION credits.deactivate_sync(p_user_id text, p_id uuid DEFAULT NULL)
RETURNS credits.sync_status
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now          CONSTANT timestamptz := clock_timestamp();
    v_subscription credits.sync_subscriptions;
BEGIN
    v_subscription := credits._lock_subscription(p_user_id);
    IF v_subscription.last_call_id = p_id AND NOT v_subscription.active THEN
        RETURN credits.get_sync_status(p_user_id);
    ELSIF v_subscription.gifted THEN
        PERFORM credits._refuse_sync('MC011', 'Cloud Sync was gifted');
    ELSIF NOT v_subscription.active AND v_subscription.paused_at IS NULL THEN
        PERFORM credits._refuse_sync('MC010', 'Cloud Sync is not active');
    END IF;

    UPDATE credits.sync_subscriptions SET
        active = false,
        next_charge_at = NULL,
        paused_at = NULL,
        retry_at = NULL,
        failures = 0,
        last_error = NULL,
        last_call_id = p_id,
        last_call_charged = 0,
        updated_at = v_now
    WHERE user_id = p_user_id;
    RETURN credits.get_sync_status(p_user_id);
END
$$;
COMMENT ON FUNCTION credits.deactivate_sync(text, uuid) IS
'Turns Cloud Sync off, or clears its pause; refunds nothing. Raises MC010 sync_not_active, MC011 sync_gifted';
