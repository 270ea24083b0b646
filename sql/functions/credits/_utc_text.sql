-- credits._utc_text: a time as text that is the same in every session (ISO 8601, UTC, microseconds).
CREATE OR REPLACE FUNCTION credits._utc_text(p_at timestamptz)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;
COMMENT ON FUNCTION credits._utc_text(timestamptz) IS 'Prints a time in UTC with microseconds';
