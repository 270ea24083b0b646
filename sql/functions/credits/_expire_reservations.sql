-- credits._expire_reservations: give back the holds that have run out, as of a given time.
--
-- A batch that fails is done again one by one, and the next batch goes on behind it, so that one
-- broken row keeps nobody else's credits.
--
-- Locks: the reservations (passing over those that somebody works on), then balances by user_id.
--        Where the caller has set lock_timeout, a balance that is held longer counts as failed, once
--        for all reservations of its user.
CREATE OR REPLACE FUNCTION credits._expire_reservations(
    p_now timestamptz, p_batch_size integer, p_after timestamptz, p_after_key text
)
RETURNS credits.batch_result
LANGUAGE plpgsql
AS $$
DECLARE
    v_users  text [];
    v_ids    uuid [];
    v_held   text;
    v_failed integer := 0;
    v_result credits.batch_result;
BEGIN
    SELECT
        -- In the order of user_id, in which all balances are locked, also one by one.
        array_agg(d.user_id ORDER BY d.user_id, d.id), array_agg(d.id ORDER BY d.user_id, d.id),
        count(*), max(d.expires_at), (array_agg(d.id::text ORDER BY d.expires_at DESC, d.id DESC))[1]
    INTO v_users, v_ids, v_result.done, v_result.last_at, v_result.last_key
    FROM (
        SELECT r.user_id, r.id, r.expires_at
        FROM credits.reservations AS r
        WHERE r.status = 'open'
            AND r.expires_at <= p_now
            AND r.expires_at >= p_after
            AND (r.expires_at, r.id::text) > (p_after, p_after_key)
        ORDER BY r.expires_at, r.id
        LIMIT p_batch_size
        FOR UPDATE SKIP LOCKED
    ) AS d;
    v_result.errors := 0;
    v_result.more := v_result.done = p_batch_size;
    IF v_result.done = 0 THEN
        RETURN v_result;
    END IF;

    BEGIN
        PERFORM credits._return_reservations(v_users, v_ids, p_now);
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        FOR v_i IN 1 .. cardinality(v_ids) LOOP
            IF v_users[v_i] = v_held THEN
                v_failed := v_failed + 1;
                CONTINUE;
            END IF;
            BEGIN
                PERFORM credits._return_reservations(v_users[v_i:v_i], v_ids[v_i:v_i], p_now);
            EXCEPTION WHEN OTHERS OR assert_failure THEN
                RAISE WARNING 'reservation % cannot expire: % %', v_ids[v_i], sqlstate, sqlerrm;
                v_failed := v_failed + 1;
                v_held := CASE sqlstate WHEN '55P03' THEN v_users[v_i] END;
            END;
        END LOOP;
        v_result.errors := v_failed;
        v_result.done := v_result.done - v_failed;
    END;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION credits._expire_reservations(timestamptz, integer, timestamptz, text) IS
'Gives back a batch of the holds that have run out at p_now';
