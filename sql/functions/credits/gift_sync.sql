-- credits.gift_sync: Cloud Sync on without charges until it is revoked; again is the same.
--
-- What a paying user has paid for stays his (paid_until), for the time after the gift. It is written
-- down who did it and why, unless it changes nothing; in psql the login is who.
--
-- Locks:  the subscription row.
-- Raises: MC001 invalid_request.
-- Replaces: credits.gift_sync(text)
CREATE OR REPLACE FUNCTION credits.gift_sync(
    p_user_id text,
    p_admin_id text DEFAULT NULL,
    p_admin_name text DEFAULT NULL,
    p_reason text DEFAULT NULL
)
RETURNS credits.sync_status
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now CONSTANT timestamptz := clock_timestamp();
BEGIN
    PERFORM credits._require_admin(
        coalesce(p_admin_id, session_user), coalesce(nullif(p_reason, ''), 'none'), NULL
    );
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
    IF found THEN
        PERFORM credits._write_action(
            p_user_id, credits._new_id(), coalesce(p_admin_id, session_user), p_admin_name,
            'gift_sync', p_reason, NULL, '{}', v_now
        );
    END IF;
    RETURN credits.get_sync_status(p_user_id);
END
$$;
COMMENT ON FUNCTION credits.gift_sync(text, text, text, text) IS
'Turns Cloud Sync on for a user, never charged, until revoke_sync_gift, and writes down who did it and why. Raises MC001 invalid_request';
