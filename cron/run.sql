-- Run one job of mana-credits now, and show what it did.
--
--   psql -X -d mana_credits -v job=recurring-charge -f cron/run.sql
--
-- Run it in the application's database. It does what pg_cron does at the job's time, and may run
-- beside it: no job does anything twice. psql ends with status 3 when the job fails.

\set ON_ERROR_STOP on
\set QUIET on
-- A job commits as it goes, which PostgreSQL allows outside a transaction block only.
\set AUTOCOMMIT on
\pset footer off

\if :{?job} \else \set job '' \endif

SELECT to_regrole('mana_credits_owner') IS NULL OR to_regclass('credits.jobs') IS NULL AS nothing
\gset

\if :nothing
    DO $$ BEGIN
        RAISE EXCEPTION 'this database is not migrated'
        USING HINT = 'Run it in the application''s database, after mana-credits migrate.';
    END $$;
\endif

SET ROLE mana_credits_owner;

SELECT EXISTS (SELECT FROM credits.jobs WHERE job = :'job') AS known, clock_timestamp() AS began
\gset

\if :known
    -- \gexec, since a job that commits can be called by no other statement.
    SELECT format('CALL credits.%I()', 'run_' || replace(:'job', '-', '_'))
    \gexec
\else
    SELECT set_config('mana_credits.job', :'job', false) AS job
    \gset
    DO $$ BEGIN
        RAISE EXCEPTION 'there is no job "%"', current_setting('mana_credits.job')
        USING HINT = 'Set -v job to one of: '
            || (SELECT string_agg(job, ', ' ORDER BY job) FROM credits.jobs);
    END $$;
\endif

SELECT
    job,
    started_at,
    ended_at - started_at AS took,
    did,
    error
FROM credits.job_runs
WHERE job = :'job' AND started_at >= :'began'
ORDER BY started_at
LIMIT 1;

-- A job records why it failed, and may have ended without raising it.
SELECT count(*) > 0 AS failed
FROM (
    SELECT error FROM credits.job_runs
    WHERE job = :'job' AND started_at >= :'began'
    ORDER BY started_at
    LIMIT 1
) AS run
WHERE error IS NOT NULL
\gset

\if :failed
    DO $$ BEGIN RAISE EXCEPTION 'the job failed'; END $$;
\endif
