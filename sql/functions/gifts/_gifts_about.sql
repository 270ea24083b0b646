-- gifts._gifts_about: the gifts that a user made, that he redeemed, or that are for his addresses.
CREATE OR REPLACE FUNCTION gifts._gifts_about(p_user_id text, p_addresses text [])
RETURNS uuid []
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(array_agg(a.id), '{}')
    FROM (
        SELECT g.id FROM gifts.gift_codes AS g WHERE g.creator_id = p_user_id
        UNION
        SELECT r.gift_id FROM gifts.gift_redemptions AS r
        WHERE r.user_id = p_user_id AND r.outcome = 'success'
        UNION
        SELECT g.id FROM gifts.gift_codes AS g
        WHERE g.status = 'active' AND g.target_email = ANY(p_addresses)
        UNION
        SELECT g.id FROM gifts.gift_codes AS g
        WHERE g.status <> 'active' AND g.target_email = ANY(p_addresses)
    ) AS a
$$;
COMMENT ON FUNCTION gifts._gifts_about(text, text []) IS
'Ids of the gifts that a user made or redeemed, and of those for his addresses';
