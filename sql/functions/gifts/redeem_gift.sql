-- gifts.redeem_gift: one redeemer gets all, exactly once; the same redeemer asking again gets the
-- first answer again.
--
-- A refusal is returned as an outcome and not raised, so that the attempt stays written down.
--
-- Locks:  the gift row, then the redeemer's balance row.
-- Raises: MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found for an unknown code.
CREATE OR REPLACE FUNCTION gifts.redeem_gift(
    p_code text,
    p_user_id text,
    p_email text DEFAULT NULL,
    p_email_verified boolean DEFAULT NULL,
    p_source_app_id text DEFAULT NULL,
    p_id uuid DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL
)
RETURNS gifts.redemption
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_seen      gifts.gift_codes;
    v_gift      gifts.gift_codes;
    v_move      credits.move;
    v_available bigint;
    v_outcome   gifts.attempt_outcome;
    v_now       timestamptz;
BEGIN
    PERFORM credits._require_user_id(p_user_id);
    PERFORM credits._require(
        p_source_app_id IS NULL OR char_length(p_source_app_id) BETWEEN 1 AND 64,
        'sourceAppId', 'must have 1 to 64 characters'
    );
    SELECT * INTO v_seen FROM gifts.gift_codes WHERE code = gifts._normalize_code(p_code);
    IF NOT found THEN
        PERFORM credits._refuse_missing('gift');
    END IF;
    v_gift := gifts._lock_gift(v_seen.id);
    v_now := clock_timestamp();
    IF p_idempotency_key IS NOT NULL THEN
        PERFORM credits._lock_balance(p_user_id);
        PERFORM credits._replayed_call(
            p_user_id, 'user', p_idempotency_key, 'redeem_gift', v_gift.id::text
        );
    END IF;

    IF v_gift.redeemed_by = p_user_id THEN
        PERFORM credits._keep_call(
            p_user_id, 'user', p_idempotency_key, 'redeem_gift', v_gift.id::text, v_now
        );
        v_available := (credits.get_balance(p_user_id)).available;
        RETURN ROW(
            'success', v_gift.id, v_gift.total_credits, v_gift.message, v_gift.creator_name,
            NOT EXISTS (
                -- An attempt with this id may have been refused, before he got it otherwise.
                SELECT 1 FROM gifts.gift_redemptions
                WHERE user_id = p_user_id AND id = p_id AND outcome = 'success'
            ),
            v_available
        )::gifts.redemption;
    END IF;

    v_outcome := (CASE
        WHEN v_gift.status = 'depleted' AND v_seen.status = 'active' THEN 'failed_already_claimed'
        WHEN v_gift.status = 'depleted' THEN 'failed_depleted'
        WHEN v_gift.status = 'cancelled' THEN 'failed_cancelled'
        WHEN v_gift.status = 'expired' OR v_gift.expires_at <= v_now THEN 'failed_expired'
        WHEN v_gift.type = 'personalized'
            AND (
                p_email_verified IS FALSE
                OR lower(btrim(p_email)) IS DISTINCT FROM v_gift.target_email
            )
            THEN 'failed_wrong_user'
        ELSE 'success'
    END)::gifts.attempt_outcome;
    IF v_outcome <> 'success' THEN
        PERFORM gifts._record_attempt(
            p_user_id, p_id, v_gift.id, v_outcome, 0, p_source_app_id, v_now
        );
        RETURN ROW(v_outcome, v_gift.id, 0, NULL, NULL, false, NULL)::gifts.redemption;
    END IF;

    v_move := gifts._give(v_gift, p_user_id, p_source_app_id, p_id);
    PERFORM credits._keep_call(
        p_user_id, 'user', p_idempotency_key, 'redeem_gift', v_gift.id::text, v_now
    );
    RETURN ROW(
        'success', v_gift.id, v_gift.total_credits, v_gift.message, v_gift.creator_name, false,
        v_move.available
    )::gifts.redemption;
END
$$;
COMMENT ON FUNCTION gifts.redeem_gift(text, text, text, boolean, text, uuid, text) IS
'Gives a gift to whoever has its code; a personalized one only to the target''s address, unless it is known to be unverified. Every refusal is an outcome and is written down. Raises MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found';
