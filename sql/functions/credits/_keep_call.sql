-- credits._keep_call: remember the idempotency key of a call that has succeeded.
--
-- Only then: a call that failed leaves its key unused. One that found its work done has succeeded,
-- too, so its key is used up, although the first call had no key or another one. Who was erased has
-- no keys any more: a call that comes late, about a hold of his, leaves none.
--
-- Needs: _replayed_call has looked for the key, under the same lock.
CREATE OR REPLACE FUNCTION credits._keep_call(
    p_user_id text, p_origin credits.origin, p_idempotency_key text, p_operation text, p_subject text,
    p_now timestamptz, p_result jsonb DEFAULT NULL
)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF p_idempotency_key IS NOT NULL AND NOT credits._is_erased(p_user_id) THEN
        INSERT INTO credits.keyed_calls (
            user_id, origin, idempotency_key, operation, subject, result, created_at
        ) VALUES (
            p_user_id, p_origin, p_idempotency_key, p_operation, p_subject, p_result, p_now
        )
        -- The same call once more.
        ON CONFLICT (user_id, origin, idempotency_key) DO NOTHING;
    END IF;
END
$$;
COMMENT ON FUNCTION credits._keep_call(
    text, credits.origin, text, text, text, timestamptz, jsonb
) IS 'Remembers the key of a call that succeeded; does nothing without a key, or for who was erased';
