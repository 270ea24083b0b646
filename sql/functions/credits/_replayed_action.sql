-- credits._replayed_action: the ledger row of an administrator's call that was made before, or a row
-- of NULLs.
--
-- By its id or by its key, as in _replayed_move. The same request is the same action, amount and
-- debit; a refund of all that was left is not the same as one of a given amount.
--
-- Needs:  the user's balance row is locked, so that a racing call has committed or not begun.
-- Raises: MC003 idempotency_key_reused when the key was used for something else.
CREATE OR REPLACE FUNCTION credits._replayed_action(
    p_balance credits.balances, p_id uuid, p_admin_id text, p_idempotency_key text,
    p_action credits.admin_action, p_amount bigint, p_reference_id uuid
)
RETURNS credits.move
LANGUAGE plpgsql
AS $$
DECLARE
    v_transaction credits.transactions;
    v_action      credits.admin_actions;
BEGIN
    IF p_id IS NOT NULL THEN
        SELECT * INTO v_transaction FROM credits.transactions WHERE id = p_id;
        IF found THEN
            ASSERT v_transaction.user_id = p_balance.user_id
                AND v_transaction.amount = coalesce(p_amount, v_transaction.amount),
                'an id is drawn for one call';
            RETURN credits._as_move(v_transaction, p_balance, p_replayed => false);
        END IF;
    END IF;
    IF p_idempotency_key IS NULL THEN
        RETURN NULL;
    END IF;

    SELECT * INTO v_transaction FROM credits.transactions
    WHERE user_id = p_balance.user_id
        AND origin = 'system'
        AND idempotency_key = credits._admin_key(p_admin_id, p_idempotency_key);
    IF NOT found THEN
        RETURN NULL;
    END IF;
    SELECT * INTO STRICT v_action FROM credits.admin_actions
    WHERE user_id = p_balance.user_id AND id = v_transaction.id;
    IF v_action.action <> p_action
        OR coalesce((v_action.details ->> 'rest')::boolean, false) <> (p_amount IS NULL)
        OR v_transaction.amount <> coalesce(p_amount, v_transaction.amount)
        OR v_transaction.reference_id IS DISTINCT FROM p_reference_id
    THEN
        PERFORM credits._refuse_key(p_idempotency_key);
    END IF;
    RETURN credits._as_move(v_transaction, p_balance, p_replayed => true);
END
$$;
COMMENT ON FUNCTION credits._replayed_action(
    credits.balances, uuid, text, text, credits.admin_action, bigint, uuid
) IS
'Finds the ledger row of an administrator''s repeated call by its id or key; raises MC003 when the key was used for something else';
