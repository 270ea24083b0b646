-- credits._lock_subscription: lock a user's Cloud Sync, making the row first for a new one.
--
-- Locks:  the subscription row; a caller that moves credits then takes the user's balance row.
-- Raises: MC001 invalid_request for what cannot be a user id.
CREATE OR REPLACE FUNCTION credits._lock_subscription(p_user_id text)
RETURNS credits.sync_subscriptions
LANGUAGE plpgsql
AS $$
DECLARE
    v_now          CONSTANT timestamptz := clock_timestamp();
    v_subscription credits.sync_subscriptions;
BEGIN
    SELECT * INTO v_subscription FROM credits.sync_subscriptions
    WHERE user_id = p_user_id
    FOR UPDATE;
    IF NOT found THEN
        -- A subscription has a balance row; init_balance takes no lock on one that is there.
        PERFORM credits.init_balance(p_user_id);
        INSERT INTO credits.sync_subscriptions (user_id, price, created_at, updated_at)
        SELECT p_user_id, p.price, v_now, v_now
        FROM credits.sync_prices AS p
        WHERE p.billing_interval = 'monthly'
        ON CONFLICT (user_id) DO NOTHING;
        SELECT * INTO STRICT v_subscription FROM credits.sync_subscriptions
        WHERE user_id = p_user_id
        FOR UPDATE;
    END IF;
    RETURN v_subscription;
END
$$;
COMMENT ON FUNCTION credits._lock_subscription(text) IS
'Locks a user''s subscription row, making it first, and returns it as it is once locked';
