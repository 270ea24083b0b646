-- credits._prune_rate_limits: delete a batch of what counts for nothing any more.
--
-- Locks: such rows, passing over those that somebody works on.
--
-- Replaces: credits._prune_rate_limits(timestamptz)
CREATE OR REPLACE FUNCTION credits._prune_rate_limits(p_now timestamptz, p_batch_size integer)
RETURNS credits.batch_result
LANGUAGE plpgsql
AS $$
DECLARE
    v_result credits.batch_result;
BEGIN
    DELETE FROM credits.rate_limits
    WHERE subject = ANY(ARRAY(
        SELECT r.subject FROM credits.rate_limits AS r
        WHERE r.kept_until <= p_now
        ORDER BY r.kept_until
        LIMIT p_batch_size
        FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS v_result.done = ROW_COUNT;
    v_result.errors := 0;
    v_result.more := v_result.done = p_batch_size;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION credits._prune_rate_limits(timestamptz, integer) IS
'Deletes up to p_batch_size rows of rate_limits that say nothing any more at p_now';
