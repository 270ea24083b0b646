-- credits._prune_rate_limits: delete what counts for nothing any more.
--
-- Locks: such rows, passing over those that somebody works on.
CREATE OR REPLACE FUNCTION credits._prune_rate_limits(p_now timestamptz)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    DELETE FROM credits.rate_limits
    WHERE subject = ANY(ARRAY(
        SELECT r.subject FROM credits.rate_limits AS r
        WHERE r.kept_until <= p_now
        ORDER BY r.kept_until
        LIMIT 200
        FOR UPDATE SKIP LOCKED
    ));
END
$$;
COMMENT ON FUNCTION credits._prune_rate_limits(timestamptz) IS
'Deletes up to 200 rows of rate_limits that say nothing any more at p_now';
