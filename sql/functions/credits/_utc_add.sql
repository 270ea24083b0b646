-- credits._utc_add: a time plus an interval, counted in UTC.
--
-- A bare timestamptz + interval counts in the session's TimeZone, and so is not immutable: a
-- month, or a day over a change of the clocks, would end at another moment in Berlin than in Auckland.
CREATE OR REPLACE FUNCTION credits._utc_add(p_at timestamptz, p_interval interval)
RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT (p_at AT TIME ZONE 'UTC' + p_interval) AT TIME ZONE 'UTC'
$$;
COMMENT ON FUNCTION credits._utc_add(timestamptz, interval) IS
'Adds an interval to a time, counting months and days in UTC whatever the session''s TimeZone';
