-- credits._require_amount: refuse an amount that is out of bounds.
--
-- True, or it raises: asked as a part of a condition it costs next to nothing, and by PERFORM as much
-- as reading a row.
--
-- Raises: MC001 invalid_request.
--
-- Replaces: credits._require_amount(bigint, text)
CREATE OR REPLACE FUNCTION credits._require_amount(p_amount bigint, p_field text DEFAULT 'amount')
RETURNS boolean
LANGUAGE sql
AS $$
    SELECT CASE
        WHEN credits._is_amount(p_amount) THEN true
        ELSE credits._refuse_argument(p_field, 'must be a whole number from 1 to 1000000000')
    END
$$;
COMMENT ON FUNCTION credits._require_amount(bigint, text) IS
'True for an amount of 1 to 1,000,000,000 credits; raises MC001 invalid_request for any other';
