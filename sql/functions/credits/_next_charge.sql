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
    WITH elapsed AS (
        SELECT (
            extract(year FROM p_now AT TIME ZONE 'UTC') * 12
            + extract(month FROM p_now AT TIME ZONE 'UTC')
            - extract(year FROM p_anchor_at AT TIME ZONE 'UTC') * 12
            - extract(month FROM p_anchor_at AT TIME ZONE 'UTC')
        )::integer AS months
    ),
    -- The last date that can lie in the month of p_now, and the one behind it: one of the two
    -- is the first behind p_now.
    candidates AS (
        SELECT n.periods, p_month + n.periods * p_months AS month
        FROM elapsed AS e
        CROSS JOIN LATERAL (VALUES
            (greatest(1, (e.months - p_month) / p_months)),
            (greatest(1, (e.months - p_month) / p_months) + 1)
        ) AS n (periods)
    )
    SELECT c.month, d.at, c.periods - 1
    FROM candidates AS c
    CROSS JOIN LATERAL (
        SELECT credits._utc_add(p_anchor_at, make_interval(months => c.month)) AS at
    ) AS d
    WHERE d.at > p_now
    ORDER BY c.periods
    LIMIT 1
$$;
COMMENT ON FUNCTION credits._next_charge(timestamptz, integer, integer, timestamptz) IS
'The first date of an anchor behind p_now, and how many dates before it are skipped';
