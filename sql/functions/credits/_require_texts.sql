-- credits._require_texts: refuse what a caller may not write beside a move (api.md).
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
        WHEN credits._is_app_id(p_app_id) IS NOT TRUE
            THEN credits._refuse_argument('appId', 'must have 1 to 64 characters')
        WHEN credits._is_description(p_description) IS NOT TRUE
            THEN credits._refuse_argument('description', 'must have at most 500 characters')
        WHEN NOT credits._is_metadata(p_metadata)
            THEN credits._refuse_argument('metadata', 'must be a JSON object of at most 16 KiB')
        ELSE true
    END
$$;
COMMENT ON FUNCTION credits._require_texts(text, text, jsonb) IS
'True for an app, description and metadata within bounds; raises MC001 invalid_request for any other';
