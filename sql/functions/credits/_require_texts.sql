-- credits._require_texts: the bounds of what a caller may write beside a move (api.md).
--
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits._require_texts(p_app_id text, p_description text, p_metadata jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF (char_length(p_app_id) BETWEEN 1 AND 64) IS NOT TRUE THEN
        PERFORM credits._refuse_argument('appId', 'must have 1 to 64 characters');
    END IF;
    IF (char_length(p_description) <= 500) IS NOT TRUE THEN
        PERFORM credits._refuse_argument('description', 'must have at most 500 characters');
    END IF;
    -- The service holds the 16 KiB of the contract against what was sent; as jsonb prints it,
    -- with spaces and without exponents, the same object can be longer.
    IF jsonb_typeof(p_metadata) <> 'object' OR octet_length(p_metadata::text) > 65536 THEN
        PERFORM credits._refuse_argument('metadata', 'must be a JSON object of at most 16 KiB');
    END IF;
END
$$;
COMMENT ON FUNCTION credits._require_texts(text, text, jsonb) IS
'Raises MC001 invalid_request for an app, description or metadata out of bounds';
