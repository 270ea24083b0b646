-- credits.announce_charges: tell users of a charge in the coming three days that is not covered.
--
-- Once per charge: announced_for keeps which one was announced. A user whose credits suffice
-- today may have spent them tomorrow, so he is looked at again until his charge is due.
--
-- Locks: the subscriptions, passing over those that somebody works on, then balances by user_id.
CREATE OR REPLACE FUNCTION credits.announce_charges(
    p_batch_size integer DEFAULT 500,
    p_after timestamptz DEFAULT '-infinity',
    p_after_key text DEFAULT ''
)
RETURNS credits.batch_result
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now    CONSTANT timestamptz := clock_timestamp();
    v_until  CONSTANT timestamptz := credits._utc_add(v_now, '3 days');
    v_users  text [];
    v_result credits.batch_result;
    v_looked integer;
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

    SELECT array_agg(l.user_id) INTO v_users
    FROM (
        SELECT s.user_id FROM credits.sync_subscriptions AS s
        WHERE s.user_id = ANY(v_users)
            AND s.next_charge_at > v_now
            AND s.announced_for IS DISTINCT FROM s.next_charge_at
        FOR UPDATE SKIP LOCKED
    ) AS l;
    -- The notices' foreign key locks the balances, and all balances are locked in one order.
    PERFORM 1 FROM credits.balances WHERE user_id = ANY(v_users) ORDER BY user_id FOR KEY SHARE;

    WITH announced AS (
        UPDATE credits.sync_subscriptions AS s SET announced_for = s.next_charge_at
        WHERE s.user_id = ANY(v_users)
        RETURNING s.user_id, s.billing_interval, s.price, s.next_charge_at
    ),
    written AS (
        INSERT INTO credits.notices (user_id, id, kind, data, next_attempt_at, created_at)
        SELECT
            a.user_id, credits._new_id(), 'charge_coming',
            jsonb_build_object(
                'interval', a.billing_interval,
                'price', a.price,
                'available', greatest(b.balance - b.reserved, 0),
                'dueAt', credits._utc_text(a.next_charge_at)
            ),
            v_now, v_now
        FROM announced AS a
        INNER JOIN credits.balances AS b ON b.user_id = a.user_id
        RETURNING 1
    )
    SELECT count(*), 0, v_looked = p_batch_size
    INTO v_result.done, v_result.errors, v_result.more
    FROM written;
    IF v_result.done > 0 THEN
        PERFORM pg_notify('mana_credits_notices', '');
    END IF;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION credits.announce_charges(integer, timestamptz, text) IS
'Writes notices for charges within 3 days that are not covered, once per charge; the job run_charge_notices calls it until there are no more';
