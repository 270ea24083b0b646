-- credits._check_gifts: every gift has the ledger rows that its status says, and none besides.
CREATE OR REPLACE FUNCTION credits._check_gifts(p_user_id text)
RETURNS SETOF credits.violation
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN QUERY
    WITH found AS (
        SELECT
            t.reference_id AS gift_id, t.user_id, t.amount,
            row_number() OVER (PARTITION BY t.reference_id, t.user_id, t.amount ORDER BY t.seq) AS copy
        FROM credits.transactions AS t
        WHERE t.type = 'gift' AND (p_user_id IS NULL OR t.user_id = p_user_id)
    ),
    expected AS (
        SELECT g.id AS gift_id, g.creator_id AS user_id, -g.total_credits AS amount, 1::bigint AS copy
        FROM gifts.gift_codes AS g
        UNION ALL
        SELECT g.id, coalesce(g.redeemed_by, g.creator_id), g.total_credits, 1::bigint
        FROM gifts.gift_codes AS g
        WHERE g.status <> 'active'
    )
    SELECT
        'gift', coalesce(e.user_id, f.user_id),
        jsonb_build_object(
            'giftId', coalesce(e.gift_id, f.gift_id), 'expected', e.amount, 'ledgerAmount', f.amount
        )
    FROM (SELECT x.* FROM expected AS x WHERE p_user_id IS NULL OR x.user_id = p_user_id) AS e
    FULL JOIN found AS f ON f.gift_id = e.gift_id
        AND f.user_id = e.user_id AND f.amount = e.amount AND f.copy = e.copy
    WHERE e.gift_id IS NULL OR f.gift_id IS NULL;
END
$$;
COMMENT ON FUNCTION credits._check_gifts(text) IS
'Gifts whose ledger rows are not what their status says, for one user or (null) for all';
