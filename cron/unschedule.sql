-- Remove the jobs of mana-credits from pg_cron; safe to run again.
--
--   psql -X -d postgres -v app_database=mana_credits -f cron/unschedule.sql
--
-- Only the jobs of this application and of this one database are removed. A run that is under
-- way goes on to its end.

\ir common.sql

SELECT to_regclass('cron.job') IS NULL OR to_regrole('mana_credits_owner') IS NULL AS nothing
\gset

\if :nothing
    \echo '0 removed'
\else
    BEGIN;
    SELECT pg_advisory_xact_lock(hashtext('mana-credits cron')) AS "lock"
    \gset
    SET LOCAL ROLE mana_credits_owner;
    SELECT count(cron.unschedule(j.jobid)) AS removed
    FROM cron.job AS j
    WHERE
        j.username = current_user
        AND j.jobname ~ '^mana-credits:[^@]+'
        AND substring(j.jobname FROM '@.*$') IS NOT DISTINCT FROM nullif(:'suffix', '')
    \gset
    COMMIT;
    \echo :removed 'removed'
\endif
