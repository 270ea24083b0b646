-- credits.activate_sync: turn Cloud Sync on, charging at once, and once also when calls race.
--
-- Locks:  the subscription row, then the user's balance row.
-- Raises: MC001 invalid_request, MC002 insufficient_credits, MC008 sync_already_active,
--         MC009 sync_already_gifted.
CREATE OR REPLACE FUNCTION credits.activate_sync(
    p_user_id text,
    p_interval credits.sync_interval DEFAULT 'monthly',
    p_email text DEFAULT NULL,
    p_id uuid DEFAULT NULL
)
RETURNS credits.sync_activation
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_subscription credits.sync_subscriptions;
    v_balance      credits.balance_summary;
    v_now          timestamptz;
BEGIN
    v_subscription := credits._lock_subscription(p_user_id);
    IF v_subscription.last_call_id = p_id AND v_subscription.active THEN
        -- The same call, whose answer was lost on its way.
        v_balance := credits.get_balance(p_user_id);
        RETURN ROW(
            v_subscription.billing_interval, v_subscription.next_charge_at,
            v_subscription.paid_until, v_subscription.last_call_charged, v_balance.available
        )::credits.sync_activation;
    ELSIF v_subscription.gifted THEN
        PERFORM credits._refuse_sync('MC009', 'Cloud Sync was gifted and is on');
    ELSIF v_subscription.active THEN
        PERFORM credits._refuse_sync('MC008', 'Cloud Sync is active already');
    END IF;

    v_now := clock_timestamp();
    PERFORM credits._remember_address(p_user_id, p_email, v_now);
    RETURN credits._activate_sync(v_subscription, p_interval, p_id, v_now);
END
$$;
COMMENT ON FUNCTION credits.activate_sync(text, credits.sync_interval, text, uuid) IS
'Turns Cloud Sync on and charges a period, unless one is paid already (amount_charged 0). Raises MC002 insufficient_credits, MC008 sync_already_active, MC009 sync_already_gifted';
