-- credits.get_purchase: one purchase of a user.
--
-- Raises: MC004 not_found, also for another user's.
CREATE OR REPLACE FUNCTION credits.get_purchase(p_user_id text, p_purchase_id uuid)
RETURNS credits.purchase
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_purchase credits.purchases;
BEGIN
    SELECT * INTO v_purchase FROM credits.purchases
    WHERE user_id = p_user_id AND id = p_purchase_id;
    IF NOT found THEN
        PERFORM credits._refuse_missing('purchase');
    END IF;
    RETURN credits._as_purchase(v_purchase, p_replayed => false);
END
$$;
COMMENT ON FUNCTION credits.get_purchase(text, uuid) IS
'One purchase of a user. Raises MC004 not_found';
