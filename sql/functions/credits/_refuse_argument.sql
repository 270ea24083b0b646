-- credits._refuse_argument: an argument that breaks a rule.
--
-- Raises: MC001 invalid_request, with the field and what is wrong with it. It answers nothing; with the
--         type of the rules it can stand in their expressions.
--
-- Replaces: credits._refuse_argument(text, text)
CREATE OR REPLACE FUNCTION credits._refuse_argument(p_field text, p_message text)
RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION '% %', p_field, p_message USING
        ERRCODE = 'MC001',
        DETAIL = json_build_object('field', p_field, 'message', p_message);
END
$$;
COMMENT ON FUNCTION credits._refuse_argument(text, text) IS
'Raises MC001 invalid_request naming the field';
