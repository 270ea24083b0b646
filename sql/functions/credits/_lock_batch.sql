-- credits._lock_batch: lock the balances of everybody in a batch, and the holds that it settles.
--
-- Answers what is locked, the balances as they are under the lock. Not among that is who has no balance
-- row yet, and where it does not wait what somebody else holds.
--
-- Locks:  reservations by id, then balances by user_id.
-- Raises: 55P03 lock_not_available where it waits for longer than lock_timeout.
--
-- Replaces: credits._lock_batch(text[], uuid[])
CREATE OR REPLACE FUNCTION credits._lock_batch(
    p_user_ids text [], p_reservation_ids uuid [], p_waits boolean,
    OUT balances credits.balances [], OUT reservation_ids uuid []
)
LANGUAGE plpgsql
AS $$
BEGIN
    IF p_waits THEN
        SELECT array_agg(l.id) INTO reservation_ids
        FROM (
            SELECT r.id FROM credits.reservations AS r
            WHERE r.user_id = ANY(p_user_ids) AND r.id = ANY(p_reservation_ids)
            ORDER BY r.id FOR UPDATE
        ) AS l;
        SELECT array_agg(l.balance) INTO balances
        FROM (
            SELECT b AS balance FROM credits.balances AS b
            WHERE b.user_id = ANY(p_user_ids)
            ORDER BY b.user_id FOR UPDATE
        ) AS l;
    ELSE
        SELECT array_agg(l.id) INTO reservation_ids
        FROM (
            SELECT r.id FROM credits.reservations AS r
            WHERE r.user_id = ANY(p_user_ids) AND r.id = ANY(p_reservation_ids)
            ORDER BY r.id FOR UPDATE SKIP LOCKED
        ) AS l;
        SELECT array_agg(l.balance) INTO balances
        FROM (
            SELECT b AS balance FROM credits.balances AS b
            WHERE b.user_id = ANY(p_user_ids)
            ORDER BY b.user_id FOR UPDATE SKIP LOCKED
        ) AS l;
    END IF;
END
$$;
COMMENT ON FUNCTION credits._lock_batch(text [], uuid [], boolean) IS
'Locks the balances of a batch and the holds it settles, and returns those that it could lock';
