-- credits._count_days: bring daily_totals up to the last day that is over for an hour.
--
-- A row's time is read before it commits, so that a day can still gain a row when it is over: the last
-- three days that were counted are counted again. Should a transaction have taken even longer, or a
-- row have been lost and restored, the end does not meet what users have now, and then all days are
-- counted anew. The ledger is read from the first of these days on, in a usual night that is four days.
CREATE OR REPLACE FUNCTION credits._count_days(p_now timestamptz)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_last    CONSTANT date := (credits._utc_add(p_now, '-1 hour') AT TIME ZONE 'UTC')::date - 1;
    v_counted CONSTANT date := (SELECT max(d.day) FROM credits.daily_totals AS d);
    v_first   date;
BEGIN
    IF v_counted IS NOT NULL THEN
        v_first := (SELECT min(d.day) FROM credits.daily_totals AS d);
        PERFORM credits._recount_days(greatest(v_counted - 2, v_first), v_last);
        -- In one statement, so that all of it is of one moment.
        IF (
            SELECT
                (SELECT coalesce(sum(b.balance), 0) FROM credits.balances AS b)
                + (
                    SELECT coalesce(sum(g.total_credits), 0) FROM gifts.gift_codes AS g
                    WHERE g.status = 'active'
                )
                = d.outstanding
                + (
                    SELECT coalesce(sum(s.outstanding), 0)
                    FROM credits._sum_days(
                        (d.day + 1)::timestamp AT TIME ZONE 'UTC', 'infinity'
                    ) AS s
                )
            FROM credits.daily_totals AS d
            ORDER BY d.day DESC
            LIMIT 1
        ) THEN
            RETURN;
        END IF;
    END IF;
    v_first := (
        SELECT (min(t.created_at) AT TIME ZONE 'UTC')::date FROM credits.transactions AS t
    );
    IF v_first <= v_last THEN
        PERFORM credits._recount_days(v_first, v_last);
    END IF;
END
$$;
COMMENT ON FUNCTION credits._count_days(timestamptz) IS
'Adds the days that are over to daily_totals, and mends it where it does not meet what users have';
