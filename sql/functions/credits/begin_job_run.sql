-- credits.begin_job_run: a job begins, and says so before it does anything.
--
-- Raises: MC004 not_found for a job that is not in credits.jobs.
CREATE OR REPLACE FUNCTION credits.begin_job_run(p_job text)
RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id CONSTANT uuid := credits._new_id();
BEGIN
    IF NOT EXISTS (SELECT 1 FROM credits.jobs WHERE job = p_job) THEN
        PERFORM credits._refuse_missing('job');
    END IF;
    INSERT INTO credits.job_runs (id, job, started_at) VALUES (v_id, p_job, clock_timestamp());
    RETURN v_id;
END
$$;
COMMENT ON FUNCTION credits.begin_job_run(text) IS
'Records that a job begins, and returns the run''s id. Raises MC004 not_found';
