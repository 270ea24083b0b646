-- credits.refund_credits: give credits back to a user, with a debit named or without.
--
-- Locks:  the user's balance row.
-- Keeps:  all refunds that name a debit together never exceed it.
-- Raises: MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found.
CREATE OR REPLACE FUNCTION credits.refund_credits(
    p_user_id text,
    p_amount bigint,
    p_description text,
    p_app_id text DEFAULT 'system',
    p_idempotency_key text DEFAULT NULL,
    p_metadata jsonb DEFAULT NULL,
    p_transaction_id uuid DEFAULT NULL,
    p_id uuid DEFAULT NULL
)
RETURNS credits.move
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_balance  credits.balances;
    v_decision credits.decision;
BEGIN
    v_balance := credits._lock_balance(p_user_id);
    v_decision := credits._decide_refund(
        ROW(
            'refund_credits', p_user_id, p_id, p_amount, p_app_id, p_description,
            p_idempotency_key, p_metadata, 'service', p_transaction_id, NULL, NULL, NULL, NULL
        )::credits.batch_call,
        v_balance
    );
    IF (v_decision.made).id IS NOT NULL THEN
        RETURN v_decision.made;
    END IF;
    RETURN credits._record_move(v_decision.wanted, clock_timestamp());
END
$$;
COMMENT ON FUNCTION credits.refund_credits(text, bigint, text, text, text, jsonb, uuid, uuid) IS
'Gives credits back. With p_transaction_id they belong to that debit, and all refunds of it together never exceed it. Without it and without a key, a repeated call refunds twice. Raises MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found';
