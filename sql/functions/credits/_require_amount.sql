-- credits._require_amount: the bounds that every amount of credits keeps.
--
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits._require_amount(p_amount bigint, p_field text DEFAULT 'amount')
RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    -- Asked by IF, here and in the other rules of every move: a call to ask costs as much as reading a row.
    IF (p_amount BETWEEN 1 AND 1000000000) IS NOT TRUE THEN
        PERFORM credits._refuse_argument(p_field, 'must be a whole number from 1 to 1000000000');
    END IF;
END
$$;
COMMENT ON FUNCTION credits._require_amount(bigint, text) IS
'Raises MC001 invalid_request unless the amount is 1 to 1,000,000,000 credits';
