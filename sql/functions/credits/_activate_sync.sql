-- credits._activate_sync: turn Cloud Sync on, as of a given time.
--
-- Locks: the user's balance row, when it charges; the caller holds the subscription row.
CREATE OR REPLACE FUNCTION credits._activate_sync(
    p_subscription credits.sync_subscriptions, p_interval credits.sync_interval, p_id uuid,
    p_now timestamptz
)
RETURNS credits.sync_activation
LANGUAGE plpgsql
AS $$
DECLARE
    v_price   CONSTANT credits.sync_prices := credits._sync_price(p_interval);
    v_balance credits.balances;
    v_next_at timestamptz;
BEGIN
    v_balance := credits._lock_balance(p_subscription.user_id);

    IF p_subscription.paid_until > p_now THEN
        -- The period is paid already: it goes on, and the interval holds from its end on.
        UPDATE credits.sync_subscriptions SET
            active = true,
            billing_interval = p_interval,
            price = v_price.price,
            next_charge_at = p_subscription.paid_until,
            paused_at = NULL,
            last_call_id = p_id,
            last_call_charged = 0,
            updated_at = p_now
        WHERE user_id = p_subscription.user_id;
        RETURN ROW(
            p_interval, p_subscription.paid_until, p_subscription.paid_until, 0,
            v_balance.balance - v_balance.reserved, false
        )::credits.sync_activation;
    END IF;

    PERFORM credits._require_available(v_balance, v_price.price);
    v_next_at := credits._utc_add(p_now, make_interval(months => v_price.months));
    PERFORM credits._record_move(
        ROW(
            p_subscription.user_id, p_id, 'usage', 'system', -v_price.price, 'sync',
            format('Cloud Sync (%s)', p_interval),
            credits._charge_metadata(p_interval, p_now, v_next_at, 0), NULL,
            'sync:' || p_subscription.periods + 1
        )::credits.new_move,
        p_now
    );
    UPDATE credits.sync_subscriptions SET
        active = true,
        billing_interval = p_interval,
        price = v_price.price,
        periods = periods + 1,
        anchor_at = p_now,
        next_charge_month = v_price.months,
        next_charge_at = v_next_at,
        paid_until = v_next_at,
        paused_at = NULL,
        retry_at = NULL,
        failures = 0,
        last_error = NULL,
        last_call_id = p_id,
        last_call_charged = v_price.price,
        updated_at = p_now
    WHERE user_id = p_subscription.user_id;
    RETURN ROW(
        p_interval, v_next_at, v_next_at, v_price.price,
        v_balance.balance - v_balance.reserved - v_price.price, false
    )::credits.sync_activation;
END
$$;
COMMENT ON FUNCTION credits._activate_sync(
    credits.sync_subscriptions, credits.sync_interval, uuid, timestamptz
) IS 'Turns Cloud Sync on at p_now: charges a new period, or goes on in one that is paid';
