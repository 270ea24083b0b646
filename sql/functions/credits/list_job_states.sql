-- credits.list_job_states: every job that is expected, and its last runs.
CREATE OR REPLACE FUNCTION credits.list_job_states()
RETURNS SETOF credits.job_state
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now CONSTANT timestamptz := clock_timestamp();
BEGIN
    RETURN QUERY
    SELECT
        j.job, l.started_at, e.ended_at, s.ended_at, e.did, e.error,
        coalesce(s.started_at, j.since) < credits._utc_add(v_now, -j.late_after)
    FROM credits.jobs AS j
    LEFT JOIN LATERAL (
        SELECT r.started_at FROM credits.job_runs AS r
        WHERE r.job = j.job
        ORDER BY r.started_at DESC LIMIT 1
    ) AS l ON true
    LEFT JOIN LATERAL (
        SELECT r.ended_at, r.did, r.error FROM credits.job_runs AS r
        WHERE r.job = j.job AND r.ended_at IS NOT NULL
        ORDER BY r.started_at DESC LIMIT 1
    ) AS e ON true
    LEFT JOIN LATERAL (
        SELECT r.started_at, r.ended_at FROM credits.job_runs AS r
        WHERE r.job = j.job AND r.ended_at IS NOT NULL AND r.error IS NULL
        ORDER BY r.started_at DESC LIMIT 1
    ) AS s ON true
    ORDER BY j.job;
END
$$;
COMMENT ON FUNCTION credits.list_job_states() IS
'Every job: when it last began, ended and succeeded, what the last run that ended did, and whether it is late';
