-- credits.run_ledger_check: the job that checks the money rules and keeps what it found, and then adds
-- up the days that are over.
CREATE OR REPLACE PROCEDURE credits.run_ledger_check()
LANGUAGE plpgsql
AS $$
DECLARE
    v_run   uuid;
    v_did   jsonb;
    v_error text;
BEGIN
    v_run := credits.begin_job_run('ledger-check');
    COMMIT;
    BEGIN
        -- The count is whole; of the violations themselves a hundred are enough to begin with.
        SELECT jsonb_build_object(
            'violations', count(*),
            'first', coalesce(jsonb_agg(to_jsonb(c) - 'place') FILTER (WHERE c.place <= 100), '[]')
        ) INTO v_did
        FROM (
            SELECT v.*, row_number() OVER (ORDER BY v.rule, v.user_id) AS place
            FROM credits.check_ledger() AS v
        ) AS c;
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        v_error := sqlstate || ' ' || sqlerrm;
    END;
    BEGIN
        PERFORM credits._count_days(clock_timestamp());
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        v_error := coalesce(v_error, sqlstate || ' ' || sqlerrm);
    END;
    PERFORM credits.update_job_run(v_run, v_did, v_error, p_ended => true);
    COMMIT;
END
$$;
COMMENT ON PROCEDURE credits.run_ledger_check() IS
'Job ledger-check: runs check_ledger over the whole database and records how many violations it found, and the first hundred; then brings daily_totals up to date';
