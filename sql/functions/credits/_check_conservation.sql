-- credits._check_conservation: no credit appears or vanishes over the whole database (database.md,
-- rule 4).
--
-- Σ book balances + Σ active gifts = Σ purchased + Σ granted + Σ refunded − Σ used − Σ reversed
-- − Σ forfeited, and Σ reserved = Σ open reservations. Gift rows are on neither side of it: what left one user
-- is in an active gift, or has reached another.
CREATE OR REPLACE FUNCTION credits._check_conservation()
RETURNS SETOF credits.violation
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN QUERY
    SELECT 'conservation', NULL::text, to_jsonb(s)
    FROM (
        SELECT
            (SELECT coalesce(sum(b.balance), 0) FROM credits.balances AS b) AS balances,
            (
                SELECT coalesce(sum(g.total_credits), 0) FROM gifts.gift_codes AS g
                WHERE g.status = 'active'
            ) AS "activeGifts",
            (
                SELECT coalesce(sum(t.amount), 0) FROM credits.transactions AS t
                WHERE t.type <> 'gift'
            ) AS "netOfLedger"
    ) AS s
    WHERE s.balances + s."activeGifts" <> s."netOfLedger"

    UNION ALL
    SELECT 'conservation_of_holds', NULL::text, to_jsonb(s)
    FROM (
        SELECT
            (SELECT coalesce(sum(b.reserved), 0) FROM credits.balances AS b) AS reserved,
            (
                SELECT coalesce(sum(r.amount), 0) FROM credits.reservations AS r
                WHERE r.status = 'open'
            ) AS "openReservations"
    ) AS s
    WHERE s.reserved <> s."openReservations";
END
$$;
COMMENT ON FUNCTION credits._check_conservation() IS
'Violations of the conservation of credits over the whole database';
