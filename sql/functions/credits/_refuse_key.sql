-- credits._refuse_key: an idempotency key that was used for another request.
--
-- Raises: MC003 idempotency_key_reused.
CREATE OR REPLACE FUNCTION credits._refuse_key(p_idempotency_key text)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'idempotency key was used for another request' USING
        ERRCODE = 'MC003',
        DETAIL = json_build_object('idempotencyKey', p_idempotency_key),
        HINT = 'Use a new key for a new request, and the same key only to repeat one.';
END
$$;
COMMENT ON FUNCTION credits._refuse_key(text) IS 'Raises MC003 idempotency_key_reused';
