-- credits.gift_sync: Cloud Sync on without charges until it is revoked; again is the same.
--
-- What a paying user has paid for stays his (paid_until), for the time after the gift.
--
-- Locks:  the subscription row.
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits.gift_sync(p_user_id text)
RETURNS credits.sync_status
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now CONSTANT timestamptz := clock_timestamp();
BEGIN
    PERFORM credits._lock_subscription(p_user_id);
    UPDATE credits.sync_subscriptions SET
        active = true,
        gifted = true,
        next_charge_at = NULL,
        paused_at = NULL,
        retry_at = NULL,
        failures = 0,
        last_error = NULL,
        updated_at = v_now
    WHERE user_id = p_user_id AND NOT gifted;
    RETURN credits.get_sync_status(p_user_id);
END
$$;
COMMENT ON FUNCTION credits.gift_sync(text) IS
'Turns Cloud Sync on for a user, never charged, until revoke_sync_gift';
