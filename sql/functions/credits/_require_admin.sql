-- credits._require_admin: who does something as an administrator, and why.
--
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits._require_admin(
    p_admin_id text, p_reason text, p_idempotency_key text
)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    PERFORM credits._require(
        char_length(p_admin_id) BETWEEN 1 AND 128, 'adminId', 'must have 1 to 128 characters'
    );
    PERFORM credits._require(
        char_length(p_reason) BETWEEN 1 AND 500, 'reason', 'must have 1 to 500 characters'
    );
    PERFORM credits._require(
        p_idempotency_key IS NULL OR char_length(p_idempotency_key) BETWEEN 1 AND 255,
        'idempotencyKey', 'must have 1 to 255 characters'
    );
END
$$;
COMMENT ON FUNCTION credits._require_admin(text, text, text) IS
'Raises MC001 invalid_request for an administrator, a reason or a key that is missing or out of bounds';
