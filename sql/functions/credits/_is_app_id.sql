-- credits._is_app_id: the bounds of an app's name (api.md). One expression, as _is_amount.
CREATE OR REPLACE FUNCTION credits._is_app_id(p_app_id text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT char_length(p_app_id) BETWEEN 1 AND 64
$$;
COMMENT ON FUNCTION credits._is_app_id(text) IS
'Whether the name of an app has 1 to 64 characters; null for null';
