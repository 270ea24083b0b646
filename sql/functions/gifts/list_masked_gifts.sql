-- gifts.list_masked_gifts: the gifts a user made as support sees them, newest first.
--
-- The code of an active gift is money: masked as in masked_gift_codes.
CREATE OR REPLACE FUNCTION gifts.list_masked_gifts(
    p_user_id text, p_limit integer DEFAULT 50, p_offset integer DEFAULT 0
)
RETURNS SETOF gifts.masked_gift
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT
        g.id, g.code, g.creator_id, g.creator_name, g.total_credits, g.type, g.status,
        g.target_email, g.message, g.expires_at, g.redeemed_by, g.redeemed_at, g.created_at,
        g.updated_at
    FROM gifts.masked_gift_codes AS g
    WHERE g.creator_id = p_user_id
    ORDER BY g.created_at DESC, g.id DESC
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION gifts.list_masked_gifts(text, integer, integer) IS
'The gifts a user made, newest first, with the codes of active ones masked';
