-- credits.claim_notices: take notices to send, for as long as a lease lasts.
--
-- next_attempt_at becomes the end of the lease: two senders never send the same notice at once,
-- and a sender that dies loses nothing.
--
-- Locks: the notices, passing over those that somebody claims.
CREATE OR REPLACE FUNCTION credits.claim_notices(
    p_limit integer DEFAULT 20, p_lease_seconds integer DEFAULT 120
)
RETURNS SETOF credits.notice_to_send
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now   CONSTANT timestamptz := clock_timestamp();
    v_lease CONSTANT timestamptz := credits._utc_add(
        v_now, make_interval(secs => p_lease_seconds)
    );
BEGIN
    RETURN QUERY
    WITH claimed AS (
        UPDATE credits.notices AS n SET
            next_attempt_at = v_lease,
            attempts = n.attempts + 1,
            recipient = c.email
        FROM (
            SELECT l.user_id, l.id FROM credits.notices AS l
            WHERE l.state = 'pending' AND l.next_attempt_at <= v_now
            ORDER BY l.next_attempt_at
            LIMIT p_limit
            FOR UPDATE SKIP LOCKED
        ) AS l
        LEFT JOIN credits.contacts AS c ON c.user_id = l.user_id
        WHERE n.user_id = l.user_id AND n.id = l.id
        RETURNING n.id, n.user_id, n.kind, n.data, n.recipient, n.attempts, n.created_at
    )
    SELECT c.id, c.user_id, c.kind, c.data, c.recipient, c.attempts, c.created_at
    FROM claimed AS c
    ORDER BY c.id;
END
$$;
COMMENT ON FUNCTION credits.claim_notices(integer, integer) IS
'Notices that are to be sent now, each with the user''s last known address; the caller has them until the lease ends and then calls settle_notice';
