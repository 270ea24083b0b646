-- credits._charge_subscriptions: charge these due subscriptions once, and pause those whose
-- credits do not suffice, each pause with its notice.
--
-- Locks: balances by user_id; the caller holds the subscriptions, which are due.
-- Keeps: one charge a period (its key is the period's number); a late charge takes one period,
--        and the skipped ones are written down.
CREATE OR REPLACE FUNCTION credits._charge_subscriptions(p_user_ids text [], p_now timestamptz)
RETURNS credits.charge_result
LANGUAGE plpgsql
AS $$
DECLARE
    v_paying text [];
    v_short  text [];
    v_months integer [];
    v_dates  timestamptz [];
    v_moves  credits.new_move [];
BEGIN
    PERFORM 1 FROM credits.balances WHERE user_id = ANY(p_user_ids) ORDER BY user_id FOR UPDATE;

    -- A statement of its own: what was read while it waited for the locks could be stale.
    SELECT
        coalesce(array_agg(d.user_id) FILTER (WHERE d.covered), '{}'),
        coalesce(array_agg(d.user_id) FILTER (WHERE NOT d.covered), '{}'),
        array_agg(d.next_month) FILTER (WHERE d.covered),
        array_agg(d.next_at) FILTER (WHERE d.covered),
        array_agg(
            ROW(
                d.user_id, NULL, 'usage', 'system', -d.price, 'sync',
                format('Cloud Sync (%s)', d.billing_interval),
                credits._charge_metadata(
                    d.billing_interval, d.next_charge_at, d.next_at, d.periods_skipped
                ),
                NULL, 'sync:' || d.periods + 1
            )::credits.new_move
        ) FILTER (WHERE d.covered)
    INTO v_paying, v_short, v_months, v_dates, v_moves
    FROM (
        SELECT
            s.user_id, s.price, s.billing_interval, s.next_charge_at, s.periods,
            n.next_month, n.next_at, n.periods_skipped,
            b.balance - b.reserved >= s.price AS covered
        FROM credits.sync_subscriptions AS s
        INNER JOIN credits.balances AS b ON b.user_id = s.user_id
        INNER JOIN credits.sync_prices AS p ON p.billing_interval = s.billing_interval
        CROSS JOIN LATERAL credits._next_charge(s.anchor_at, s.next_charge_month, p.months, p_now) AS n
        WHERE s.user_id = ANY(p_user_ids)
    ) AS d;

    IF cardinality(v_paying) > 0 THEN
        PERFORM credits._record_moves(v_moves, p_now);

        UPDATE credits.sync_subscriptions AS s SET
            periods = s.periods + 1,
            next_charge_month = n.next_month,
            next_charge_at = n.next_at,
            paid_until = n.next_at,
            retry_at = NULL,
            failures = 0,
            last_error = NULL,
            updated_at = p_now
        FROM unnest(v_paying, v_months, v_dates) AS n (user_id, next_month, next_at)
        WHERE s.user_id = n.user_id;
    END IF;

    IF cardinality(v_short) > 0 THEN
        INSERT INTO credits.notices (user_id, id, kind, data, next_attempt_at, created_at)
        SELECT
            s.user_id, credits._new_id(), 'sync_paused',
            jsonb_build_object(
                'interval', s.billing_interval,
                'price', s.price,
                'available', greatest(b.balance - b.reserved, 0),
                'dueAt', credits._utc_text(s.next_charge_at)
            ),
            p_now, p_now
        FROM credits.sync_subscriptions AS s
        INNER JOIN credits.balances AS b ON b.user_id = s.user_id
        WHERE s.user_id = ANY(v_short);
        UPDATE credits.sync_subscriptions SET
            active = false,
            next_charge_at = NULL,
            paused_at = p_now,
            retry_at = NULL,
            failures = 0,
            last_error = NULL,
            updated_at = p_now
        WHERE user_id = ANY(v_short);
        PERFORM pg_notify('mana_credits_notices', '');
    END IF;
    RETURN ROW(cardinality(v_paying), cardinality(v_short), 0, false, NULL, NULL)::credits.charge_result;
END
$$;
COMMENT ON FUNCTION credits._charge_subscriptions(text [], timestamptz) IS
'Charges due subscriptions that the caller has locked, or pauses them with a notice';
