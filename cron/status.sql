-- Show the jobs of mana-credits: as pg_cron sees them, then as they recorded themselves.
--
--   psql -X -d postgres -v app_database=mana_credits -f cron/status.sql
--
-- It starts in the database that holds pg_cron and goes on in the application's. pg_cron's
-- `succeeded` says only that the command ended without an error; what a run did is in the second
-- table.

\ir common.sql

SELECT to_regclass('cron.job') IS NULL OR to_regrole('mana_credits_owner') IS NULL AS nothing
\gset

\if :nothing
    \echo 'pg_cron is not in this database, or the role mana_credits_owner does not exist'
\else
    SET ROLE mana_credits_owner;
    \echo Scheduled:
    SELECT
        j.jobname AS job,
        j.schedule,
        j.active,
        d.start_time AS last_start,
        d.status AS last_status,
        d.return_message AS last_message
    FROM cron.job AS j
    LEFT JOIN LATERAL (
        SELECT r.* FROM cron.job_run_details AS r
        WHERE r.jobid = j.jobid
        ORDER BY r.runid DESC
        LIMIT 1
    ) AS d ON true
    WHERE
        j.username = current_user
        AND j.jobname ~ '^mana-credits:[^@]+'
        AND substring(j.jobname FROM '@.*$') IS NOT DISTINCT FROM nullif(:'suffix', '')
    ORDER BY j.jobname;
\endif

\connect :"app_database"

SELECT to_regclass('credits.job_runs') IS NULL AS nothing
\gset

\if :nothing
    \echo 'The database' :app_database 'is not migrated'
\else
    SET ROLE mana_credits_owner;
    \echo Recorded:
    SELECT
        j.job,
        r.started_at AS last_start,
        r.ended_at - r.started_at AS took,
        r.did,
        r.error,
        (
            SELECT max(s.started_at) FROM credits.job_runs AS s
            WHERE s.job = j.job AND s.ended_at IS NOT NULL AND s.error IS NULL
        ) AS last_success,
        j.late_after
    FROM credits.jobs AS j
    LEFT JOIN LATERAL (
        SELECT s.* FROM credits.job_runs AS s
        WHERE s.job = j.job
        ORDER BY s.started_at DESC
        LIMIT 1
    ) AS r ON true
    ORDER BY j.job;

    SELECT to_regclass('credits.job_progress') IS NOT NULL AS tells_progress
    \gset
    \if :tells_progress
        \echo Under way:
        SELECT job, started_at, done, total, batches, per_second, expected_end, did, last_batch_at
        FROM credits.job_progress
        ORDER BY started_at;
    \endif
\endif
