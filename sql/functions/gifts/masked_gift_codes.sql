-- gifts.masked_gift_codes: the gifts for support and reporting. The code of an active gift is
-- money, so whoever only reads sees the code of none that could still be redeemed.
CREATE OR REPLACE VIEW gifts.masked_gift_codes AS
SELECT
    g.id,
    CASE g.status WHEN 'active' THEN repeat('*', length(g.code)) ELSE g.code END AS code,
    g.creator_id,
    g.creator_name,
    g.total_credits,
    g.type,
    g.status,
    g.target_email,
    g.message,
    g.expires_at,
    g.redeemed_by,
    g.redeemed_at,
    g.created_at,
    g.updated_at,
    g.forget_target
FROM gifts.gift_codes AS g;
COMMENT ON VIEW gifts.masked_gift_codes IS
'Gift codes with the codes of active gifts masked; what mana_credits_readonly sees of them';
