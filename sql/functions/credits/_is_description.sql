-- credits._is_description: the bounds of a move's description (api.md). One expression, as _is_amount.
CREATE OR REPLACE FUNCTION credits._is_description(p_description text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT char_length(p_description) <= 500
$$;
COMMENT ON FUNCTION credits._is_description(text) IS
'Whether a description has at most 500 characters; null for null';
