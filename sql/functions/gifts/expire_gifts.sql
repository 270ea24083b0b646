-- gifts.expire_gifts: return one batch of the gifts that have expired.
--
-- Locks: see _expire_gifts. A balance that somebody else holds for more than a second is left for a
--        later run rather than holding up everybody in the batch.
CREATE OR REPLACE FUNCTION gifts.expire_gifts(
    p_batch_size integer DEFAULT 500,
    p_after timestamptz DEFAULT '-infinity',
    p_after_key text DEFAULT ''
)
RETURNS credits.batch_result
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
AS $$
BEGIN
    RETURN gifts._expire_gifts(clock_timestamp(), p_batch_size, p_after, p_after_key);
END
$$;
COMMENT ON FUNCTION gifts.expire_gifts(integer, timestamptz, text) IS
'Returns one batch of expired gifts to their creators; the job run_gift_expiry calls it until there are no more';
