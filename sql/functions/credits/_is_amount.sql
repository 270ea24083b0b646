-- credits._is_amount: the bounds that every amount of credits keeps.
--
-- One expression in SQL, as the other rules of every move are: PostgreSQL puts it in the place of the
-- call. NULL is not true.
CREATE OR REPLACE FUNCTION credits._is_amount(p_amount bigint)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT p_amount BETWEEN 1 AND 1000000000
$$;
COMMENT ON FUNCTION credits._is_amount(bigint) IS
'Whether an amount is 1 to 1,000,000,000 credits; null for null';
