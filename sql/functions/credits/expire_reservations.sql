-- credits.expire_reservations: give back one batch of the holds that have run out.
--
-- Locks: see _expire_reservations. A balance that somebody else holds for more than a second is left for a
--        later run rather than holding up everybody in the batch.
CREATE OR REPLACE FUNCTION credits.expire_reservations(
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
    RETURN credits._expire_reservations(clock_timestamp(), p_batch_size, p_after, p_after_key);
END
$$;
COMMENT ON FUNCTION credits.expire_reservations(integer, timestamptz, text) IS
'Gives back one batch of expired holds; the job run_reservation_expiry calls it until there are no more';
