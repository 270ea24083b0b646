-- credits._require: refuse a call whose argument breaks a rule.
--
-- One expression, as _require_amount.
--
-- Raises: MC001 invalid_request, with the field and what is wrong with it.
--
-- Replaces: credits._require(boolean, text, text)
CREATE OR REPLACE FUNCTION credits._require(p_holds boolean, p_field text, p_message text)
RETURNS boolean
LANGUAGE sql
AS $$
    -- NULL is not true: a comparison with a missing argument must not let it through.
    SELECT CASE WHEN p_holds THEN true ELSE credits._refuse_argument(p_field, p_message) END
$$;
COMMENT ON FUNCTION credits._require(boolean, text, text) IS
'True where the condition is; else it raises MC001 invalid_request naming the field';
