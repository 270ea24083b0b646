-- credits._is_key: the bounds of an idempotency key (api.md). One expression, as _is_amount.
CREATE OR REPLACE FUNCTION credits._is_key(p_idempotency_key text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT char_length(p_idempotency_key) BETWEEN 1 AND 255
$$;
COMMENT ON FUNCTION credits._is_key(text) IS
'Whether an idempotency key has 1 to 255 characters; null for null';
