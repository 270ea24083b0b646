-- credits._is_erased: whether an id is the pseudonym of a user who was erased.
CREATE OR REPLACE FUNCTION credits._is_erased(p_user_id text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT coalesce(p_user_id ~ '^erased-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$', false)
$$;
COMMENT ON FUNCTION credits._is_erased(text) IS
'Whether an id is a pseudonym, which no user can have';
