-- credits._lock_subscription: lock a user's Cloud Sync, making the row first for a new one.
--
-- Locks:  the subscription row, and for one that is new the user's balance row, lest he be erased
--         before the foreign key is checked; a caller that moves credits then takes it in any case.
-- Raises: MC001 invalid_request for what cannot be a user id.
CREATE OR REPLACE FUNCTION credits._lock_subscription(p_user_id text)
RETURNS credits.sync_subscriptions
LANGUAGE plpgsql
AS $$
DECLARE
    v_now          CONSTANT timestamptz := clock_timestamp();
    v_made         boolean := false;
    v_subscription credits.sync_subscriptions;
BEGIN
    LOOP
        SELECT * INTO v_subscription FROM credits.sync_subscriptions
        WHERE user_id = p_user_id
        FOR UPDATE;
        EXIT WHEN found;
        PERFORM credits._require_user_id(p_user_id);
        INSERT INTO credits.sync_subscriptions (user_id, price, created_at, updated_at)
        SELECT p_user_id, p.price, v_now, v_now
        FROM credits.sync_prices AS p
        WHERE p.billing_interval = 'monthly'
        ON CONFLICT (user_id) DO NOTHING;
        v_made := true;
    END LOOP;
    IF v_made THEN
        PERFORM credits._lock_balance(p_user_id);
    END IF;
    RETURN v_subscription;
END
$$;
COMMENT ON FUNCTION credits._lock_subscription(text) IS
'Locks a user''s subscription row, making it first, and returns it as it is once locked';
