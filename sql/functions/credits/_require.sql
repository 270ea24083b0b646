-- credits._require: refuse a call whose argument breaks a rule.
--
-- Raises: MC001 invalid_request, with the field and what is wrong with it.
CREATE OR REPLACE FUNCTION credits._require(p_holds boolean, p_field text, p_message text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    -- NULL is not true: a comparison with a missing argument must not let it through.
    IF p_holds IS NOT TRUE THEN
        PERFORM credits._refuse_argument(p_field, p_message);
    END IF;
END
$$;
COMMENT ON FUNCTION credits._require(boolean, text, text) IS
'Raises MC001 invalid_request naming the field unless the condition is true';
