-- credits._decide_refund: what a refund is, whether it comes alone or in a batch.
--
-- One that names a debit is counted against it here, before its ledger row is there.
--
-- Keeps:  all refunds that name a debit together never exceed it.
-- Needs:  p_balance is the user's row as it is under its lock, and all his moves that were decided
--         before are written.
-- Raises: MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found.
CREATE OR REPLACE FUNCTION credits._decide_refund(
    p_call credits.batch_call, p_balance credits.balances
)
RETURNS credits.decision
LANGUAGE plpgsql
AS $$
BEGIN
    -- What breaks a rule raises in the condition.
    IF credits._require_amount(p_call.amount)
        AND credits._require_texts(p_call.app_id, p_call.description, p_call.metadata)
        AND credits._require_key(p_call.idempotency_key, 'service')
        AND NOT credits._is_unseen(
            p_balance.user_id, p_call.id, 'service', p_call.idempotency_key
        )
    THEN
        RETURN ROW(
            credits._replayed_move(
                p_balance, p_call.id, 'service', p_call.idempotency_key, 'refund', p_call.amount,
                p_call.app_id, p_call.transaction_id
            ),
            NULL
        )::credits.decision;
    END IF;

    IF p_call.transaction_id IS NOT NULL THEN
        PERFORM credits._refund_debit(p_balance.user_id, p_call.transaction_id, p_call.amount);
    END IF;
    RETURN ROW(
        NULL,
        ROW(
            p_balance.user_id, p_call.id, 'refund', 'service', p_call.amount, p_call.app_id,
            p_call.description, p_call.metadata, p_call.transaction_id, p_call.idempotency_key
        )::credits.new_move
    )::credits.decision;
END
$$;
COMMENT ON FUNCTION credits._decide_refund(credits.batch_call, credits.balances) IS
'Decides on a refund, under the lock on its balance, and counts it against its debit. Raises MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found';
