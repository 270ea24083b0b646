-- credits._known_addresses: every address that is known to be a user's, in lower case.
--
-- The last one from a token or from Stripe, those to which notices went, and those by which he
-- redeemed personalized gifts.
CREATE OR REPLACE FUNCTION credits._known_addresses(p_user_id text)
RETURNS text []
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(array_agg(a.email), '{}')
    FROM (
        SELECT lower(c.email) AS email FROM credits.contacts AS c WHERE c.user_id = p_user_id
        UNION
        SELECT lower(n.recipient) FROM credits.notices AS n
        WHERE n.user_id = p_user_id AND n.recipient IS NOT NULL
        UNION
        SELECT g.target_email
        FROM gifts.gift_redemptions AS r
        INNER JOIN gifts.gift_codes AS g ON g.id = r.gift_id
        WHERE r.user_id = p_user_id AND r.outcome = 'success' AND g.target_email IS NOT NULL
    ) AS a
$$;
COMMENT ON FUNCTION credits._known_addresses(text) IS
'The addresses that are known to be a user''s, in lower case';
