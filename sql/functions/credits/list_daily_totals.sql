-- credits.list_daily_totals: the whole ledger per day (UTC), newest first, today included.
--
-- Days that are over are read from daily_totals, and only those that it does not have yet from the
-- ledger: today, and before the nightly job has run yesterday. Before it has run at all, that is the
-- whole ledger.
--
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits.list_daily_totals(p_days integer DEFAULT 30)
RETURNS SETOF credits.day_totals
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_today   CONSTANT date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    v_counted credits.daily_totals;
    v_since   timestamptz := timestamptz '-infinity';
BEGIN
    PERFORM credits._require(
        p_days BETWEEN 1 AND 366, 'days', 'must be a whole number from 1 to 366'
    );
    SELECT * INTO v_counted FROM credits.daily_totals ORDER BY day DESC LIMIT 1;
    IF found THEN
        v_since := (v_counted.day + 1)::timestamp AT TIME ZONE 'UTC';
    END IF;
    RETURN QUERY
    WITH open_days AS MATERIALIZED (
        SELECT * FROM credits._sum_days(v_since, 'infinity')
    )
    SELECT
        n.day, coalesce(c.sold, o.sold, 0), coalesce(c.granted, o.granted, 0),
        coalesce(c.used, o.used, 0), coalesce(c.reversed, o.reversed, 0),
        coalesce(c.refunded, o.refunded, 0),
        CASE
            WHEN c.day IS NOT NULL THEN c.outstanding
            -- Before the first day that was counted there was nothing.
            WHEN n.day < v_counted.day THEN 0
            ELSE coalesce(v_counted.outstanding, 0) + coalesce(
                (SELECT sum(b.outstanding) FROM open_days AS b WHERE b.day <= n.day), 0
            )::bigint
        END
    FROM (
        SELECT v_today - g.number AS day FROM generate_series(0, p_days - 1) AS g (number)
    ) AS n
    LEFT JOIN credits.daily_totals AS c ON c.day = n.day AND c.day > v_today - p_days
    LEFT JOIN open_days AS o ON o.day = n.day
    ORDER BY n.day DESC;
END
$$;
COMMENT ON FUNCTION credits.list_daily_totals(integer) IS
'Credits sold, granted, used, reversed and refunded on each of the last p_days days (UTC), and what users had at its end, newest first. Raises MC001 invalid_request';
