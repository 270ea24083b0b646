-- credits._recount_days: count days that are over, and write them into daily_totals.
--
-- Needs: the day before p_first is counted, or there is nothing before it.
CREATE OR REPLACE FUNCTION credits._recount_days(p_first date, p_last date)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_before CONSTANT bigint := coalesce(
        (
            SELECT d.outstanding FROM credits.daily_totals AS d
            WHERE d.day < p_first ORDER BY d.day DESC LIMIT 1
        ), 0
    );
BEGIN
    INSERT INTO credits.daily_totals AS c (
        day, sold, granted, used, reversed, refunded, outstanding
    )
    SELECT
        n.day, coalesce(s.sold, 0), coalesce(s.granted, 0), coalesce(s.used, 0),
        coalesce(s.reversed, 0), coalesce(s.refunded, 0),
        v_before + coalesce(sum(s.outstanding) OVER (ORDER BY n.day), 0)::bigint
    FROM (
        SELECT p_first + g.number AS day FROM generate_series(0, p_last - p_first) AS g (number)
    ) AS n
    LEFT JOIN credits._sum_days(
        p_first::timestamp AT TIME ZONE 'UTC', (p_last + 1)::timestamp AT TIME ZONE 'UTC'
    ) AS s ON s.day = n.day
    ORDER BY n.day
    ON CONFLICT (day) DO UPDATE SET
        sold = excluded.sold,
        granted = excluded.granted,
        used = excluded.used,
        reversed = excluded.reversed,
        refunded = excluded.refunded,
        outstanding = excluded.outstanding;
END
$$;
COMMENT ON FUNCTION credits._recount_days(date, date) IS
'Counts the days from p_first to p_last (UTC) into daily_totals';
