-- gifts.cancel_gift: the creator takes a gift back that nobody has redeemed; again is the same.
--
-- Locks:  the gift row, then the creator's balance row.
-- Raises: MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found (also for another
--         creator's gift), MC005 gift_not_active, MC006 gift_expired when it went back already.
CREATE OR REPLACE FUNCTION gifts.cancel_gift(
    p_user_id text, p_gift_id uuid, p_idempotency_key text DEFAULT NULL
)
RETURNS gifts.cancellation
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_gift     gifts.gift_codes;
    v_now      timestamptz;
    v_replayed boolean := true;
BEGIN
    PERFORM 1 FROM gifts.gift_codes WHERE id = p_gift_id AND creator_id = p_user_id;
    IF NOT found THEN
        PERFORM credits._refuse_missing('gift');
    END IF;
    v_gift := gifts._lock_gift(p_gift_id);
    IF v_gift.creator_id <> p_user_id THEN
        -- Erased, while this waited.
        PERFORM credits._refuse_missing('gift');
    END IF;
    PERFORM credits._lock_balance(p_user_id);
    v_now := clock_timestamp();
    PERFORM credits._replayed_call(
        p_user_id, 'user', p_idempotency_key, 'cancel_gift', p_gift_id::text
    );
    IF v_gift.status = 'active' THEN
        PERFORM gifts._return_gifts(ARRAY[p_gift_id], 'cancelled', v_now);
        v_replayed := false;
    ELSIF v_gift.status <> 'cancelled' THEN
        PERFORM gifts._refuse_gift(v_gift.status);
    END IF;
    PERFORM credits._keep_call(
        p_user_id, 'user', p_idempotency_key, 'cancel_gift', p_gift_id::text, v_now
    );
    RETURN ROW(
        v_gift.total_credits, v_replayed, (credits.get_balance(p_user_id)).available
    )::gifts.cancellation;
END
$$;
COMMENT ON FUNCTION gifts.cancel_gift(text, uuid, text) IS
'Returns a gift to its creator and ends it. Raises MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found, MC005 gift_not_active, MC006 gift_expired';
