-- credits.commit_reservation: turn a hold into a debit; what is not committed goes back.
--
-- A hold past its time that no job has swept yet is still committed: the provider has been paid.
--
-- Locks:  the reservation row, then the user's balance row.
-- Raises: MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found,
--         MC013 reservation_resolved.
CREATE OR REPLACE FUNCTION credits.commit_reservation(
    p_reservation_id uuid,
    p_user_id text DEFAULT NULL,
    p_description text DEFAULT NULL,
    p_amount bigint DEFAULT NULL,
    p_id uuid DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL
)
RETURNS credits.committed_hold
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_reservation credits.reservations;
    v_balance     credits.balances;
    v_move        credits.move;
    v_amount      bigint;
    v_now         timestamptz;
BEGIN
    PERFORM credits._require(
        p_description IS NULL OR char_length(p_description) <= 500,
        'description', 'must have at most 500 characters'
    );
    v_reservation := credits._lock_reservation(p_reservation_id, p_user_id);
    v_balance := credits._lock_balance(v_reservation.user_id);
    PERFORM credits._replayed_call(
        v_reservation.user_id, 'service', p_idempotency_key, 'commit_reservation',
        v_reservation.id::text
    );

    IF v_reservation.status = 'committed' THEN
        PERFORM credits._keep_call(
            v_reservation.user_id, 'service', p_idempotency_key, 'commit_reservation',
            v_reservation.id::text, clock_timestamp()
        );
        RETURN ROW(
            v_reservation.id, v_reservation.user_id, v_reservation.transaction_id,
            v_reservation.committed_amount, v_reservation.transaction_id IS DISTINCT FROM p_id,
            v_balance.balance - v_balance.reserved
        )::credits.committed_hold;
    ELSIF v_reservation.status <> 'open' THEN
        PERFORM credits._refuse_resolved(v_reservation);
    END IF;

    v_amount := coalesce(p_amount, v_reservation.amount);
    PERFORM credits._require(
        v_amount BETWEEN 1 AND v_reservation.amount,
        'amount', format('must be a whole number from 1 to the %s reserved', v_reservation.amount)
    );
    -- No look at what can be spent: the hold has set these credits aside, and a reversal that
    -- came in between cannot undo the call that was paid for.
    v_now := clock_timestamp();
    v_move := credits._record_move(
        ROW(
            v_reservation.user_id, p_id, 'usage', 'service', -v_amount,
            credits._reason_app(v_reservation.reason),
            coalesce(p_description, v_reservation.reason), NULL, v_reservation.id, NULL
        )::credits.new_move,
        v_now,
        p_released => v_reservation.amount
    );
    UPDATE credits.reservations SET
        status = 'committed',
        committed_amount = v_amount,
        transaction_id = v_move.id,
        resolved_at = v_now
    WHERE user_id = v_reservation.user_id AND id = v_reservation.id;
    PERFORM credits._keep_call(
        v_reservation.user_id, 'service', p_idempotency_key, 'commit_reservation',
        v_reservation.id::text, v_now
    );
    RETURN ROW(
        v_reservation.id, v_reservation.user_id, v_move.id, v_amount, false, v_move.available
    )::credits.committed_hold;
END
$$;
COMMENT ON FUNCTION credits.commit_reservation(uuid, text, text, bigint, uuid, text) IS
'Debits what a reservation holds, or p_amount of it; the rest goes back. Again returns the first result. Raises MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found, MC013 reservation_resolved';
