-- credits._decide_grant: what a grant is, whether it comes alone or in a batch.
--
-- Needs:  p_balance is the user's row as it is under its lock, and all his moves that were decided
--         before are written.
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits._decide_grant(
    p_call credits.batch_call, p_balance credits.balances
)
RETURNS credits.decision
LANGUAGE plpgsql
AS $$
DECLARE
    v_key         text;
    v_transaction credits.transactions;
BEGIN
    -- What breaks a rule raises in the condition.
    IF credits._require_amount(p_call.amount)
        AND credits._require(
            char_length(p_call.reason) BETWEEN 1 AND 64, 'reason', 'must have 1 to 64 characters'
        )
        AND credits._require(
            char_length(p_call.reference_id) BETWEEN 1 AND 128,
            'referenceId', 'must have 1 to 128 characters'
        )
        AND credits._require(
            p_call.description IS NULL OR char_length(p_call.description) <= 256,
            'description', 'must have at most 256 characters'
        )
    THEN
        -- Of the database's own origin, so that no caller can occupy it.
        v_key := 'grant:' || p_call.reference_id;
    END IF;

    SELECT * INTO v_transaction FROM credits.transactions
    WHERE user_id = p_balance.user_id AND origin = 'system' AND idempotency_key = v_key;
    IF found THEN
        RETURN ROW(
            credits._as_move(
                v_transaction, p_balance, p_replayed => v_transaction.id IS DISTINCT FROM p_call.id
            ),
            NULL
        )::credits.decision;
    END IF;
    RETURN ROW(
        NULL,
        ROW(
            p_balance.user_id, p_call.id, 'grant', 'system', p_call.amount, 'system',
            coalesce(p_call.description, p_call.reason),
            jsonb_build_object('reason', p_call.reason, 'referenceId', p_call.reference_id),
            NULL, v_key
        )::credits.new_move
    )::credits.decision;
END
$$;
COMMENT ON FUNCTION credits._decide_grant(credits.batch_call, credits.balances) IS
'Decides on a grant, under the lock on its balance. Raises MC001 invalid_request';
