-- credits.run_batch: many calls in one statement and one commit, each as if it had come alone.
--
-- The outcomes come in no order; each names the place of its call. Calls about one user are done in
-- the order of the array. One that is refused changes nothing and does not touch its neighbours.
-- Debits, refunds and grants are decided one by one, by the functions that decide on single ones,
-- and written together; whatever looks for what was decided before it has it written first.
--
-- What cannot be done here in time is left to its own function (alone): for a user without a balance
-- row yet, or one that somebody else holds for longer than 0.1 s. Where a defect stops one call, the
-- whole batch fails and nothing has happened.
--
-- Locks:  see _lock_batch.
-- Keeps:  what the single functions keep.
-- Raises: MC001 invalid_request for an array that is empty or too long; what a call's function
--         raises is its outcome.
CREATE OR REPLACE FUNCTION credits.run_batch(p_calls credits.batch_call [])
RETURNS SETOF credits.batch_outcome
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
DECLARE
    v_users    text [];
    v_locked   record;
    v_item     record;
    v_call     credits.batch_call;
    v_balance  credits.balances;
    v_decision credits.decision;
    v_hold     credits.hold;
    v_commit   credits.committed_hold;
    v_error    text;
    v_detail   text;
    -- Decided, not written yet.
    v_places   integer [] := ARRAY[]::integer [];
    v_moves    credits.new_move [] := ARRAY[]::credits.new_move [];
    -- Of these, the present user's.
    v_unwritten boolean := false;
    v_keys     text [] := ARRAY[]::text [];
BEGIN
    PERFORM credits._require(
        cardinality(p_calls) BETWEEN 1 AND 1000, 'calls', 'must be 1 to 1000 calls'
    );
    -- A hold is known by its id alone.
    SELECT array_agg(coalesce(r.user_id, c.user_id) ORDER BY c.place) INTO v_users
    FROM unnest(p_calls) WITH ORDINALITY AS c (
        operation, user_id, id, amount, app_id, description, idempotency_key, metadata, origin,
        transaction_id, reservation_id, reason, reference_id, expires_in_seconds, place
    )
    LEFT JOIN credits.reservations AS r ON r.id = c.reservation_id;
    v_locked := credits._lock_batch(
        v_users,
        ARRAY(SELECT c.reservation_id FROM unnest(p_calls) AS c WHERE c.reservation_id IS NOT NULL)
    );

    FOR v_item IN
        -- A statement of its own: what was read before the locks were had could be stale.
        SELECT u.place, l.user_id IS NOT NULL AS locked, b AS balance
        FROM unnest(v_users) WITH ORDINALITY AS u (user_id, place)
        LEFT JOIN unnest(v_locked.user_ids) AS l (user_id) ON l.user_id = u.user_id
        LEFT JOIN credits.balances AS b ON b.user_id = l.user_id
        ORDER BY u.user_id, u.place
    LOOP
        v_call := p_calls[v_item.place];
        IF NOT v_item.locked
            OR v_call.reservation_id IS NOT NULL
            AND (v_call.reservation_id = ANY(v_locked.reservation_ids)) IS NOT TRUE
        THEN
            RETURN NEXT ROW(v_item.place, true, NULL, NULL, NULL, NULL, NULL)::credits.batch_outcome;
            CONTINUE;
        END IF;
        IF v_balance.user_id IS DISTINCT FROM (v_item.balance).user_id THEN
            v_balance := v_item.balance;
            v_unwritten := false;
            v_keys := ARRAY[]::text [];
        END IF;
        IF v_unwritten AND (
            v_call.operation NOT IN ('use_credits', 'refund_credits')
            OR v_call.transaction_id IS NOT NULL
            OR v_call.idempotency_key = ANY(v_keys)
        ) THEN
            RETURN QUERY SELECT * FROM credits._write_batch(v_places, v_moves);
            v_places := ARRAY[]::integer [];
            v_moves := ARRAY[]::credits.new_move [];
            v_unwritten := false;
            v_keys := ARRAY[]::text [];
        END IF;

        v_decision := NULL;
        v_hold := NULL;
        v_commit := NULL;
        BEGIN
            CASE v_call.operation
                WHEN 'use_credits' THEN
                    v_decision := credits._decide_debit(v_call, v_balance);
                WHEN 'refund_credits' THEN
                    v_decision := credits._decide_refund(v_call, v_balance);
                WHEN 'grant_credits' THEN
                    v_decision := credits._decide_grant(v_call, v_balance);
                WHEN 'reserve_credits' THEN
                    v_hold := credits.reserve_credits(
                        p_user_id => v_call.user_id, p_amount => v_call.amount,
                        p_reason => v_call.reason,
                        p_expires_in_seconds => v_call.expires_in_seconds,
                        p_idempotency_key => v_call.idempotency_key, p_id => v_call.id
                    );
                WHEN 'commit_reservation' THEN
                    v_commit := credits.commit_reservation(
                        p_reservation_id => v_call.reservation_id, p_user_id => v_call.user_id,
                        p_description => v_call.description, p_amount => v_call.amount,
                        p_id => v_call.id, p_idempotency_key => v_call.idempotency_key
                    );
                WHEN 'refund_reservation' THEN
                    v_hold := credits.refund_reservation(
                        p_reservation_id => v_call.reservation_id, p_user_id => v_call.user_id,
                        p_idempotency_key => v_call.idempotency_key
                    );
            END CASE;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS v_error = RETURNED_SQLSTATE, v_detail = PG_EXCEPTION_DETAIL;
            IF v_error NOT LIKE 'MC%' THEN
                RAISE;
            END IF;
            RETURN NEXT ROW(
                v_item.place, false, v_error, v_detail, NULL, NULL, NULL
            )::credits.batch_outcome;
            CONTINUE;
        END;

        IF (v_decision.wanted).user_id IS NOT NULL THEN
            v_places := v_places || v_item.place::integer;
            v_moves := v_moves || v_decision.wanted;
            v_unwritten := true;
            v_keys := v_keys || v_call.idempotency_key;
            v_balance.balance := v_balance.balance + (v_decision.wanted).amount;
            v_balance.total_earned
                := v_balance.total_earned + greatest((v_decision.wanted).amount, 0);
            v_balance.total_spent
                := v_balance.total_spent + greatest(-(v_decision.wanted).amount, 0);
        ELSE
            RETURN NEXT ROW(
                v_item.place, false, NULL, NULL, v_decision.made, v_hold, v_commit
            )::credits.batch_outcome;
            IF v_hold.reservation_id IS NOT NULL OR v_commit.reservation_id IS NOT NULL THEN
                SELECT * INTO v_balance FROM credits.balances WHERE user_id = v_balance.user_id;
            END IF;
        END IF;
    END LOOP;
    IF cardinality(v_moves) > 0 THEN
        RETURN QUERY SELECT * FROM credits._write_batch(v_places, v_moves);
    END IF;
END
$$;
COMMENT ON FUNCTION credits.run_batch(credits.batch_call []) IS
'Makes many calls in one transaction, each with the outcome that its own function would have; a call that is refused does not touch the others. Raises MC001 invalid_request unless there are 1 to 1000 of them';
