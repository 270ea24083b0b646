-- credits.settle_notice: how an attempt to send a notice ended.
--
-- delivered and undeliverable are final, and so is failed; with pending it is tried again after
-- p_retry_in_seconds, and without an error nothing was tried, so that it does not count.
--
-- p_attempt is the attempt that the caller has claimed: one that was frozen beyond its lease must not
-- settle what another has claimed since. null is for a person, who settles it whoever has it.
--
-- Where an address was learned since the notice was claimed without one, undeliverable becomes
-- pending at once: whoever learns an address revives what is undeliverable, and could not see it yet.
--
-- Locks:  for undeliverable the user's balance row, as whoever learns an address does; the notice.
-- Raises: MC001 invalid_request.
-- Replaces: credits.settle_notice(text, uuid, credits.notice_state, text, double precision)
CREATE OR REPLACE FUNCTION credits.settle_notice(
    p_user_id text,
    p_id uuid,
    p_state credits.notice_state,
    p_error text DEFAULT NULL,
    p_retry_in_seconds double precision DEFAULT NULL,
    p_attempt integer DEFAULT NULL
)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now   CONSTANT timestamptz := clock_timestamp();
    v_state credits.notice_state := p_state;
    v_error text := left(p_error, 1000);
    v_next  timestamptz;
BEGIN
    IF p_state = 'undeliverable' THEN
        PERFORM 1 FROM credits.balances WHERE user_id = p_user_id FOR SHARE;
        IF EXISTS (
            SELECT 1 FROM credits.notices AS n
            INNER JOIN credits.contacts AS c ON c.user_id = n.user_id
            WHERE n.user_id = p_user_id AND n.id = p_id AND n.recipient IS NULL
        ) THEN
            v_state := 'pending';
            v_error := NULL;
            v_next := v_now;
            PERFORM pg_notify('mana_credits_notices', '');
        END IF;
    END IF;
    IF p_state = 'pending' THEN
        PERFORM credits._require(
            p_retry_in_seconds >= 0, 'retryInSeconds', 'must be given for a notice that stays pending'
        );
        v_next := credits._utc_add(v_now, make_interval(secs => p_retry_in_seconds));
    END IF;
    UPDATE credits.notices SET
        state = v_state,
        last_error = v_error,
        attempts = greatest(
            attempts - CASE WHEN v_state = 'pending' AND v_error IS NULL THEN 1 ELSE 0 END, 0
        ),
        next_attempt_at = v_next,
        delivered_at = CASE v_state WHEN 'delivered' THEN v_now END
    WHERE user_id = p_user_id
        AND id = p_id
        AND state = 'pending'
        AND attempts = coalesce(p_attempt, attempts);
    RETURN found;
END
$$;
COMMENT ON FUNCTION credits.settle_notice(
    text, uuid, credits.notice_state, text, double precision, integer
) IS 'Writes down how an attempt to send a notice ended; false when it was settled before, or was claimed by another since. Raises MC001 invalid_request';
