-- credits._decide_debit: what a debit is, whether it comes alone or in a batch.
--
-- p_unseen: the caller has looked for the call's id and its key under the lock, and found neither.
--
-- Keeps:  what can be spent never falls below zero.
-- Needs:  p_balance is the user's row as it is under its lock, with all moves that were decided before.
-- Raises: MC001 invalid_request, MC002 insufficient_credits, MC003 idempotency_key_reused.
--
-- Replaces: credits._decide_debit(credits.batch_call, credits.balances)
CREATE OR REPLACE FUNCTION credits._decide_debit(
    p_call credits.batch_call, p_balance credits.balances, p_unseen boolean
)
RETURNS credits.decision
LANGUAGE plpgsql
AS $$
DECLARE
    v_made credits.move;
BEGIN
    -- What breaks a rule raises in the condition.
    IF credits._require_amount(p_call.amount)
        AND credits._require_texts(p_call.app_id, p_call.description, p_call.metadata)
        AND credits._require_key(p_call.idempotency_key, p_call.origin)
    THEN
        -- A racing retry has committed by the time the lock is ours, so this look is decisive.
        v_made := CASE WHEN p_unseen IS NOT TRUE THEN credits._replayed_move(
            p_balance, p_call.id, p_call.origin, p_call.idempotency_key, 'usage', -p_call.amount,
            p_call.app_id, NULL
        ) END;
    END IF;
    IF v_made.id IS NOT NULL THEN
        RETURN ROW(v_made, NULL)::credits.decision;
    END IF;

    RETURN CASE WHEN credits._require_available(p_balance, p_call.amount) THEN ROW(
        NULL,
        ROW(
            p_balance.user_id, p_call.id, 'usage', p_call.origin, -p_call.amount, p_call.app_id,
            p_call.description, p_call.metadata, NULL, p_call.idempotency_key
        )::credits.new_move
    )::credits.decision END;
END
$$;
COMMENT ON FUNCTION credits._decide_debit(credits.batch_call, credits.balances, boolean) IS
'Decides on a debit, under the lock on its balance. Raises MC001 invalid_request, MC002 insufficient_credits, MC003 idempotency_key_reused';
