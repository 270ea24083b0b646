-- credits._sum_days: the ledger from one time to before another, added up per day (UTC).
--
-- outstanding is here what the day added to it: gift rows are on neither side of it, since what has
-- left one user is in an active gift, or has reached another (see _check_conservation).
CREATE OR REPLACE FUNCTION credits._sum_days(p_since timestamptz, p_until timestamptz)
RETURNS SETOF credits.day_totals
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN QUERY
    SELECT
        (t.created_at AT TIME ZONE 'UTC')::date,
        coalesce(sum(t.amount) FILTER (WHERE t.type = 'purchase'), 0)::bigint,
        coalesce(sum(t.amount) FILTER (WHERE t.type = 'grant'), 0)::bigint,
        coalesce(-sum(t.amount) FILTER (WHERE t.type = 'usage'), 0)::bigint,
        coalesce(-sum(t.amount) FILTER (WHERE t.type = 'reversal'), 0)::bigint,
        coalesce(sum(t.amount) FILTER (WHERE t.type = 'refund'), 0)::bigint,
        coalesce(sum(t.amount) FILTER (WHERE t.type <> 'gift'), 0)::bigint
    FROM credits.transactions AS t
    WHERE t.created_at >= p_since AND t.created_at < p_until
    GROUP BY 1;
END
$$;
COMMENT ON FUNCTION credits._sum_days(timestamptz, timestamptz) IS
'Adds the ledger up per day (UTC); outstanding is what the day added to it';
