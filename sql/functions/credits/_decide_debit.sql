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
BEGIN
    -- All is as usual: one condition, of bare rules. PostgreSQL makes every part of it ready in each
    -- transaction anew, those too that it does not come to, and the words for what is wrong are
    -- many parts.
    IF (
        credits._is_amount(p_call.amount)
        AND credits._is_app_id(p_call.app_id)
        AND credits._is_description(p_call.description)
        AND p_call.metadata IS NULL
        AND (p_call.idempotency_key IS NULL OR credits._is_key(p_call.idempotency_key))
        AND credits._is_callers(p_call.origin)
        AND (
            p_unseen
            OR credits._is_unseen(
                p_balance.user_id, p_call.id, p_call.origin, p_call.idempotency_key
            )
        )
        AND credits._can_spend(p_balance.balance, p_balance.reserved, p_call.amount)
    ) IS NOT TRUE THEN
        -- One after the other; what breaks a rule raises in the condition. A racing retry has
        -- committed by the time the lock is ours, so the look for it is decisive.
        IF credits._require_amount(p_call.amount)
            AND credits._require_texts(p_call.app_id, p_call.description, p_call.metadata)
            AND credits._require_key(p_call.idempotency_key, p_call.origin)
            AND (
                p_unseen
                OR credits._is_unseen(
                    p_balance.user_id, p_call.id, p_call.origin, p_call.idempotency_key
                )
            ) IS NOT TRUE
        THEN
            RETURN ROW(
                credits._replayed_move(
                    p_balance, p_call.id, p_call.origin, p_call.idempotency_key, 'usage',
                    -p_call.amount, p_call.app_id, NULL
                ),
                NULL
            )::credits.decision;
        ELSIF credits._require_available(p_balance, p_call.amount) THEN
            NULL;
        END IF;
    END IF;
    RETURN ROW(
        NULL,
        ROW(
            p_balance.user_id, p_call.id, 'usage', p_call.origin, -p_call.amount, p_call.app_id,
            p_call.description, p_call.metadata, NULL, p_call.idempotency_key
        )::credits.new_move
    )::credits.decision;
END
$$;
COMMENT ON FUNCTION credits._decide_debit(credits.batch_call, credits.balances, boolean) IS
'Decides on a debit, under the lock on its balance. Raises MC001 invalid_request, MC002 insufficient_credits, MC003 idempotency_key_reused';
