-- gifts.redeem_pending_gifts: give a new user every personalized gift that waits for his address.
--
-- Safe to call twice, and before or after the user is made known. With an address that is known
-- to be unverified nothing is redeemed.
--
-- Locks:  the gifts by id, then the user's balance row.
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION gifts.redeem_pending_gifts(
    p_user_id text, p_email text, p_email_verified boolean DEFAULT NULL
)
RETURNS gifts.pending_redemption
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now    CONSTANT timestamptz := clock_timestamp();
    v_gift   gifts.gift_codes;
    v_result gifts.pending_redemption;
BEGIN
    PERFORM credits._require_user_id(p_user_id);
    PERFORM credits._require(p_email LIKE '%_@_%', 'email', 'must be an e-mail address');
    v_result.redeemed := 0;
    v_result.total_credits := 0;
    IF p_email_verified IS NOT FALSE THEN
        -- All gifts are locked before the first balance: locks are taken in one order.
        FOR v_gift IN
            WITH waiting AS MATERIALIZED (
                SELECT * FROM gifts.gift_codes
                WHERE status = 'active'
                    AND target_email = lower(btrim(p_email))
                    AND expires_at > v_now
                ORDER BY id
                FOR UPDATE
            )
            SELECT * FROM waiting ORDER BY id
        LOOP
            PERFORM gifts._give(v_gift, p_user_id, NULL, NULL);
            v_result.redeemed := v_result.redeemed + 1;
            v_result.total_credits := v_result.total_credits + v_gift.total_credits;
        END LOOP;
    END IF;
    v_result.available := (credits.get_balance(p_user_id)).available;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION gifts.redeem_pending_gifts(text, text, boolean) IS
'Redeems every active personalized gift for an address (any case), for a user who has just registered. Raises MC001 invalid_request';
