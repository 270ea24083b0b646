-- credits._admin_key: an administrator's idempotency key as it stands in the ledger.
--
-- Of the database's own origin, so that no user and no service can occupy it, and hashed with who
-- gave it, so that no other administrator can: a key belongs to one administrator and one user.
CREATE OR REPLACE FUNCTION credits._admin_key(p_admin_id text, p_idempotency_key text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    -- No user id holds a line break. Null without a key.
    SELECT 'admin:' || encode(
        sha256(convert_to(p_admin_id || chr(10) || p_idempotency_key, 'UTF8')), 'hex'
    )
$$;
COMMENT ON FUNCTION credits._admin_key(text, text) IS
'The key of an administrator''s call as the ledger has it; null without a key';
