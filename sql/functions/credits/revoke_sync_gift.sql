-- credits.revoke_sync_gift: end a gifted Cloud Sync. It is off then; a user who had paid activates
-- again without a charge until paid_until. It is written down who did it and why; in psql the login
-- is who.
--
-- Locks:  the subscription row.
-- Raises: MC001 invalid_request, MC012 sync_not_gifted.
-- Replaces: credits.revoke_sync_gift(text, uuid)
CREATE OR REPLACE FUNCTION credits.revoke_sync_gift(
    p_user_id text,
    p_id uuid DEFAULT NULL,
    p_admin_id text DEFAULT NULL,
    p_admin_name text DEFAULT NULL,
    p_reason text DEFAULT NULL
)
RETURNS credits.sync_status
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now          CONSTANT timestamptz := clock_timestamp();
    v_subscription credits.sync_subscriptions;
BEGIN
    PERFORM credits._require_admin(
        coalesce(p_admin_id, session_user), coalesce(nullif(p_reason, ''), 'none'), NULL
    );
    v_subscription := credits._lock_subscription(p_user_id);
    IF v_subscription.last_call_id = p_id AND NOT v_subscription.gifted THEN
        RETURN credits.get_sync_status(p_user_id);
    ELSIF NOT v_subscription.gifted THEN
        PERFORM credits._refuse_sync('MC012', 'Cloud Sync is not gifted');
    END IF;

    UPDATE credits.sync_subscriptions SET
        active = false,
        gifted = false,
        last_call_id = p_id,
        last_call_charged = 0,
        updated_at = v_now
    WHERE user_id = p_user_id;
    PERFORM credits._write_action(
        p_user_id, credits._new_id(), coalesce(p_admin_id, session_user), p_admin_name,
        'revoke_sync_gift', p_reason, NULL, '{}', v_now
    );
    RETURN credits.get_sync_status(p_user_id);
END
$$;
COMMENT ON FUNCTION credits.revoke_sync_gift(text, uuid, text, text, text) IS
'Ends a gifted Cloud Sync; it is off then, and it is written down who did it and why. Raises MC001 invalid_request, MC012 sync_not_gifted';
