-- Schedule the jobs of mana-credits, or bring them up to date; safe to run again.
--
--   psql -X -d postgres -v app_database=mana_credits -f cron/schedule.sql
--
-- Run it in the database that holds pg_cron (cron.database_name, by default postgres), as an
-- administrator: a superuser, or a member of mana_credits_owner where the grants below exist
-- already. A schedule is changed with a variable of the job's name: -v recurring_charge='*/30 * * * *'.
-- Schedules have five fields and are in GMT. Only the jobs of this application and of this one
-- database are touched; those that the list below no longer has are removed. A job that somebody
-- has made inactive stays so.

\ir common.sql

-- Five past: at the full hour the whole world's schedules start.
\if :{?recurring_charge} \else \set recurring_charge '5 * * * *' \endif
\if :{?gift_expiry} \else \set gift_expiry '*/10 * * * *' \endif
\if :{?reservation_expiry} \else \set reservation_expiry '* * * * *' \endif
-- By day in Europe: it writes to people.
\if :{?charge_notices} \else \set charge_notices '20 8 * * *' \endif
\if :{?ledger_check} \else \set ledger_check '35 2 * * *' \endif
\if :{?pruning} \else \set pruning '50 3 * * *' \endif
\if :{?cron_history} \else \set cron_history '10 4 * * *' \endif

-- A DO block sees no psql variable.
SELECT set_config('mana_credits.app_database', :'app_database', false) AS app_database
\gset

DO $$
DECLARE
    v_cron_database text := current_setting('cron.database_name', true);
BEGIN
    IF to_regrole('mana_credits_owner') IS NULL THEN
        RAISE EXCEPTION 'the role mana_credits_owner does not exist'
        USING HINT = 'Run mana-credits migrate first.';
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_database WHERE datname = current_setting('mana_credits.app_database')
    ) THEN
        RAISE EXCEPTION 'the database % does not exist', current_setting('mana_credits.app_database')
        USING HINT = 'Name the application''s database with -v app_database=…';
    END IF;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_cron') THEN
        RAISE EXCEPTION 'pg_cron is not installed on this server'
        USING HINT = 'Debian has it in the package postgresql-<version>-cron.';
    END IF;
    IF v_cron_database IS NULL THEN
        RAISE EXCEPTION 'pg_cron is not loaded'
        USING HINT = 'Add pg_cron to shared_preload_libraries and restart the server.';
    END IF;
    IF v_cron_database <> current_database() THEN
        RAISE EXCEPTION 'pg_cron is kept in the database %, and this is %',
            v_cron_database, current_database()
        USING HINT = 'Run this script there (CRON_DATABASE).';
    END IF;
    CREATE EXTENSION pg_cron;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'pg_cron is not in the database %, and % may not create it',
            current_database(), current_user
        USING HINT = 'Let an administrator of the server run: CREATE EXTENSION pg_cron';
END
$$;

DO $$
DECLARE
    v_lacking record;
BEGIN
    FOR v_lacking IN
        SELECT
            l.held,
            l.statement
        FROM (
            VALUES
            (
                has_schema_privilege('mana_credits_owner', 'cron', 'USAGE'),
                'GRANT USAGE ON SCHEMA cron TO mana_credits_owner'
            ),
            (
                has_function_privilege(
                    'mana_credits_owner',
                    'cron.schedule_in_database(text, text, text, text, text, boolean)',
                    'EXECUTE'
                ),
                'GRANT EXECUTE ON FUNCTION cron.schedule_in_database'
                '(text, text, text, text, text, boolean) TO mana_credits_owner'
            ),
            (
                -- To make a job inactive for a while.
                has_function_privilege(
                    'mana_credits_owner',
                    'cron.alter_job(bigint, text, text, text, text, boolean)',
                    'EXECUTE'
                ),
                'GRANT EXECUTE ON FUNCTION cron.alter_job'
                '(bigint, text, text, text, text, boolean) TO mana_credits_owner'
            ),
            (
                has_function_privilege('mana_credits_owner', 'cron.unschedule(bigint)', 'EXECUTE'),
                'GRANT EXECUTE ON FUNCTION cron.unschedule(bigint) TO mana_credits_owner'
            ),
            (
                -- cron-history runs in this database.
                has_database_privilege('mana_credits_owner', current_database(), 'CONNECT'),
                format('GRANT CONNECT ON DATABASE %I TO mana_credits_owner', current_database())
            )
        ) AS l (held, statement)
        WHERE NOT l.held
    LOOP
        BEGIN
            EXECUTE v_lacking.statement;
        EXCEPTION
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION '% may not run: %', current_user, v_lacking.statement
                USING HINT = 'Let an administrator of the server run it once.';
        END;
    END LOOP;
END
$$;

BEGIN;

-- Two deployments at once take their turn.
SELECT pg_advisory_xact_lock(hashtext('mana-credits cron')) AS "lock"
\gset

SET LOCAL ROLE mana_credits_owner;

SELECT jsonb_agg(jsonb_build_object(
    'name', 'mana-credits:' || job || :'suffix',
    'schedule', schedule,
    'command', command,
    'database', database
)) AS wanted
FROM (
    VALUES
    ('recurring-charge', :'recurring_charge', 'CALL credits.run_recurring_charge()', :'app_database'),
    ('gift-expiry', :'gift_expiry', 'CALL credits.run_gift_expiry()', :'app_database'),
    ('reservation-expiry', :'reservation_expiry', 'CALL credits.run_reservation_expiry()', :'app_database'),
    ('charge-notices', :'charge_notices', 'CALL credits.run_charge_notices()', :'app_database'),
    ('ledger-check', :'ledger_check', 'CALL credits.run_ledger_check()', :'app_database'),
    ('pruning', :'pruning', 'CALL credits.run_pruning()', :'app_database'),
    -- By runid, since a run that the server's end cut off has no times. What the owner sees of
    -- this table is what the owner ran, that is, our jobs.
    (
        'cron-history',
        :'cron_history',
        'DELETE FROM cron.job_run_details WHERE username = current_user AND runid <= '
        '(SELECT max(runid) FROM cron.job_run_details '
        'WHERE username = current_user AND start_time < now() - interval ''14 days'')',
        current_database()
    )
) AS jobs (job, schedule, command, database)
\gset

SELECT count(cron.schedule_in_database(w.name, w.schedule, w.command, w.database)) AS scheduled
FROM jsonb_to_recordset(:'wanted') AS w (name text, schedule text, command text, database text)
WHERE NOT EXISTS (
    SELECT FROM cron.job AS j
    WHERE
        j.username = current_user AND j.jobname = w.name AND j.schedule = w.schedule
        AND j.command = w.command AND j.database = w.database
)
\gset

SELECT count(cron.unschedule(j.jobid)) AS removed
FROM cron.job AS j
WHERE
    j.username = current_user
    AND j.jobname ~ '^mana-credits:[^@]+'
    AND substring(j.jobname FROM '@.*$') IS NOT DISTINCT FROM nullif(:'suffix', '')
    AND j.jobname NOT IN (
        SELECT w.name FROM jsonb_to_recordset(:'wanted') AS w (name text)
    )
\gset

SELECT
    j.jobname AS job,
    j.schedule,
    j.active,
    j.database
FROM cron.job AS j
WHERE j.username = current_user AND j.jobname IN (
    SELECT w.name FROM jsonb_to_recordset(:'wanted') AS w (name text)
)
ORDER BY j.jobname;

COMMIT;

\echo :scheduled 'scheduled or changed,' :removed 'removed'
