-- credits.reserve_credits: hold credits for a call that is about to be made.
--
-- Locks:  the user's balance row.
-- Keeps:  what can be spent never falls below zero; reserved is the sum of the open reservations.
-- Raises: MC001 invalid_request, MC002 insufficient_credits, MC003 idempotency_key_reused.
CREATE OR REPLACE FUNCTION credits.reserve_credits(
    p_user_id text,
    p_amount bigint,
    p_reason text,
    p_expires_in_seconds integer DEFAULT 86400,
    p_idempotency_key text DEFAULT NULL,
    p_id uuid DEFAULT NULL
)
RETURNS credits.hold
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_balance     credits.balances;
    v_available   bigint;
    v_reservation credits.reservations;
    v_now         timestamptz;
BEGIN
    -- What breaks a rule raises in the condition.
    IF credits._require_amount(p_amount)
        AND credits._require(
            char_length(p_reason) BETWEEN 1 AND 200, 'reason', 'must have 1 to 200 characters'
        )
        AND credits._require(
            p_expires_in_seconds BETWEEN 1 AND 604800,
            'expiresInSeconds', 'must be a whole number from 1 to 604800'
        )
        AND credits._require_key(p_idempotency_key, 'service')
    THEN
        v_balance := credits._lock_balance(p_user_id);
    END IF;
    v_available := v_balance.balance - v_balance.reserved;

    SELECT * INTO v_reservation FROM credits.reservations WHERE user_id = p_user_id AND id = p_id;
    IF NOT found AND p_idempotency_key IS NOT NULL THEN
        SELECT * INTO v_reservation FROM credits.reservations
        WHERE user_id = p_user_id AND idempotency_key = p_idempotency_key;
    END IF;
    IF v_reservation.id IS NOT NULL THEN
        IF (v_reservation.amount, credits._reason_app(v_reservation.reason))
            <> (p_amount, credits._reason_app(p_reason))
        THEN
            PERFORM credits._refuse_key(p_idempotency_key);
        END IF;
        RETURN credits._as_hold(
            v_reservation, v_available, p_replayed => v_reservation.id IS DISTINCT FROM p_id
        );
    END IF;
    IF p_idempotency_key IS NOT NULL THEN
        PERFORM credits._refuse_used_key(
            p_user_id, 'service', p_idempotency_key, p_but_not => 'reservations'
        );
    END IF;

    PERFORM credits._require_available(v_balance, p_amount);
    v_now := clock_timestamp();
    UPDATE credits.balances AS b SET
        reserved = b.reserved + p_amount,
        version = b.version + 1,
        updated_at = v_now
    WHERE b.user_id = p_user_id;
    INSERT INTO credits.reservations (
        user_id, id, amount, reason, idempotency_key, expires_at, created_at
    ) VALUES (
        p_user_id, coalesce(p_id, credits._new_id()), p_amount, p_reason, p_idempotency_key,
        credits._utc_add(v_now, make_interval(secs => p_expires_in_seconds)), v_now
    )
    RETURNING * INTO v_reservation;
    RETURN credits._as_hold(v_reservation, v_available - p_amount, p_replayed => false);
END
$$;
COMMENT ON FUNCTION credits.reserve_credits(text, bigint, text, integer, text, uuid) IS
'Holds credits until commit_reservation or refund_reservation, or until they expire. Raises MC001 invalid_request, MC002 insufficient_credits, MC003 idempotency_key_reused';
