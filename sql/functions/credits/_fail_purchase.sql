-- credits._fail_purchase: a payment failed or was given up; one that succeeded stays as it is.
--
-- Needs: the purchase row is locked.
CREATE OR REPLACE FUNCTION credits._fail_purchase(
    p_purchase credits.purchases, p_status credits.purchase_status, p_failure text, p_now timestamptz
)
RETURNS credits.purchases
LANGUAGE plpgsql
AS $$
BEGIN
    IF p_purchase.status IN ('pending', 'failed') THEN
        UPDATE credits.purchases SET
            status = p_status,
            failure = left(p_failure, 500),
            updated_at = p_now
        WHERE user_id = p_purchase.user_id AND id = p_purchase.id
        RETURNING * INTO STRICT p_purchase;
    END IF;
    RETURN p_purchase;
END
$$;
COMMENT ON FUNCTION credits._fail_purchase(
    credits.purchases, credits.purchase_status, text, timestamptz
) IS 'Marks a purchase that gave no credits as failed or cancelled';
