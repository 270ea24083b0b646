-- credits._require_texts: the bounds of what a caller may write beside a move (api.md).
--
-- One expression, as _require_amount.
--
-- Raises: MC001 invalid_request.
--
-- Replaces: credits._require_texts(text, text, jsonb)
CREATE OR REPLACE FUNCTION credits._require_texts(p_app_id text, p_description text, p_metadata jsonb)
RETURNS boolean
LANGUAGE sql
AS $$
    SELECT CASE
        WHEN (char_length(p_app_id) BETWEEN 1 AND 64) IS NOT TRUE
            THEN credits._refuse_argument('appId', 'must have 1 to 64 characters')
        WHEN (char_length(p_description) <= 500) IS NOT TRUE
            THEN credits._refuse_argument('description', 'must have at most 500 characters')
        -- The service holds the 16 KiB of the contract against what was sent; as jsonb prints it,
        -- with spaces and without exponents, the same object can be longer.
        WHEN jsonb_typeof(p_metadata) <> 'object' OR octet_length(p_metadata::text) > 65536
            THEN credits._refuse_argument('metadata', 'must be a JSON object of at most 16 KiB')
        ELSE true
    END
$$;
COMMENT ON FUNCTION credits._require_texts(text, text, jsonb) IS
'True for an app, description and metadata within bounds; raises MC001 invalid_request for any other';
