-- credits.run_batch: many calls in one statement and one commit, each as if it had come alone.
--
-- The outcomes come in no order; each names the place of its call. Calls about one user are done in
-- the order of the array. One that is refused changes nothing and does not touch its neighbours.
--
-- What cannot be done here in time is left to its own function (alone): for a user without a balance
-- row yet, or one that somebody else holds for longer than 0.1 s. Where a defect stops one call, the
-- whole batch fails and nothing has happened.
--
-- Locks:  see _lock_batch.
-- Keeps:  what the single functions keep.
-- Raises: MC001 invalid_request for an array that is empty or too long; what a call's function
--         raises is its outcome.
CREATE OR REPLACE FUNCTION credits.run_batch(p_calls credits.batch_call [])
RETURNS SETOF credits.batch_outcome
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_users     text [];
    v_holds     uuid [];
    v_waits     boolean := true;
    v_locked    record;
    v_is_locked boolean := false;
BEGIN
    PERFORM credits._require(
        cardinality(p_calls) BETWEEN 1 AND 1000, 'calls', 'must be 1 to 1000 calls'
    );
    -- A hold is known by its id alone.
    SELECT
        array_agg(coalesce(r.user_id, c.user_id) ORDER BY c.place),
        array_agg(c.reservation_id) FILTER (WHERE c.reservation_id IS NOT NULL)
    INTO v_users, v_holds
    FROM unnest(p_calls) WITH ORDINALITY AS c (
        operation, user_id, id, amount, app_id, description, idempotency_key, metadata, origin,
        transaction_id, reservation_id, reason, reference_id, expires_in_seconds, place
    )
    LEFT JOIN credits.reservations AS r ON r.id = c.reservation_id;

    LOOP
        -- All of it in the block that may have to give its locks back: a row that is locked in one and
        -- changed outside of it would leave a multixact behind.
        BEGIN
            v_locked := credits._lock_batch(v_users, v_holds, v_waits);
            v_is_locked := true;
            RETURN QUERY SELECT * FROM credits._make_calls(
                p_calls, v_users, v_locked.balances, v_locked.reservation_ids
            );
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            IF v_is_locked THEN
                RAISE;
            END IF;
            -- Every lock of the block is given back, so those that follow are in order again.
            v_waits := false;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.run_batch(credits.batch_call []) IS
'Makes many calls in one transaction, each with the outcome that its own function would have; a call that is refused does not touch the others. Raises MC001 invalid_request unless there are 1 to 1000 of them';
