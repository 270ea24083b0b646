-- credits.run_pruning: the job that clears what is kept for a while only.
CREATE OR REPLACE PROCEDURE credits.run_pruning(p_batch_size integer DEFAULT 500)
LANGUAGE plpgsql
AS $$
DECLARE
    v_run      uuid;
    v_batch    credits.batch_result;
    v_payloads bigint := 0;
    v_limits   bigint := 0;
    v_more     boolean;
    v_runs     integer := 0;
    v_error    text;
BEGIN
    v_run := credits.begin_job_run('pruning');
    COMMIT;
    LOOP
        BEGIN
            v_batch := credits.prune_stripe_payloads(p_batch_size);
            v_payloads := v_payloads + v_batch.done;
            v_more := v_batch.more;
            v_batch := credits._prune_rate_limits(clock_timestamp(), p_batch_size);
            v_limits := v_limits + v_batch.done;
            v_more := v_more OR v_batch.more;
            IF NOT v_more THEN
                v_runs := credits.prune_job_runs();
            END IF;
        EXCEPTION WHEN OTHERS OR assert_failure THEN
            v_error := sqlstate || ' ' || sqlerrm;
            v_more := false;
        END;
        PERFORM credits.update_job_run(
            v_run,
            jsonb_build_object('payloads', v_payloads, 'rateLimits', v_limits, 'jobRuns', v_runs),
            v_error,
            p_ended => NOT v_more
        );
        COMMIT;
        EXIT WHEN NOT v_more;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE credits.run_pruning(integer) IS
'Job pruning: clears the payloads of Stripe events older than 90 days, rate limits that count no more, and job runs older than 30 days';
