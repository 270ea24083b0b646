-- credits.charge_due_subscriptions: charge one batch of the subscriptions that are due.
--
-- The size of a batch that is said here is everybody's: the job's and the service's, which take less
-- while others are at work (pace_charges).
--
-- Locks: see _charge_due. A balance that somebody else holds for more than a second is left for
--        a later run rather than holding up everybody in the batch.
-- Replaces: credits.charge_due_subscriptions(integer)
CREATE OR REPLACE FUNCTION credits.charge_due_subscriptions(
    p_batch_size integer DEFAULT 500,
    p_after timestamptz DEFAULT '-infinity',
    p_after_key text DEFAULT ''
)
RETURNS credits.charge_result
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
-- Statistics of a quiet time say that nobody is due. By them every batch would gather and sort all who
-- are due; in the order of the index it reads its own rows and no more, whatever there is.
SET enable_bitmapscan = off
SET enable_seqscan = off
AS $$
BEGIN
    RETURN credits._charge_due(clock_timestamp(), p_batch_size, p_after, p_after_key);
END
$$;
COMMENT ON FUNCTION credits.charge_due_subscriptions(integer, timestamptz, text) IS
'Charges one batch of due subscriptions; call it until more is false, each call in a transaction of its own and behind last_at and last_key of the one before. run_recurring_charge does so';
