-- What the scripts share; they include it, it does nothing by itself.
--
-- Sets the psql variables
--   app_database  the application's database, unless it was given with -v app_database=…
--   suffix        what follows a job's name: nothing for the database mana_credits, and
--                 @<database> for any other, since one server may hold several and a name is
--                 unique for all of them. pg_cron keeps 63 bytes of a name, so a database whose
--                 name is too long appears as a hash of it.

\set ON_ERROR_STOP on
\set QUIET on
\set SHOW_CONTEXT never
\pset footer off

\if :{?app_database}
\else
    \set app_database mana_credits
\endif

SELECT
    CASE
        WHEN :'app_database' = 'mana_credits' THEN ''
        WHEN octet_length(:'app_database') <= 31 THEN '@' || :'app_database'
        ELSE '@' || left(md5(:'app_database'), 31)
    END AS suffix
\gset
