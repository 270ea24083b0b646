-- credits.get_balances: what these users have, one row for each place of the array, in its order.
CREATE OR REPLACE FUNCTION credits.get_balances(p_user_ids text [])
RETURNS SETOF credits.balance_summary
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT
        u.user_id,
        coalesce(b.balance - b.reserved, 0),
        coalesce(b.reserved, 0),
        coalesce(b.total_earned, 0),
        coalesce(b.total_spent, 0),
        coalesce(b.last_seq, 0),
        coalesce(b.version, 0),
        b.created_at,
        b.updated_at
    FROM unnest(p_user_ids) WITH ORDINALITY AS u (user_id, place)
    LEFT JOIN credits.balances AS b ON b.user_id = u.user_id
    ORDER BY u.place;
END
$$;
COMMENT ON FUNCTION credits.get_balances(text []) IS
'What these users have, in the order of the array: available is what can be spent, reserved what open reservations hold; zeros for a user never seen';
