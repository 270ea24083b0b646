-- credits.activate_sync: turn Cloud Sync on, charging at once, and once also when calls race.
--
-- Locks:  the subscription row, then the user's balance row.
-- Raises: MC001 invalid_request, MC002 insufficient_credits, MC003 idempotency_key_reused,
--         MC008 sync_already_active, MC009 sync_already_gifted.
CREATE OR REPLACE FUNCTION credits.activate_sync(
    p_user_id text,
    p_interval credits.sync_interval DEFAULT 'monthly',
    p_email text DEFAULT NULL,
    p_id uuid DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL
)
RETURNS credits.sync_activation
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_subscription credits.sync_subscriptions;
    v_balance      credits.balances;
    v_call         credits.keyed_calls;
    v_activation   credits.sync_activation;
    v_now          timestamptz;
BEGIN
    v_subscription := credits._lock_subscription(p_user_id);
    v_balance := credits._lock_balance(p_user_id);
    IF v_subscription.last_call_id = p_id AND v_subscription.active THEN
        -- The same call, whose answer was lost on its way.
        RETURN ROW(
            v_subscription.billing_interval, v_subscription.next_charge_at,
            v_subscription.paid_until, v_subscription.last_call_charged,
            v_balance.balance - v_balance.reserved, false
        )::credits.sync_activation;
    END IF;
    v_call := credits._replayed_call(
        p_user_id, 'user', p_idempotency_key, 'activate_sync', p_interval::text
    );
    IF v_call.user_id IS NOT NULL THEN
        RETURN ROW(
            p_interval, (v_call.result ->> 'nextChargeAt')::timestamptz,
            (v_call.result ->> 'nextChargeAt')::timestamptz,
            (v_call.result ->> 'amountCharged')::bigint,
            v_balance.balance - v_balance.reserved, true
        )::credits.sync_activation;
    END IF;
    IF v_subscription.gifted THEN
        PERFORM credits._refuse_sync('MC009', 'Cloud Sync was gifted and is on');
    ELSIF v_subscription.active THEN
        PERFORM credits._refuse_sync('MC008', 'Cloud Sync is active already');
    END IF;

    v_now := clock_timestamp();
    v_activation := credits._activate_sync(v_subscription, p_interval, p_id, v_now);
    -- Behind the activation: a notice of the pause that it ends is not sent to the new address.
    PERFORM credits._remember_address(p_user_id, p_email, v_now);
    PERFORM credits._keep_call(
        p_user_id, 'user', p_idempotency_key, 'activate_sync', p_interval::text, v_now,
        jsonb_build_object(
            'nextChargeAt', credits._utc_text(v_activation.next_charge_at),
            'amountCharged', v_activation.amount_charged
        )
    );
    RETURN v_activation;
END
$$;
COMMENT ON FUNCTION credits.activate_sync(text, credits.sync_interval, text, uuid, text) IS
'Turns Cloud Sync on and charges a period, unless one is paid already (amount_charged 0). Raises MC002 insufficient_credits, MC003 idempotency_key_reused, MC008 sync_already_active, MC009 sync_already_gifted';
