-- credits._make_calls: make the calls of a batch, as far as what they are about is locked.
--
-- p_user_ids are the users of the calls. Debits, refunds and grants are decided one by one, by the
-- functions that decide on single ones, and written together; whatever looks for what was decided
-- before it has it written first.
--
-- Needs:  p_balances and p_reservation_ids are locked, and the balances are as they are under the lock.
-- Keeps:  what the single functions keep.
-- Raises: nothing that a call's function raises, unless it is no error of class MC.
CREATE OR REPLACE FUNCTION credits._make_calls(
    p_calls credits.batch_call [], p_user_ids text [], p_balances credits.balances [],
    p_reservation_ids uuid []
)
RETURNS SETOF credits.batch_outcome
LANGUAGE plpgsql
AS $$
DECLARE
    v_item     record;
    v_call     credits.batch_call;
    v_balance  credits.balances;
    v_decision credits.decision;
    v_move     credits.new_move;
    v_entry    credits.transactions;
    v_hold     credits.hold;
    v_commit   credits.committed_hold;
    v_error    text;
    v_detail   text;
    v_now      timestamptz := clock_timestamp();
    -- Decided, not written yet; and what balances come to by it, but for the present user's.
    v_entries  credits.transactions [] := ARRAY[]::credits.transactions [];
    v_balances credits.balances [] := ARRAY[]::credits.balances [];
    -- Of the present user: whether some of the entries are his, their keys, and whether something of
    -- his was written already.
    v_unwritten boolean := false;
    v_keys     text [];
    v_written  boolean;
BEGIN
    FOR v_item IN
        -- A statement of its own: what was read before the locks were had could be stale.
        SELECT
            u.place, b AS balance,
            NOT (
                EXISTS (SELECT FROM credits.transactions AS t WHERE t.id = (p_calls[u.place]).id)
                OR (p_calls[u.place]).idempotency_key IS NOT NULL
                AND EXISTS (
                    SELECT FROM credits._key_places(
                        u.user_id, (p_calls[u.place]).origin, (p_calls[u.place]).idempotency_key
                    )
                )
            ) AS unseen
        FROM unnest(p_user_ids) WITH ORDINALITY AS u (user_id, place)
        LEFT JOIN unnest(p_balances) AS b ON b.user_id = u.user_id
        ORDER BY u.user_id, u.place
    LOOP
        v_call := p_calls[v_item.place];
        IF (v_item.balance).user_id IS NULL
            OR v_call.reservation_id IS NOT NULL
            AND (v_call.reservation_id = ANY(p_reservation_ids)) IS NOT TRUE
        THEN
            RETURN NEXT ROW(v_item.place, true, NULL, NULL, NULL, NULL, NULL)::credits.batch_outcome;
            CONTINUE;
        END IF;
        IF v_balance.user_id IS DISTINCT FROM (v_item.balance).user_id THEN
            IF v_unwritten THEN
                v_balances := v_balances || v_balance;
            END IF;
            v_balance := v_item.balance;
            v_unwritten := false;
            v_keys := ARRAY[]::text [];
            v_written := false;
        END IF;
        IF v_unwritten AND (
            v_call.operation NOT IN ('use_credits', 'refund_credits')
            OR v_call.transaction_id IS NOT NULL
            OR v_call.idempotency_key = ANY(v_keys)
        ) THEN
            PERFORM credits._write_moves(v_entries, v_balances || v_balance);
            v_entries := ARRAY[]::credits.transactions [];
            v_balances := ARRAY[]::credits.balances [];
            v_unwritten := false;
            v_keys := ARRAY[]::text [];
            v_written := true;
            SELECT * INTO v_balance FROM credits.balances WHERE user_id = v_balance.user_id;
            v_now := clock_timestamp();
        END IF;

        v_decision := NULL;
        v_hold := NULL;
        v_commit := NULL;
        BEGIN
            CASE v_call.operation
                WHEN 'use_credits' THEN
                    v_decision := credits._decide_debit(
                        v_call, v_balance, p_unseen => v_item.unseen AND NOT v_written
                    );
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
            v_move := v_decision.wanted;
            IF v_move.id IS NULL THEN
                v_move.id := credits._new_id();
            END IF;
            v_balance := credits._book(v_balance, v_move.amount, v_now);
            v_entry := credits._as_entry(v_move, v_balance, v_now);
            v_entries := v_entries || v_entry;
            v_unwritten := true;
            v_keys := v_keys || v_call.idempotency_key;
            v_decision.made := credits._as_move(v_entry, v_balance, p_replayed => false);
        ELSIF v_hold.reservation_id IS NOT NULL OR v_commit.reservation_id IS NOT NULL THEN
            v_written := true;
            SELECT * INTO v_balance FROM credits.balances WHERE user_id = v_balance.user_id;
            v_now := clock_timestamp();
        END IF;
        RETURN NEXT ROW(
            v_item.place, false, NULL, NULL, v_decision.made, v_hold, v_commit
        )::credits.batch_outcome;
    END LOOP;

    IF v_unwritten THEN
        v_balances := v_balances || v_balance;
    END IF;
    IF cardinality(v_entries) > 0 THEN
        PERFORM credits._write_moves(v_entries, v_balances);
    END IF;
END
$$;
COMMENT ON FUNCTION credits._make_calls(
    credits.batch_call [], text [], credits.balances [], uuid []
) IS
'Makes the calls of a batch whose balances and holds the caller has locked, each with the outcome that its own function would have';
