-- credits.list_purchases: a user's purchases, newest first.
CREATE OR REPLACE FUNCTION credits.list_purchases(
    p_user_id text, p_limit integer DEFAULT 50, p_offset integer DEFAULT 0
)
RETURNS SETOF credits.purchase
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Ids are time-ordered, so that the primary key serves the order as well.
    RETURN QUERY
    SELECT m.*
    FROM (
        SELECT p AS purchase
        FROM credits.purchases AS p
        WHERE p.user_id = p_user_id
        ORDER BY p.id DESC
        LIMIT p_limit OFFSET p_offset
    ) AS page
    CROSS JOIN LATERAL credits._as_purchase(page.purchase, false) AS m;
END
$$;
COMMENT ON FUNCTION credits.list_purchases(text, integer, integer) IS
'A user''s purchases, newest first';
