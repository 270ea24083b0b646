-- credits.begin_job_run: a job begins, and says so before it does anything.
--
-- A run that never said that it ended, since its connection or the server went away, is closed here
-- an hour after it began. One that lives all the same takes that back with its next batch.
--
-- Of a charge run it keeps how many subscriptions are due as it begins, so that whoever looks sees
-- how far it is.
--
-- Raises: MC004 not_found for a job that is not in credits.jobs.
CREATE OR REPLACE FUNCTION credits.begin_job_run(p_job text)
RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id     CONSTANT uuid := credits._new_id();
    v_now    CONSTANT timestamptz := clock_timestamp();
    v_before CONSTANT timestamptz := credits._utc_add(v_now, '-1 hour');
BEGIN
    IF NOT EXISTS (SELECT 1 FROM credits.jobs WHERE job = p_job) THEN
        PERFORM credits._refuse_missing('job');
    END IF;
    UPDATE credits.job_runs SET ended_at = v_now, error = 'cut off: it never said that it ended'
    WHERE job = p_job AND started_at < v_before AND ended_at IS NULL;
    INSERT INTO credits.job_runs (id, job, started_at, total)
    VALUES (
        v_id, p_job, v_now,
        CASE WHEN p_job = 'recurring-charge' THEN (
            SELECT count(*) FROM credits.sync_subscriptions WHERE due_at <= v_now
        ) END
    );
    RETURN v_id;
END
$$;
COMMENT ON FUNCTION credits.begin_job_run(text) IS
'Records that a job begins, and returns the run''s id. Raises MC004 not_found';
