-- credits._replayed_call: a call with an idempotency key that was made before, or a row of NULLs.
--
-- For calls that make no row of their own in which the key could stand; see keyed_calls.
--
-- Needs:  the user's balance row is locked, so that a racing call has committed or not begun.
-- Raises: MC001 invalid_request; MC003 idempotency_key_reused when the key was used for something
--         else.
CREATE OR REPLACE FUNCTION credits._replayed_call(
    p_user_id text, p_origin credits.origin, p_idempotency_key text, p_operation text, p_subject text
)
RETURNS credits.keyed_calls
LANGUAGE plpgsql
AS $$
DECLARE
    v_call credits.keyed_calls;
BEGIN
    IF p_idempotency_key IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM credits._require_key(p_idempotency_key, p_origin);
    SELECT * INTO v_call FROM credits.keyed_calls
    WHERE user_id = p_user_id AND origin = p_origin AND idempotency_key = p_idempotency_key;
    IF NOT found THEN
        PERFORM credits._refuse_used_key(
            p_user_id, p_origin, p_idempotency_key, p_but_not => 'keyed_calls'
        );
        RETURN NULL;
    END IF;
    IF (v_call.operation, v_call.subject) <> (p_operation, p_subject) THEN
        PERFORM credits._refuse_key(p_idempotency_key);
    END IF;
    RETURN v_call;
END
$$;
COMMENT ON FUNCTION credits._replayed_call(text, credits.origin, text, text, text) IS
'Finds a repeated call by its key; raises MC003 when the key was used for something else';
