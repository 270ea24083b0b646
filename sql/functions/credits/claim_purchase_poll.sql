-- credits.claim_purchase_poll: may Stripe be asked about this purchase now?
--
-- Once per ten seconds, whoever asks (api.md): the caller that gets true has taken this turn.
--
-- Locks: the purchase row.
CREATE OR REPLACE FUNCTION credits.claim_purchase_poll(p_user_id text, p_purchase_id uuid)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now    CONSTANT timestamptz := clock_timestamp();
    v_before CONSTANT timestamptz := credits._utc_add(v_now, '-10 seconds');
BEGIN
    UPDATE credits.purchases SET polled_at = v_now
    WHERE user_id = p_user_id
        AND id = p_purchase_id
        AND status IN ('pending', 'failed')
        AND (polled_at IS NULL OR polled_at <= v_before);
    RETURN found;
END
$$;
COMMENT ON FUNCTION credits.claim_purchase_poll(text, uuid) IS
'True at most once per 10 seconds while a purchase is pending or failed: the caller then asks Stripe';
