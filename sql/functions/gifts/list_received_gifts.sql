-- gifts.list_received_gifts: the gifts a user redeemed, newest first.
CREATE OR REPLACE FUNCTION gifts.list_received_gifts(
    p_user_id text, p_limit integer DEFAULT 50, p_offset integer DEFAULT 0
)
RETURNS SETOF gifts.received_gift
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Ids of attempts are time-ordered, so that the primary key serves the order as well.
    RETURN QUERY
    SELECT
        g.id, g.code, r.credits, g.message, g.creator_name, g.status, r.source_app_id,
        r.created_at, g.created_at
    FROM gifts.gift_redemptions AS r
    INNER JOIN gifts.gift_codes AS g ON g.id = r.gift_id
    WHERE r.user_id = p_user_id AND r.outcome = 'success'
    ORDER BY r.id DESC
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION gifts.list_received_gifts(text, integer, integer) IS
'The gifts a user redeemed, newest first';
