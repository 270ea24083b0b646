-- gifts.get_gift: what anybody who has a code may see of the gift.
--
-- Raises: MC004 not_found.
CREATE OR REPLACE FUNCTION gifts.get_gift(p_code text)
RETURNS gifts.public_gift
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_gift gifts.public_gift;
BEGIN
    SELECT
        g.code, g.type, g.status, g.total_credits, g.message, g.creator_name, g.expires_at
    INTO v_gift
    FROM gifts.gift_codes AS g
    WHERE g.code = gifts._normalize_code(p_code);
    IF NOT found THEN
        PERFORM credits._refuse_missing('gift');
    END IF;
    -- Past its time it is not to be had any more, whether the job has been here or not.
    IF v_gift.status = 'active' AND v_gift.expires_at <= clock_timestamp() THEN
        v_gift.status := 'expired';
    END IF;
    RETURN v_gift;
END
$$;
COMMENT ON FUNCTION gifts.get_gift(text) IS
'What whoever has a code may see: never who made it but his name, never whom it is for. Raises MC004 not_found';
