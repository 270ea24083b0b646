-- credits._write_charge_notices: tell these users that their next charge is not covered.
--
-- Locks: balances by user_id; the caller holds the subscriptions.
CREATE OR REPLACE FUNCTION credits._write_charge_notices(p_user_ids text [], p_now timestamptz)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    -- The notices' foreign key locks the balances, and all balances are locked in one order.
    PERFORM 1 FROM credits.balances WHERE user_id = ANY(p_user_ids) ORDER BY user_id FOR KEY SHARE;

    WITH announced AS (
        UPDATE credits.sync_subscriptions AS s SET announced_for = s.next_charge_at
        WHERE s.user_id = ANY(p_user_ids)
        RETURNING s.user_id, s.billing_interval, s.price, s.next_charge_at
    )
    INSERT INTO credits.notices (user_id, id, kind, data, next_attempt_at, created_at)
    SELECT
        a.user_id, credits._new_id(), 'charge_coming',
        jsonb_build_object(
            'interval', a.billing_interval,
            'price', a.price,
            'available', greatest(b.balance - b.reserved, 0),
            'dueAt', credits._utc_text(a.next_charge_at)
        ),
        p_now, p_now
    FROM announced AS a
    INNER JOIN credits.balances AS b ON b.user_id = a.user_id;
END
$$;
COMMENT ON FUNCTION credits._write_charge_notices(text [], timestamptz) IS
'Writes a notice of the coming charge for each of these users, whose subscriptions the caller has locked, and keeps which charge it was about';
