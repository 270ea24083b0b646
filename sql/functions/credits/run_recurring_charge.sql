-- credits.run_recurring_charge: the job that charges what is due, batch by batch.
--
-- It commits after every batch, so that a crash loses at most the open one, which the next run
-- does again; then it rests as pace_charges says, with nothing held. A procedure that commits can
-- be neither SECURITY DEFINER nor carry SET: a bare loop around functions that are both.
CREATE OR REPLACE PROCEDURE credits.run_recurring_charge(p_batch_size integer DEFAULT 500)
LANGUAGE plpgsql
AS $$
DECLARE
    v_run     uuid;
    v_batch   credits.charge_result;
    v_pace    credits.charge_pace;
    v_began   timestamptz;
    v_charged bigint := 0;
    v_paused  bigint := 0;
    v_errors  bigint := 0;
    v_error   text;
BEGIN
    v_run := credits.begin_job_run('recurring-charge');
    COMMIT;
    v_batch.last_at := '-infinity';
    v_batch.last_key := '';
    LOOP
        v_began := clock_timestamp();
        BEGIN
            -- The first time it refuses a size that is none.
            v_pace := coalesce(v_pace, credits.pace_charges(p_batch_size));
            v_batch := credits.charge_due_subscriptions(
                v_pace.batch_size, v_batch.last_at, v_batch.last_key
            );
            v_charged := v_charged + v_batch.charged;
            v_paused := v_paused + v_batch.paused;
            v_errors := v_errors + v_batch.errors;
        EXCEPTION WHEN OTHERS OR assert_failure THEN
            v_error := sqlstate || ' ' || sqlerrm;
            v_batch.more := false;
        END;
        PERFORM credits.update_job_run(
            v_run,
            jsonb_build_object('charged', v_charged, 'paused', v_paused, 'errors', v_errors),
            v_error, p_ended => NOT v_batch.more
        );
        COMMIT;
        EXIT WHEN NOT v_batch.more;
        v_pace := credits.pace_charges(
            p_batch_size,
            (extract(epoch FROM clock_timestamp() - v_began) * 1000)::integer,
            v_pace.seen
        );
        PERFORM pg_sleep(v_pace.rest_ms / 1000.0);
    END LOOP;
END
$$;
COMMENT ON PROCEDURE credits.run_recurring_charge(integer) IS
'Job recurring-charge: charges every due subscription, committing after each batch';
