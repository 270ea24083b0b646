-- credits.run_pruning: the job that clears what is kept for a while only.
CREATE OR REPLACE PROCEDURE credits.run_pruning(p_batch_size integer DEFAULT 500)
LANGUAGE plpgsql
AS $$
DECLARE
    v_run      uuid;
    v_batch    credits.batch_result;
    v_payloads bigint := 0;
    v_runs     integer := 0;
    v_error    text;
BEGIN
    v_run := credits.begin_job_run('pruning');
    COMMIT;
    LOOP
        BEGIN
            v_batch := credits.prune_stripe_payloads(p_batch_size);
            v_payloads := v_payloads + v_batch.done;
            IF NOT v_batch.more THEN
                v_runs := credits.prune_job_runs();
            END IF;
        EXCEPTION WHEN OTHERS OR assert_failure THEN
            v_error := sqlstate || ' ' || sqlerrm;
            v_batch.more := false;
        END;
        PERFORM credits.update_job_run(
            v_run, jsonb_build_object('payloads', v_payloads, 'jobRuns', v_runs), v_error,
            p_ended => NOT v_batch.more
        );
        COMMIT;
        EXIT WHEN NOT v_batch.more;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE credits.run_pruning(integer) IS
'Job pruning: clears the payloads of Stripe events older than 90 days, and job runs older than 30 days';
