-- credits._lock_batch: lock the balances of everybody in a batch, and the holds that it settles.
--
-- Answers what is locked. Not among that is who has no balance row yet, and what somebody else holds
-- for longer than lock_timeout: the others of the batch wait no longer than that.
--
-- Locks: reservations by id, then balances by user_id.
CREATE OR REPLACE FUNCTION credits._lock_batch(
    p_user_ids text [], p_reservation_ids uuid [], OUT user_ids text [], OUT reservation_ids uuid []
)
LANGUAGE plpgsql
AS $$
BEGIN
    BEGIN
        SELECT array_agg(l.id) INTO reservation_ids
        FROM (
            SELECT r.id FROM credits.reservations AS r
            WHERE r.user_id = ANY(p_user_ids) AND r.id = ANY(p_reservation_ids)
            ORDER BY r.id FOR UPDATE
        ) AS l;
        SELECT array_agg(l.user_id) INTO user_ids
        FROM (
            SELECT b.user_id FROM credits.balances AS b
            WHERE b.user_id = ANY(p_user_ids)
            ORDER BY b.user_id FOR UPDATE
        ) AS l;
        RETURN;
    EXCEPTION WHEN lock_not_available THEN
        -- Every lock of the block is given back, so those that follow are in order again.
        NULL;
    END;
    SELECT array_agg(l.id) INTO reservation_ids
    FROM (
        SELECT r.id FROM credits.reservations AS r
        WHERE r.user_id = ANY(p_user_ids) AND r.id = ANY(p_reservation_ids)
        ORDER BY r.id FOR UPDATE SKIP LOCKED
    ) AS l;
    SELECT array_agg(l.user_id) INTO user_ids
    FROM (
        SELECT b.user_id FROM credits.balances AS b
        WHERE b.user_id = ANY(p_user_ids)
        ORDER BY b.user_id FOR UPDATE SKIP LOCKED
    ) AS l;
END
$$;
COMMENT ON FUNCTION credits._lock_batch(text [], uuid []) IS
'Locks the balances of a batch and the holds it settles, and returns those that it could lock';
