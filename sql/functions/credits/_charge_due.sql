-- credits._charge_due: choose a batch of due subscriptions and charge it, as of a given time.
--
-- A batch that fails is done again one by one. A row that fails alone is tried again later, and
-- is not due until then, so that it never stands in the way of the others.
--
-- The next batch of a run begins behind this one. Every charge leaves a dead entry in the index of
-- what is due, at the place where the next batch would begin to look: without a place to begin from,
-- each batch would pass over all that the run has done so far.
--
-- Locks: the subscriptions (passing over those that somebody works on, so that two runs at once
--        never charge twice; the next run finds them), then balances by user_id.
-- Replaces: credits._charge_due(timestamptz, integer)
CREATE OR REPLACE FUNCTION credits._charge_due(
    p_now timestamptz, p_batch_size integer,
    p_after timestamptz DEFAULT '-infinity', p_after_key text DEFAULT ''
)
RETURNS credits.charge_result
LANGUAGE plpgsql
AS $$
DECLARE
    v_users    text [];
    v_user_id  text;
    v_last_at  timestamptz;
    v_last_key text;
    v_one      credits.charge_result;
    v_result   credits.charge_result;
    v_error    text;
BEGIN
    PERFORM credits._require(p_batch_size > 0, 'batchSize', 'must be at least 1');
    -- In the order of user_id, in which all balances are locked, also one by one.
    SELECT
        array_agg(d.user_id ORDER BY d.user_id),
        max(d.due_at), (array_agg(d.user_id ORDER BY d.due_at DESC, d.user_id DESC))[1]
    INTO v_users, v_last_at, v_last_key
    FROM (
        SELECT s.user_id, s.due_at
        FROM credits.sync_subscriptions AS s
        WHERE s.due_at <= p_now
            AND (s.due_at, s.user_id) > (p_after, p_after_key)
        ORDER BY s.due_at, s.user_id
        LIMIT p_batch_size
        FOR UPDATE SKIP LOCKED
    ) AS d;
    IF v_users IS NULL THEN
        RETURN ROW(0, 0, 0, false, p_after, p_after_key)::credits.charge_result;
    END IF;

    BEGIN
        v_result := credits._charge_subscriptions(v_users, p_now);
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        v_result := ROW(0, 0, 0, false, NULL, NULL)::credits.charge_result;
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
    v_result.last_at := v_last_at;
    v_result.last_key := v_last_key;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION credits._charge_due(timestamptz, integer, timestamptz, text) IS
'Charges one batch of the subscriptions that are due at p_now, behind p_after and p_after_key';
