-- credits._require_key: the shape of an idempotency key, and who may use one.
--
-- One expression, as _require_amount.
--
-- Raises: MC001 invalid_request.
--
-- Replaces: credits._require_key(text, credits.origin)
CREATE OR REPLACE FUNCTION credits._require_key(p_idempotency_key text, p_origin credits.origin)
RETURNS boolean
LANGUAGE sql
AS $$
    SELECT CASE
        WHEN char_length(p_idempotency_key) NOT BETWEEN 1 AND 255
            THEN credits._refuse_argument('idempotencyKey', 'must have 1 to 255 characters')
        -- The keys of charges and grants are the database's own: whoever could write one could
        -- make a charge that is due look as if it had been done.
        WHEN (p_origin IN ('user', 'service')) IS NOT TRUE
            THEN credits._refuse_argument('origin', 'must be user or service')
        ELSE true
    END
$$;
COMMENT ON FUNCTION credits._require_key(text, credits.origin) IS
'True without a key or with one of a shape and origin that callers can have; raises MC001 invalid_request for any other';
