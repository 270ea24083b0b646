-- credits.refund_reservation: give a hold back; one that has expired is back already.
--
-- Locks:  the reservation row, then the user's balance row.
-- Raises: MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found,
--         MC013 reservation_resolved.
CREATE OR REPLACE FUNCTION credits.refund_reservation(
    p_reservation_id uuid,
    p_user_id text DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL
)
RETURNS credits.hold
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_reservation credits.reservations;
    v_balance     credits.balances;
    v_now         timestamptz;
BEGIN
    v_reservation := credits._lock_reservation(p_reservation_id, p_user_id);
    v_balance := credits._lock_balance(v_reservation.user_id);
    PERFORM credits._replayed_call(
        v_reservation.user_id, 'service', p_idempotency_key, 'refund_reservation',
        v_reservation.id::text
    );

    IF v_reservation.status = 'committed' THEN
        PERFORM credits._refuse_resolved(v_reservation);
    ELSIF v_reservation.status <> 'open' THEN
        PERFORM credits._keep_call(
            v_reservation.user_id, 'service', p_idempotency_key, 'refund_reservation',
            v_reservation.id::text, clock_timestamp()
        );
        RETURN credits._as_hold(
            v_reservation, v_balance.balance - v_balance.reserved, p_replayed => true
        );
    END IF;

    v_now := clock_timestamp();
    UPDATE credits.balances AS b SET
        reserved = b.reserved - v_reservation.amount,
        version = b.version + 1,
        updated_at = v_now
    WHERE b.user_id = v_reservation.user_id
    RETURNING b.* INTO v_balance;
    UPDATE credits.reservations SET status = 'refunded', resolved_at = v_now
    WHERE user_id = v_reservation.user_id AND id = v_reservation.id
    RETURNING * INTO v_reservation;
    PERFORM credits._keep_call(
        v_reservation.user_id, 'service', p_idempotency_key, 'refund_reservation',
        v_reservation.id::text, v_now
    );
    RETURN credits._as_hold(
        v_reservation, v_balance.balance - v_balance.reserved, p_replayed => false
    );
END
$$;
COMMENT ON FUNCTION credits.refund_reservation(uuid, text, text) IS
'Gives the credits of a reservation back. Again returns the same. Raises MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found, MC013 reservation_resolved when it was committed';
