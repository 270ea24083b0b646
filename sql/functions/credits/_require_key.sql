-- credits._require_key: refuse an idempotency key of a wrong shape, or of an origin that is not for
-- callers.
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
        WHEN NOT credits._is_key(p_idempotency_key)
            THEN credits._refuse_argument('idempotencyKey', 'must have 1 to 255 characters')
        WHEN credits._is_callers(p_origin) IS NOT TRUE
            THEN credits._refuse_argument('origin', 'must be user or service')
        ELSE true
    END
$$;
COMMENT ON FUNCTION credits._require_key(text, credits.origin) IS
'True without a key or with one of a shape and origin that callers can have; raises MC001 invalid_request for any other';
