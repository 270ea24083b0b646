-- gifts._give: hand the credits of a gift to its redeemer.
--
-- Locks: the redeemer's balance row; the caller holds the gift, which is active.
CREATE OR REPLACE FUNCTION gifts._give(
    p_gift gifts.gift_codes, p_user_id text, p_source_app_id text, p_id uuid
)
RETURNS credits.move
LANGUAGE plpgsql
AS $$
DECLARE
    v_move credits.move;
    v_now  timestamptz;
BEGIN
    PERFORM credits._lock_balance(p_user_id);
    v_now := clock_timestamp();
    v_move := credits._record_move(
        ROW(
            p_user_id, p_id, 'gift', 'system', p_gift.total_credits, 'system', 'Gift redeemed',
            NULL, p_gift.id, 'gift:' || p_gift.id
        )::credits.new_move,
        v_now
    );
    UPDATE gifts.gift_codes SET
        status = 'depleted',
        target_email = CASE WHEN NOT forget_target THEN target_email END,
        redeemed_by = p_user_id,
        redeemed_at = v_now,
        updated_at = v_now
    WHERE id = p_gift.id;
    PERFORM gifts._record_attempt(
        p_user_id, v_move.id, p_gift.id, 'success', p_gift.total_credits, p_source_app_id, v_now
    );
    RETURN v_move;
END
$$;
COMMENT ON FUNCTION gifts._give(gifts.gift_codes, text, text, uuid) IS
'Gives an active gift, which the caller has locked, to its redeemer';
