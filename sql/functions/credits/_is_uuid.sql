-- credits._is_uuid: whether a text of somebody else's is written as we write our ids.
CREATE OR REPLACE FUNCTION credits._is_uuid(p_text text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT coalesce(lower(p_text) ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$', false)
$$;
COMMENT ON FUNCTION credits._is_uuid(text) IS 'Whether a text is a UUID with hyphens';
