-- credits.update_job_run: what a job has done so far; with p_ended it is over.
CREATE OR REPLACE FUNCTION credits.update_job_run(
    p_id uuid, p_did jsonb, p_error text DEFAULT NULL, p_ended boolean DEFAULT false
)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now CONSTANT timestamptz := clock_timestamp();
BEGIN
    UPDATE credits.job_runs SET
        did = p_did,
        error = p_error,
        batches = batches + 1,
        last_batch_at = v_now,
        ended_at = CASE WHEN p_ended THEN v_now END
    WHERE id = p_id;
END
$$;
COMMENT ON FUNCTION credits.update_job_run(uuid, jsonb, text, boolean) IS
'Records what a run of a job did so far, its error, and that it is over';
