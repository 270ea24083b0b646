-- credits.grant_credits: give a user credits as a reward, once per reference.
--
-- Locks:  the user's balance row.
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits.grant_credits(
    p_user_id text,
    p_amount bigint,
    p_reason text,
    p_reference_id text,
    p_description text DEFAULT NULL,
    p_id uuid DEFAULT NULL
)
RETURNS credits.move
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- Of the database's own origin, so that no caller can occupy it.
    v_key         CONSTANT text := 'grant:' || p_reference_id;
    v_balance     credits.balances;
    v_transaction credits.transactions;
BEGIN
    PERFORM credits._require_amount(p_amount);
    PERFORM credits._require(
        char_length(p_reason) BETWEEN 1 AND 64, 'reason', 'must have 1 to 64 characters'
    );
    PERFORM credits._require(
        char_length(p_reference_id) BETWEEN 1 AND 128, 'referenceId', 'must have 1 to 128 characters'
    );
    PERFORM credits._require(
        p_description IS NULL OR char_length(p_description) <= 256,
        'description', 'must have at most 256 characters'
    );
    v_balance := credits._lock_balance(p_user_id);

    SELECT * INTO v_transaction FROM credits.transactions
    WHERE user_id = p_user_id AND origin = 'system' AND idempotency_key = v_key;
    IF found THEN
        RETURN credits._as_move(
            v_transaction, v_balance, p_replayed => v_transaction.id IS DISTINCT FROM p_id
        );
    END IF;

    RETURN credits._record_move(
        ROW(
            p_user_id, p_id, 'grant', 'system', p_amount, 'system',
            coalesce(p_description, p_reason),
            jsonb_build_object('reason', p_reason, 'referenceId', p_reference_id), NULL, v_key
        )::credits.new_move,
        clock_timestamp()
    );
END
$$;
COMMENT ON FUNCTION credits.grant_credits(text, bigint, text, text, text, uuid) IS
'Grants credits, once per user and p_reference_id: again returns the first grant (replayed) whatever the amount. Raises MC001 invalid_request';
