-- credits.refund_as_admin: an administrator gives a debit back, or a part of it, and it is written
-- down why.
--
-- Locks:  the user's balance row.
-- Keeps:  all refunds that name a debit together never exceed it.
-- Raises: MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found.
CREATE OR REPLACE FUNCTION credits.refund_as_admin(
    p_user_id text,
    p_transaction_id uuid,
    p_reason text,
    p_admin_id text,
    p_admin_name text DEFAULT NULL,
    p_amount bigint DEFAULT NULL,
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
    v_refund  record;
    v_now     timestamptz;
BEGIN
    IF p_amount IS NOT NULL THEN
        PERFORM credits._require_amount(p_amount);
    END IF;
    PERFORM credits._require_admin(p_admin_id, p_reason, p_idempotency_key);
    v_balance := credits._lock_balance(p_user_id);

    v_move := credits._replayed_action(
        v_balance, p_id, p_admin_id, p_idempotency_key, 'refund', p_amount, p_transaction_id
    );
    IF v_move.id IS NOT NULL THEN
        RETURN v_move;
    END IF;

    SELECT * INTO v_refund FROM credits._refund_debit(p_user_id, p_transaction_id, p_amount);
    v_now := clock_timestamp();
    v_move := credits._record_move(
        ROW(
            p_user_id, p_id, 'refund', 'system', v_refund.amount, v_refund.app_id,
            'Refunded by support', NULL, p_transaction_id,
            credits._admin_key(p_admin_id, p_idempotency_key)
        )::credits.new_move,
        v_now
    );
    PERFORM credits._write_action(
        p_user_id, v_move.id, p_admin_id, p_admin_name, 'refund', p_reason, v_move.id,
        jsonb_build_object(
            'amount', v_refund.amount, 'debitId', p_transaction_id, 'rest', p_amount IS NULL,
            'idempotencyKey', p_idempotency_key
        ),
        v_now
    );
    RETURN v_move;
END
$$;
COMMENT ON FUNCTION credits.refund_as_admin(
    text, uuid, text, text, text, bigint, text, uuid
) IS
'Gives back p_amount of a debit, or (null) all that is left of it, in the name of an administrator, and writes down who and why. The same key of the same administrator again returns the first refund (replayed). Raises MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found';
