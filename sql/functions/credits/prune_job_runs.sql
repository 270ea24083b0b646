-- credits.prune_job_runs: forget the runs of jobs that are over for more than 30 days.
--
-- The last success and the last run of every job stay, since readiness looks at them.
CREATE OR REPLACE FUNCTION credits.prune_job_runs()
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_before CONSTANT timestamptz := credits._utc_add(clock_timestamp(), '-30 days');
    v_pruned integer;
BEGIN
    DELETE FROM credits.job_runs AS r
    WHERE r.started_at < v_before
        AND r.id <> (
            SELECT l.id FROM credits.job_runs AS l
            WHERE l.job = r.job
            ORDER BY l.started_at DESC LIMIT 1
        )
        AND r.id IS DISTINCT FROM (
            SELECT l.id FROM credits.job_runs AS l
            WHERE l.job = r.job AND l.ended_at IS NOT NULL AND l.error IS NULL
            ORDER BY l.started_at DESC LIMIT 1
        );
    GET DIAGNOSTICS v_pruned = ROW_COUNT;
    RETURN v_pruned;
END
$$;
COMMENT ON FUNCTION credits.prune_job_runs() IS
'Deletes job runs older than 30 days, but never the last run and the last success of a job';
