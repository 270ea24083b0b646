-- credits.fail_purchase: Stripe could not be asked for a purchase's payment.
--
-- Locks:  the purchase row.
-- Raises: MC004 not_found.
CREATE OR REPLACE FUNCTION credits.fail_purchase(
    p_user_id text, p_purchase_id uuid, p_failure text
)
RETURNS credits.purchase
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN credits._as_purchase(
        credits._fail_purchase(
            credits._lock_purchase(p_user_id, p_purchase_id), 'failed', p_failure, clock_timestamp()
        ),
        p_replayed => false
    );
END
$$;
COMMENT ON FUNCTION credits.fail_purchase(text, uuid, text) IS
'Marks a pending purchase as failed; a later success completes it all the same. Raises MC004 not_found';
