-- gifts.list_created_gifts: the gifts a user made, newest first.
CREATE OR REPLACE FUNCTION gifts.list_created_gifts(
    p_user_id text, p_limit integer DEFAULT 50, p_offset integer DEFAULT 0
)
RETURNS SETOF gifts.gift
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT m.*
    FROM (
        SELECT g AS gift
        FROM gifts.gift_codes AS g
        WHERE g.creator_id = p_user_id
        ORDER BY g.created_at DESC, g.id DESC
        LIMIT p_limit OFFSET p_offset
    ) AS page
    CROSS JOIN LATERAL gifts._as_gift(page.gift, false) AS m;
END
$$;
COMMENT ON FUNCTION gifts.list_created_gifts(text, integer, integer) IS
'The gifts a user made, newest first';
