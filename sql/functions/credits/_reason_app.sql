-- credits._reason_app: the app of a commit, which is the part of the reason before the first colon.
CREATE OR REPLACE FUNCTION credits._reason_app(p_reason text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT coalesce(nullif(btrim(split_part(p_reason, ':', 1)), ''), 'system')
$$;
COMMENT ON FUNCTION credits._reason_app(text) IS 'The app named by a reservation''s reason';
