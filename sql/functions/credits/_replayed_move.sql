-- credits._replayed_move: the ledger row of a call whose id or key was used before.
--
-- Two kinds of repetition are known. The same id: the service repeats a call whose answer it
-- never got (database.md, rule 6). The same idempotency key: a client repeats its request.
--
-- Needs:  the user's balance row is locked, and the call is not credits._is_unseen.
-- Raises: MC003 idempotency_key_reused when the key was used for something else.
CREATE OR REPLACE FUNCTION credits._replayed_move(
    p_balance credits.balances, p_id uuid, p_origin credits.origin, p_idempotency_key text,
    p_type credits.transaction_type, p_amount bigint, p_app_id text, p_reference_id uuid
)
RETURNS credits.move
LANGUAGE plpgsql
AS $$
DECLARE
    v_transaction credits.transactions;
BEGIN
    SELECT * INTO v_transaction FROM credits.transactions WHERE id = p_id;
    IF found THEN
        ASSERT v_transaction.user_id = p_balance.user_id AND v_transaction.amount = p_amount,
            'an id is drawn for one call';
        RETURN credits._as_move(v_transaction, p_balance, p_replayed => false);
    END IF;
    SELECT * INTO v_transaction FROM credits.transactions
    WHERE user_id = p_balance.user_id
        AND origin = p_origin
        AND idempotency_key = p_idempotency_key;
    -- Not every key that is there is a replay: it may have been used for something else.
    IF NOT found
        OR (v_transaction.type, v_transaction.amount, v_transaction.app_id) <> (p_type, p_amount, p_app_id)
        OR v_transaction.reference_id IS DISTINCT FROM p_reference_id
    THEN
        PERFORM credits._refuse_key(p_idempotency_key);
    END IF;
    RETURN credits._as_move(v_transaction, p_balance, p_replayed => true);
END
$$;
COMMENT ON FUNCTION credits._replayed_move(
    credits.balances, uuid, credits.origin, text, credits.transaction_type, bigint, text, uuid
) IS
'Finds the ledger row of a repeated call by its id or key; raises MC003 when the key was used for something else';
