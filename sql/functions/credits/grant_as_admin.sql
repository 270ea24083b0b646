-- credits.grant_as_admin: an administrator gives a user credits, and it is written down why.
--
-- Locks:  the user's balance row.
-- Raises: MC001 invalid_request, MC003 idempotency_key_reused.
CREATE OR REPLACE FUNCTION credits.grant_as_admin(
    p_user_id text,
    p_amount bigint,
    p_reason text,
    p_admin_id text,
    p_admin_name text DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL,
    p_id uuid DEFAULT NULL
)
RETURNS credits.move
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_balance credits.balances;
    v_move    credits.move;
    v_now     timestamptz;
BEGIN
    PERFORM credits._require_amount(p_amount);
    PERFORM credits._require_admin(p_admin_id, p_reason, p_idempotency_key);
    v_balance := credits._lock_balance(p_user_id);

    v_move := credits._replayed_action(
        v_balance, p_id, p_admin_id, p_idempotency_key, 'grant', p_amount, NULL
    );
    IF v_move.id IS NOT NULL THEN
        RETURN v_move;
    END IF;

    v_now := clock_timestamp();
    -- The reason is for those who look after it; the user reads his ledger.
    v_move := credits._record_move(
        ROW(
            p_user_id, p_id, 'grant', 'system', p_amount, 'system', 'Granted by support',
            NULL, NULL, credits._admin_key(p_admin_id, p_idempotency_key)
        )::credits.new_move,
        v_now
    );
    PERFORM credits._write_action(
        p_user_id, v_move.id, p_admin_id, p_admin_name, 'grant', p_reason, v_move.id,
        jsonb_build_object('amount', p_amount, 'idempotencyKey', p_idempotency_key), v_now
    );
    RETURN v_move;
END
$$;
COMMENT ON FUNCTION credits.grant_as_admin(text, bigint, text, text, text, text, uuid) IS
'Grants credits in the name of an administrator, and writes down who and why. The same key of the same administrator again returns the first grant (replayed). Raises MC001 invalid_request, MC003 idempotency_key_reused';
