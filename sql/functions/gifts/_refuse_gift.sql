-- gifts._refuse_gift: a gift that is not to be had any more.
--
-- Raises: MC006 gift_expired or MC005 gift_not_active, after its status.
CREATE OR REPLACE FUNCTION gifts._refuse_gift(p_status gifts.gift_status)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF p_status = 'expired' THEN
        RAISE EXCEPTION 'gift has expired' USING
            ERRCODE = 'MC006', DETAIL = json_build_object('status', p_status);
    END IF;
    RAISE EXCEPTION 'gift is not active: %', p_status USING
        ERRCODE = 'MC005', DETAIL = json_build_object('status', p_status);
END
$$;
COMMENT ON FUNCTION gifts._refuse_gift(gifts.gift_status) IS
'Raises MC005 gift_not_active or MC006 gift_expired';
