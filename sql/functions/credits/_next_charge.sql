-- credits._next_charge: the first date of an anchor behind a given time.
--
-- Dates are counted from the anchor's day, not from the last charge, so that 31 January goes on
-- with 28 February and then 31 March; in UTC. p_month is how many months after the anchor the
-- period ends that is to be continued, p_months how long an interval is. periods_skipped counts
-- the dates that have passed as well, for which nobody is charged (database.md, Anchors).
CREATE OR REPLACE FUNCTION credits._next_charge(
    p_anchor_at timestamptz, p_month integer, p_months integer, p_now timestamptz
)
RETURNS TABLE (next_month integer, next_at timestamptz, periods_skipped integer)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT
        p_month + f.periods * p_months,
        credits._utc_add(p_anchor_at, make_interval(months => p_month + f.periods * p_months)),
        f.periods - 1
    FROM (
        SELECT CASE
            -- Whoever is charged on time needs no more than this.
            WHEN credits._utc_add(p_anchor_at, make_interval(months => p_month + p_months)) > p_now
                THEN 1
            ELSE (
                -- The last date that can lie in the month of p_now, or the one behind it.
                SELECT
                    l.periods + (
                        credits._utc_add(
                            p_anchor_at, make_interval(months => p_month + l.periods * p_months)
                        ) <= p_now
                    )::integer
                FROM (
                    SELECT greatest(1, (e.months - p_month) / p_months) AS periods
                    FROM (
                        SELECT (
                            extract(year FROM p_now AT TIME ZONE 'UTC') * 12
                            + extract(month FROM p_now AT TIME ZONE 'UTC')
                            - extract(year FROM p_anchor_at AT TIME ZONE 'UTC') * 12
                            - extract(month FROM p_anchor_at AT TIME ZONE 'UTC')
                        )::integer AS months
                    ) AS e
                ) AS l
            )
        END AS periods
        -- Counted once: without this it would be put in the place of each of its names.
        OFFSET 0
    ) AS f
$$;
COMMENT ON FUNCTION credits._next_charge(timestamptz, integer, integer, timestamptz) IS
'The first date of an anchor behind p_now, and how many dates before it are skipped';
