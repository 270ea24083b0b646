-- credits.charge_due_subscriptions: charge one batch of the subscriptions that are due.
--
-- Locks: see _charge_due. A balance that somebody else holds for more than a second is left for
--        a later run rather than holding up everybody in the batch.
CREATE OR REPLACE FUNCTION credits.charge_due_subscriptions(p_batch_size integer DEFAULT 500)
RETURNS credits.charge_result
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
AS $$
BEGIN
    RETURN credits._charge_due(clock_timestamp(), p_batch_size);
END
$$;
COMMENT ON FUNCTION credits.charge_due_subscriptions(integer) IS
'Charges one batch of due subscriptions; call it until more is false, each call in a transaction of its own. run_recurring_charge does so';
