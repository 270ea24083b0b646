-- credits._require_key: the shape of an idempotency key, and who may use one.
--
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits._require_key(p_idempotency_key text, p_origin credits.origin)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    PERFORM credits._require(
        p_idempotency_key IS NULL OR char_length(p_idempotency_key) BETWEEN 1 AND 255,
        'idempotencyKey', 'must have 1 to 255 characters'
    );
    -- The keys of charges and grants are the database's own: whoever could write one could
    -- make a charge that is due look as if it had been done.
    PERFORM credits._require(
        p_origin IN ('user', 'service'),
        'origin', 'must be user or service'
    );
END
$$;
COMMENT ON FUNCTION credits._require_key(text, credits.origin) IS
'Raises MC001 invalid_request for a key that is empty or too long, or an origin that callers cannot have';
