-- credits.run_charge_notices: the job that tells of charges that are coming and not covered.
CREATE OR REPLACE PROCEDURE credits.run_charge_notices(p_batch_size integer DEFAULT 500)
LANGUAGE plpgsql
AS $$
DECLARE
    v_run    uuid;
    v_batch  credits.batch_result;
    v_done   bigint := 0;
    v_errors bigint := 0;
    v_error  text;
BEGIN
    v_run := credits.begin_job_run('charge-notices');
    COMMIT;
    v_batch.last_at := '-infinity';
    v_batch.last_key := '';
    LOOP
        BEGIN
            v_batch := credits.announce_charges(p_batch_size, v_batch.last_at, v_batch.last_key);
            v_done := v_done + v_batch.done;
            v_errors := v_errors + v_batch.errors;
        EXCEPTION WHEN OTHERS OR assert_failure THEN
            v_error := sqlstate || ' ' || sqlerrm;
            v_batch.more := false;
        END;
        PERFORM credits.update_job_run(
            v_run, jsonb_build_object('announced', v_done, 'errors', v_errors), v_error,
            p_ended => NOT v_batch.more
        );
        COMMIT;
        EXIT WHEN NOT v_batch.more;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE credits.run_charge_notices(integer) IS
'Job charge-notices: writes a notice for every charge within 3 days that is not covered';
