-- gifts._return_gifts: give the credits of these active gifts back to their creators.
--
-- Locks: the creators' balances by user_id; the caller holds the gifts.
-- Keeps: each gift goes back once (its ledger key is the gift's).
CREATE OR REPLACE FUNCTION gifts._return_gifts(
    p_gift_ids uuid [], p_status gifts.gift_status, p_now timestamptz
)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_moves credits.new_move [];
BEGIN
    PERFORM 1 FROM credits.balances AS b
    WHERE b.user_id IN (SELECT g.creator_id FROM gifts.gift_codes AS g WHERE g.id = ANY(p_gift_ids))
    ORDER BY b.user_id
    FOR UPDATE;

    SELECT array_agg(
        ROW(
            g.creator_id, NULL, 'gift', 'system', g.total_credits, 'system',
            CASE p_status WHEN 'expired' THEN 'Gift expired' ELSE 'Gift cancelled' END,
            NULL, g.id, 'gift-return:' || g.id
        )::credits.new_move
        ORDER BY g.expires_at, g.id
    ) INTO v_moves
    FROM gifts.gift_codes AS g
    WHERE g.id = ANY(p_gift_ids);
    PERFORM credits._record_moves(v_moves, p_now);
    UPDATE gifts.gift_codes SET
        status = p_status,
        target_email = CASE WHEN NOT forget_target THEN target_email END,
        updated_at = p_now
    WHERE id = ANY(p_gift_ids);
END
$$;
COMMENT ON FUNCTION gifts._return_gifts(uuid [], gifts.gift_status, timestamptz) IS
'Returns active gifts, which the caller has locked, to their creators, as expired or cancelled';
