-- credits._is_metadata: the bounds of what a caller keeps with a move (api.md). One expression, as
-- _is_amount.
--
-- The service holds the 16 KiB of the contract against what was sent; as jsonb prints it, with spaces
-- and without exponents, the same object can be longer.
CREATE OR REPLACE FUNCTION credits._is_metadata(p_metadata jsonb)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT jsonb_typeof(p_metadata) = 'object' AND octet_length(p_metadata::text) <= 65536
$$;
COMMENT ON FUNCTION credits._is_metadata(jsonb) IS
'Whether metadata are a JSON object of at most 64 KiB as PostgreSQL prints it; null for null';
