-- gifts._normalize_code: a code as a person may write it: any case, with spaces and hyphens.
CREATE OR REPLACE FUNCTION gifts._normalize_code(p_code text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT upper(regexp_replace(p_code, '[[:space:]-]', '', 'g'))
$$;
COMMENT ON FUNCTION gifts._normalize_code(text) IS
'Upper case, spaces and hyphens removed';
