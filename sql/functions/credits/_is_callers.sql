-- credits._is_callers: whether the keys of an origin are for callers to choose. One expression, as
-- _is_amount.
--
-- Those of charges and grants are the database's own: whoever could write one could make a charge
-- that is due look as if it had been done.
CREATE OR REPLACE FUNCTION credits._is_callers(p_origin credits.origin)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT p_origin IN ('user', 'service')
$$;
COMMENT ON FUNCTION credits._is_callers(credits.origin) IS
'Whether callers may use keys of that origin; null for null';
