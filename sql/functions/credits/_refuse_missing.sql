-- credits._refuse_missing: something that is not there, or is not the caller's.
--
-- Raises: MC004 not_found.
CREATE OR REPLACE FUNCTION credits._refuse_missing(p_what text)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION '% not found', p_what USING
        ERRCODE = 'MC004',
        DETAIL = json_build_object('resource', p_what);
END
$$;
COMMENT ON FUNCTION credits._refuse_missing(text) IS 'Raises MC004 not_found';
