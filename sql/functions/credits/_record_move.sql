-- credits._record_move: write one ledger row, and the balance that follows from it.
--
-- Keeps: seq is gapless, balance_before is the balance_after of the row before, and the balance
--        row agrees with the ledger; usage_stats adds up the ledger's usage.
-- Needs: the user's balance row is locked, and the caller has decided that the move may be made.
-- p_released is what a reservation gives up with it, in credits.
CREATE OR REPLACE FUNCTION credits._record_move(
    p_move credits.new_move, p_now timestamptz, p_released bigint DEFAULT 0
)
RETURNS credits.move
LANGUAGE plpgsql
AS $$
DECLARE
    v_balance credits.balances;
BEGIN
    UPDATE credits.balances AS b SET
        balance = b.balance + p_move.amount,
        reserved = b.reserved - p_released,
        total_earned = b.total_earned + greatest(p_move.amount, 0),
        total_spent = b.total_spent + greatest(-p_move.amount, 0),
        last_seq = b.last_seq + 1,
        version = b.version + 1,
        updated_at = p_now
    WHERE b.user_id = p_move.user_id
    RETURNING b.* INTO v_balance;
    ASSERT found, 'the caller holds the lock on the balance row';

    -- Drawing one takes many functions, which would be made ready for each move that has one.
    IF p_move.id IS NULL THEN
        p_move.id := credits._new_id();
    END IF;
    -- One statement: each costs its start, which is a part of every debit.
    WITH used AS (
        INSERT INTO credits.usage_stats AS s (user_id, day, app_id, credits_used, operations)
        SELECT p_move.user_id, (p_now AT TIME ZONE 'UTC')::date, p_move.app_id, -p_move.amount, 1
        WHERE p_move.type = 'usage'
        ON CONFLICT (user_id, day, app_id) DO UPDATE SET
            credits_used = s.credits_used + excluded.credits_used,
            operations = s.operations + 1
    )
    INSERT INTO credits.transactions (
        user_id, seq, id, type, origin, amount, balance_before, balance_after, app_id,
        description, metadata, reference_id, idempotency_key, created_at
    ) VALUES (
        p_move.user_id, v_balance.last_seq, p_move.id, p_move.type, p_move.origin, p_move.amount,
        v_balance.balance - p_move.amount, v_balance.balance, p_move.app_id, p_move.description,
        p_move.metadata, p_move.reference_id, p_move.idempotency_key, p_now
    );
    RETURN ROW(
        p_move.id, p_move.user_id, v_balance.last_seq, p_move.type, p_move.amount,
        v_balance.balance - p_move.amount, v_balance.balance, p_move.app_id, p_move.description,
        p_move.metadata, p_move.reference_id, p_move.idempotency_key, p_now, false,
        v_balance.balance - v_balance.reserved, v_balance.reserved, v_balance.total_earned,
        v_balance.total_spent
    )::credits.move;
END
$$;
COMMENT ON FUNCTION credits._record_move(credits.new_move, timestamptz, bigint) IS
'Writes one ledger row with its balance; the caller has locked the balance and decided';
