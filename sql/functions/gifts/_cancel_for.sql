-- gifts._cancel_for: what a reversal takes comes out of the payer's active gifts before his balance
-- goes below zero, out of the newest first (database.md, Purchases).
--
-- Locks:  the gifts that are needed and are not locked yet, without waiting, since they come
--         before the balance; the caller holds the payer's balance row.
-- Raises: 55P03 lock_not_available where one of them is being redeemed at this moment: whoever
--         called begins again.
CREATE OR REPLACE FUNCTION gifts._cancel_for(p_user_id text, p_credits bigint, p_now timestamptz)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_short  bigint;
    v_ids    uuid [];
    v_locked bigint;
BEGIN
    SELECT p_credits - (b.balance - b.reserved) INTO STRICT v_short
    FROM credits.balances AS b
    WHERE b.user_id = p_user_id;
    SELECT array_agg(n.id) INTO v_ids
    FROM (
        SELECT
            g.id,
            sum(g.total_credits) OVER (ORDER BY g.created_at DESC, g.id DESC) - g.total_credits
                AS covered
        FROM gifts.gift_codes AS g
        WHERE g.creator_id = p_user_id AND g.status = 'active'
    ) AS n
    WHERE n.covered < v_short;
    IF v_ids IS NULL THEN
        RETURN;
    END IF;
    SELECT count(*) INTO v_locked
    FROM (
        SELECT 1 FROM gifts.gift_codes
        WHERE id = ANY(v_ids) AND status = 'active'
        FOR UPDATE SKIP LOCKED
    ) AS l;
    IF v_locked < cardinality(v_ids) THEN
        RAISE lock_not_available USING MESSAGE = 'a gift of the payer is being redeemed';
    END IF;
    PERFORM gifts._return_gifts(v_ids, 'cancelled', p_now);
END
$$;
COMMENT ON FUNCTION gifts._cancel_for(text, bigint, timestamptz) IS
'Cancels as many of a user''s active gifts, newest first, as are needed to cover an amount; the caller has locked his balance';
