-- credits._charge_due: choose a batch of due subscriptions and charge it, as of a given time.
--
-- A batch that fails is done again one by one. A row that fails alone is tried again later, and
-- is not due until then, so that it never stands in the way of the others.
--
-- Locks: the subscriptions (passing over those that somebody works on, so that two runs at once
--        never charge twice), then balances by user_id.
CREATE OR REPLACE FUNCTION credits._charge_due(p_now timestamptz, p_batch_size integer)
RETURNS credits.charge_result
LANGUAGE plpgsql
AS $$
DECLARE
    v_users    text [];
    v_user_id  text;
    v_one      credits.charge_result;
    v_result   credits.charge_result;
    v_error    text;
BEGIN
    PERFORM credits._require(p_batch_size > 0, 'batchSize', 'must be at least 1');
    -- In the order of user_id, in which all balances are locked, also one by one.
    SELECT array_agg(d.user_id ORDER BY d.user_id) INTO v_users
    FROM (
        SELECT s.user_id
        FROM credits.sync_subscriptions AS s
        WHERE s.due_at <= p_now
        ORDER BY s.due_at, s.user_id
        LIMIT p_batch_size
        FOR UPDATE SKIP LOCKED
    ) AS d;
    IF v_users IS NULL THEN
        RETURN ROW(0, 0, 0, false)::credits.charge_result;
    END IF;

    BEGIN
        v_result := credits._charge_subscriptions(v_users, p_now);
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        v_result := ROW(0, 0, 0, false)::credits.charge_result;
        FOREACH v_user_id IN ARRAY v_users LOOP
            BEGIN
                v_one := credits._charge_subscriptions(ARRAY[v_user_id], p_now);
                v_result.charged := v_result.charged + v_one.charged;
                v_result.paused := v_result.paused + v_one.paused;
            EXCEPTION WHEN OTHERS OR assert_failure THEN
                v_error := sqlstate || ' ' || sqlerrm;
                v_result.errors := v_result.errors + 1;
                -- 10, 20, 40 … minutes, at most a day.
                UPDATE credits.sync_subscriptions SET
                    retry_at = credits._utc_add(
                        p_now, least('10 minutes'::interval * 2 ^ least(failures, 10), '1 day')
                    ),
                    failures = failures + 1,
                    last_error = v_error,
                    updated_at = p_now
                WHERE user_id = v_user_id;
            END;
        END LOOP;
    END;
    v_result.more := cardinality(v_users) = p_batch_size;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION credits._charge_due(timestamptz, integer) IS
'Charges one batch of the subscriptions that are due at p_now';
