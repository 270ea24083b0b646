-- credits.announce_charges: tell users of a charge in the coming three days that is not covered.
--
-- Once per charge: announced_for keeps which one was announced. A user whose credits suffice
-- today may have spent them tomorrow, so he is looked at again until his charge is due. A batch
-- that fails is done again one by one, so that one broken row keeps nobody else's notice.
--
-- Locks: the subscriptions, passing over those that somebody works on, then balances by user_id.
--        A balance that somebody else holds for more than a second is left for a later run.
CREATE OR REPLACE FUNCTION credits.announce_charges(
    p_batch_size integer DEFAULT 500,
    p_after timestamptz DEFAULT '-infinity',
    p_after_key text DEFAULT ''
)
RETURNS credits.batch_result
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
AS $$
DECLARE
    v_now     CONSTANT timestamptz := clock_timestamp();
    v_until   CONSTANT timestamptz := credits._utc_add(v_now, '3 days');
    v_users   text [];
    v_user_id text;
    v_looked  integer;
    v_result  credits.batch_result;
BEGIN
    SELECT
        array_agg(d.user_id) FILTER (WHERE d.to_announce), count(*), max(d.due_at),
        (array_agg(d.user_id ORDER BY d.due_at DESC, d.user_id DESC))[1]
    INTO v_users, v_looked, v_result.last_at, v_result.last_key
    FROM (
        SELECT
            s.user_id, s.due_at,
            s.announced_for IS DISTINCT FROM s.next_charge_at
            AND b.balance - b.reserved < s.price AS to_announce
        FROM credits.sync_subscriptions AS s
        INNER JOIN credits.balances AS b ON b.user_id = s.user_id
        WHERE s.due_at > v_now
            AND s.due_at <= v_until
            AND s.due_at >= p_after
            AND (s.due_at, s.user_id) > (p_after, p_after_key)
        ORDER BY s.due_at, s.user_id
        LIMIT p_batch_size
    ) AS d;
    v_result.more := v_looked = p_batch_size;

    -- In the order of user_id, in which all balances are locked, also one by one.
    SELECT coalesce(array_agg(l.user_id ORDER BY l.user_id), '{}') INTO v_users
    FROM (
        SELECT s.user_id FROM credits.sync_subscriptions AS s
        WHERE s.user_id = ANY(v_users)
            AND s.next_charge_at > v_now
            AND s.announced_for IS DISTINCT FROM s.next_charge_at
        FOR UPDATE SKIP LOCKED
    ) AS l;
    v_result.done := cardinality(v_users);
    v_result.errors := 0;
    BEGIN
        PERFORM credits._write_charge_notices(v_users, v_now);
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        FOREACH v_user_id IN ARRAY v_users LOOP
            BEGIN
                PERFORM credits._write_charge_notices(ARRAY[v_user_id], v_now);
            EXCEPTION WHEN OTHERS OR assert_failure THEN
                RAISE WARNING 'the charge of % cannot be announced: % %', v_user_id, sqlstate, sqlerrm;
                v_result.errors := v_result.errors + 1;
            END;
        END LOOP;
        v_result.done := v_result.done - v_result.errors;
    END;
    IF v_result.done > 0 THEN
        PERFORM pg_notify('mana_credits_notices', '');
    END IF;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION credits.announce_charges(integer, timestamptz, text) IS
'Writes notices for charges within 3 days that are not covered, once per charge; the job run_charge_notices calls it until there are no more';
