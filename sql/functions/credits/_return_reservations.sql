-- credits._return_reservations: give the credits of these open reservations back, as expired.
--
-- Locks: balances by user_id; the caller holds the reservations.
CREATE OR REPLACE FUNCTION credits._return_reservations(
    p_user_ids text [], p_ids uuid [], p_now timestamptz
)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM 1 FROM credits.balances WHERE user_id = ANY(p_user_ids) ORDER BY user_id FOR UPDATE;
    WITH returned AS (
        UPDATE credits.reservations AS r SET status = 'expired', resolved_at = p_now
        WHERE r.user_id = ANY(p_user_ids) AND r.id = ANY(p_ids)
        RETURNING r.user_id, r.amount
    )
    UPDATE credits.balances AS b SET
        reserved = b.reserved - s.amount,
        version = b.version + 1,
        updated_at = p_now
    FROM (SELECT user_id, sum(amount)::bigint AS amount FROM returned GROUP BY user_id) AS s
    WHERE b.user_id = s.user_id;
END
$$;
COMMENT ON FUNCTION credits._return_reservations(text [], uuid [], timestamptz) IS
'Gives the credits of open reservations back to their users and marks them expired';
