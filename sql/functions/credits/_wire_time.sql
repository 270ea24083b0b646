-- credits._wire_time: a time as the REST contract writes it (ISO 8601, UTC, milliseconds).
CREATE OR REPLACE FUNCTION credits._wire_time(p_at timestamptz)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;
COMMENT ON FUNCTION credits._wire_time(timestamptz) IS
'Prints a time in UTC with milliseconds, as answers of the service have it';
