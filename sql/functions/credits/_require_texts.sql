-- credits._require_texts: the bounds of what a caller may write beside a move (api.md).
--
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits._require_texts(p_app_id text, p_description text, p_metadata jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    PERFORM credits._require(
        char_length(p_app_id) BETWEEN 1 AND 64, 'appId', 'must have 1 to 64 characters'
    );
    PERFORM credits._require(
        char_length(p_description) <= 500, 'description', 'must have at most 500 characters'
    );
    -- The service holds the 16 KiB of the contract against what was sent; as jsonb prints it,
    -- with spaces and without exponents, the same object can be longer.
    PERFORM credits._require(
        p_metadata IS NULL
        OR (jsonb_typeof(p_metadata) = 'object' AND octet_length(p_metadata::text) <= 65536),
        'metadata', 'must be a JSON object of at most 16 KiB'
    );
END
$$;
COMMENT ON FUNCTION credits._require_texts(text, text, jsonb) IS
'Raises MC001 invalid_request for an app, description or metadata out of bounds';
