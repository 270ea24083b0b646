-- credits._reversed_status: the status of a purchase that has given its credits.
--
-- It follows from its refunds and disputes alone, so that a dispute that is won leaves the status
-- that there would be without it (sql/README.md, Where a payment stands).
CREATE OR REPLACE FUNCTION credits._reversed_status(p_purchase credits.purchases)
RETURNS credits.purchase_status
LANGUAGE sql STABLE
AS $$
    SELECT (CASE
        WHEN EXISTS (
            SELECT 1 FROM credits.stripe_disputes AS d
            WHERE d.user_id = p_purchase.user_id AND d.purchase_id = p_purchase.id
                AND d.phase IN ('open', 'lost')
        ) THEN 'disputed'
        WHEN r.refunded >= p_purchase.price_euro_cents THEN 'refunded'
        WHEN r.refunded > 0 THEN 'partially_refunded'
        ELSE 'completed'
    END)::credits.purchase_status
    FROM (
        SELECT sum(s.amount_euro_cents) AS refunded
        FROM credits.stripe_refunds AS s
        WHERE s.user_id = p_purchase.user_id AND s.purchase_id = p_purchase.id
            AND credits._refund_rank(s.status) < 2
    ) AS r
$$;
COMMENT ON FUNCTION credits._reversed_status(credits.purchases) IS
'completed, partially_refunded, refunded or disputed, as the refunds and disputes of a paid purchase say';
