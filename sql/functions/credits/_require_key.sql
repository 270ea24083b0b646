-- credits._require_key: the shape of an idempotency key, and who may use one.
--
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits._require_key(p_idempotency_key text, p_origin credits.origin)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF char_length(p_idempotency_key) NOT BETWEEN 1 AND 255 THEN
        PERFORM credits._refuse_argument('idempotencyKey', 'must have 1 to 255 characters');
    END IF;
    -- The keys of charges and grants are the database's own: whoever could write one could
    -- make a charge that is due look as if it had been done.
    IF (p_origin IN ('user', 'service')) IS NOT TRUE THEN
        PERFORM credits._refuse_argument('origin', 'must be user or service');
    END IF;
END
$$;
COMMENT ON FUNCTION credits._require_key(text, credits.origin) IS
'Raises MC001 invalid_request for a key that is empty or too long, or an origin that callers cannot have';
