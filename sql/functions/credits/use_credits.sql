-- credits.use_credits: debit one user, at most once per idempotency key.
--
-- Locks:  the user's balance row, which every move of that user's credits takes first.
-- Keeps:  what can be spent never falls below zero.
-- Raises: MC001 invalid_request, MC002 insufficient_credits, MC003 idempotency_key_reused.
CREATE OR REPLACE FUNCTION credits.use_credits(
    p_user_id text,
    p_amount bigint,
    p_app_id text,
    p_description text,
    p_idempotency_key text DEFAULT NULL,
    p_metadata jsonb DEFAULT NULL,
    p_id uuid DEFAULT NULL,
    p_origin credits.origin DEFAULT 'service'
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
    v_decision := credits._decide_debit(
        ROW(
            'use_credits', p_user_id, p_id, p_amount, p_app_id, p_description, p_idempotency_key,
            p_metadata, p_origin, NULL, NULL, NULL, NULL, NULL
        )::credits.batch_call,
        v_balance,
        p_unseen => false
    );
    IF (v_decision.made).id IS NOT NULL THEN
        RETURN v_decision.made;
    END IF;
    RETURN credits._record_move(v_decision.wanted, clock_timestamp());
END
$$;
COMMENT ON FUNCTION credits.use_credits(text, bigint, text, text, text, jsonb, uuid, credits.origin) IS
'Debits credits from a user. The same idempotency key again returns the first debit and moves nothing. Raises MC001 invalid_request, MC002 insufficient_credits, MC003 idempotency_key_reused';
