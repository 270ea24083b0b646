-- credits.list_notices: notices that were not delivered, newest first.
--
-- p_before is the id of the last notice of the page before; ids are time-ordered.
--
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits.list_notices(
    p_state credits.notice_state DEFAULT 'failed', p_limit integer DEFAULT 50,
    p_before uuid DEFAULT NULL
)
RETURNS SETOF credits.listed_notice
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM credits._require(
        p_state IN ('failed', 'undeliverable', 'pending'),
        'state', 'must be failed, undeliverable or pending'
    );
    RETURN QUERY
    SELECT
        n.id, n.user_id, n.kind, n.state, n.attempts, n.last_error, n.created_at, n.next_attempt_at
    FROM (
        -- Each by the index of what is open; those that were delivered are most of the table.
        SELECT g.* FROM credits.notices AS g
        WHERE g.state IN ('failed', 'undeliverable') AND g.state = p_state
        UNION ALL
        SELECT w.* FROM credits.notices AS w
        WHERE w.state = 'pending' AND p_state = 'pending'
    ) AS n
    WHERE p_before IS NULL OR n.id < p_before
    ORDER BY n.id DESC
    LIMIT p_limit;
END
$$;
COMMENT ON FUNCTION credits.list_notices(credits.notice_state, integer, uuid) IS
'Notices that failed, had no address or wait, newest first; p_before goes on behind a page. Raises MC001 invalid_request';
