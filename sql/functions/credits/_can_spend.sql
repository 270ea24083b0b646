-- credits._can_spend: nothing is spent or held that is not there (database.md, rule 3). One
-- expression, as _is_amount.
--
-- Needs: the balance row is locked.
CREATE OR REPLACE FUNCTION credits._can_spend(p_balance bigint, p_reserved bigint, p_amount bigint)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT p_balance - p_reserved >= p_amount
$$;
COMMENT ON FUNCTION credits._can_spend(bigint, bigint, bigint) IS
'Whether so many credits are neither spent nor held; null where one of them is';
