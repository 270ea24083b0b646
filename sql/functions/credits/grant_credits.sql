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
    v_balance  credits.balances;
    v_decision credits.decision;
BEGIN
    v_balance := credits._lock_balance(p_user_id);
    v_decision := credits._decide_grant(
        ROW(
            'grant_credits', p_user_id, p_id, p_amount, NULL, p_description, NULL, NULL, NULL, NULL,
            NULL, p_reason, p_reference_id, NULL
        )::credits.batch_call,
        v_balance
    );
    IF (v_decision.made).id IS NOT NULL THEN
        RETURN v_decision.made;
    END IF;
    RETURN credits._record_move(v_decision.wanted, clock_timestamp());
END
$$;
COMMENT ON FUNCTION credits.grant_credits(text, bigint, text, text, text, uuid) IS
'Grants credits, once per user and p_reference_id: again returns the first grant (replayed) whatever the amount. Raises MC001 invalid_request';
