-- credits._refund_debit: count a refund against the debit that it names.
--
-- p_amount null is all that is left of the debit. Answers the amount and the app of the debit.
--
-- Keeps:  all refunds that name a debit together never exceed it.
-- Needs:  the user's balance row is locked, and the caller writes the refund's ledger row.
-- Raises: MC001 invalid_request naming what is left, MC004 not_found.
CREATE OR REPLACE FUNCTION credits._refund_debit(
    p_user_id text, p_transaction_id uuid, p_amount bigint, OUT amount bigint, OUT app_id text
)
LANGUAGE plpgsql
AS $$
DECLARE
    v_debited bigint;
    v_left    bigint;
BEGIN
    SELECT -t.amount, t.app_id INTO v_debited, app_id
    FROM credits.transactions AS t
    WHERE t.id = p_transaction_id AND t.user_id = p_user_id AND t.type = 'usage';
    IF NOT found THEN
        PERFORM credits._refuse_missing('transaction');
    END IF;
    SELECT v_debited - coalesce(
        (
            SELECT r.refunded FROM credits.debit_refunds AS r
            WHERE r.user_id = p_user_id AND r.debit_id = p_transaction_id
        ), 0
    ) INTO v_left;
    amount := coalesce(p_amount, v_left);
    IF amount > v_left OR v_left = 0 THEN
        RAISE EXCEPTION 'refunds would exceed the debit: % credits are left of it', v_left USING
            ERRCODE = 'MC001',
            DETAIL = json_build_object(
                'field', 'amount',
                'message', format('must be at most %s, which is what is left of the debit', v_left),
                'left', v_left
            );
    END IF;
    INSERT INTO credits.debit_refunds AS r (user_id, debit_id, debited, refunded)
    VALUES (p_user_id, p_transaction_id, v_debited, amount)
    ON CONFLICT (user_id, debit_id) DO UPDATE SET refunded = r.refunded + excluded.refunded;
END
$$;
COMMENT ON FUNCTION credits._refund_debit(text, uuid, bigint) IS
'Counts a refund (null: all that is left) against its debit. Raises MC001 invalid_request, MC004 not_found';
