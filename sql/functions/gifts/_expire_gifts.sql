-- gifts._expire_gifts: return the gifts that have expired, as of a given time, with their notices.
--
-- A batch that fails is done again one by one, and the next batch goes on behind it, so that one
-- broken row keeps nobody else's credits.
--
-- Locks: the gifts (passing over those that somebody works on), then balances by user_id. Where the
--        caller has set lock_timeout, a balance that is held longer counts as failed, once for all
--        gifts of its user.
CREATE OR REPLACE FUNCTION gifts._expire_gifts(
    p_now timestamptz, p_batch_size integer, p_after timestamptz, p_after_key text
)
RETURNS credits.batch_result
LANGUAGE plpgsql
AS $$
DECLARE
    v_users  text [];
    v_ids    uuid [];
    v_held   text;
    v_failed uuid [] := ARRAY[]::uuid [];
    v_result credits.batch_result;
BEGIN
    SELECT
        -- In the order of user_id, in which all balances are locked, also one by one.
        array_agg(d.creator_id ORDER BY d.creator_id, d.id),
        array_agg(d.id ORDER BY d.creator_id, d.id), count(*), max(d.expires_at),
        (array_agg(d.id::text ORDER BY d.expires_at DESC, d.id DESC))[1]
    INTO v_users, v_ids, v_result.done, v_result.last_at, v_result.last_key
    FROM (
        SELECT g.id, g.creator_id, g.expires_at
        FROM gifts.gift_codes AS g
        WHERE g.status = 'active'
            AND g.expires_at <= p_now
            AND g.expires_at >= p_after
            AND (g.expires_at, g.id::text) > (p_after, p_after_key)
        ORDER BY g.expires_at, g.id
        LIMIT p_batch_size
        FOR UPDATE SKIP LOCKED
    ) AS d;
    v_result.errors := 0;
    v_result.more := v_result.done = p_batch_size;
    IF v_result.done = 0 THEN
        RETURN v_result;
    END IF;

    BEGIN
        PERFORM gifts._return_gifts(v_ids, 'expired', p_now);
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        FOR v_i IN 1 .. cardinality(v_ids) LOOP
            IF v_users[v_i] = v_held THEN
                v_failed := v_failed || v_ids[v_i];
                CONTINUE;
            END IF;
            BEGIN
                PERFORM gifts._return_gifts(v_ids[v_i:v_i], 'expired', p_now);
            EXCEPTION WHEN OTHERS OR assert_failure THEN
                RAISE WARNING 'gift % cannot expire: % %', v_ids[v_i], sqlstate, sqlerrm;
                v_failed := v_failed || v_ids[v_i];
                v_held := CASE sqlstate WHEN '55P03' THEN v_users[v_i] END;
            END;
        END LOOP;
        v_result.errors := cardinality(v_failed);
        v_result.done := v_result.done - v_result.errors;
    END;

    INSERT INTO credits.notices (user_id, id, kind, data, next_attempt_at, created_at)
    SELECT
        g.creator_id, credits._new_id(), 'gift_expired',
        jsonb_build_object(
            'giftId', g.id, 'credits', g.total_credits, 'expiredAt', credits._utc_text(g.expires_at)
        ),
        p_now, p_now
    FROM gifts.gift_codes AS g
    WHERE g.id = ANY(v_ids) AND g.id <> ALL(v_failed);
    PERFORM pg_notify('mana_credits_notices', '');
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION gifts._expire_gifts(timestamptz, integer, timestamptz, text) IS
'Returns a batch of the gifts that have expired at p_now, each with a notice';
