-- credits.job_progress: the runs of jobs that go on, and how far they are.
--
-- A run tells after each batch, in a transaction of its own. total is what was due when it began,
-- where that was counted; what becomes due meanwhile is done as well, and then done passes total.
CREATE OR REPLACE VIEW credits.job_progress AS
SELECT
    r.job,
    r.id AS run,
    r.started_at,
    r.last_batch_at,
    r.batches,
    d.done,
    r.total,
    r.did,
    round(d.done / t.seconds)::bigint AS per_second,
    r.last_batch_at + make_interval(
        secs => greatest(r.total - d.done, 0) / nullif(d.done, 0)::double precision * t.seconds
    ) AS expected_end
FROM credits.job_runs AS r
CROSS JOIN LATERAL (
    SELECT coalesce(sum(n.value::bigint), 0)::bigint AS done
    FROM jsonb_each(r.did) AS n
    WHERE jsonb_typeof(n.value) = 'number'
) AS d
CROSS JOIN LATERAL (
    SELECT nullif(extract(epoch FROM r.last_batch_at - r.started_at), 0)::double precision AS seconds
) AS t
WHERE r.ended_at IS NULL;
COMMENT ON VIEW credits.job_progress IS
'The runs of jobs that have not ended: what each did so far, of how many, how fast (per second), and when it should end. One whose last_batch_at is long ago was cut off';
