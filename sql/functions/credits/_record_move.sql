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
    v_move credits.move;
BEGIN
    -- One statement: each costs its start, which is a part of every debit.
    WITH booked AS (
        UPDATE credits.balances AS b SET
            balance = b.balance + p_move.amount,
            reserved = b.reserved - p_released,
            total_earned = b.total_earned + greatest(p_move.amount, 0),
            total_spent = b.total_spent + greatest(-p_move.amount, 0),
            last_seq = b.last_seq + 1,
            version = b.version + 1,
            updated_at = p_now
        WHERE b.user_id = p_move.user_id
        RETURNING b.*
    ),
    ledger AS (
        INSERT INTO credits.transactions (
            user_id, seq, id, type, origin, amount, balance_before, balance_after, app_id,
            description, metadata, reference_id, idempotency_key, created_at
        )
        SELECT
            b.user_id, b.last_seq, coalesce(p_move.id, credits._new_id()), p_move.type,
            p_move.origin, p_move.amount, b.balance - p_move.amount, b.balance,
            p_move.app_id, p_move.description, p_move.metadata, p_move.reference_id,
            p_move.idempotency_key, p_now
        FROM booked AS b
        RETURNING *
    ),
    used AS (
        INSERT INTO credits.usage_stats AS s (user_id, day, app_id, credits_used, operations)
        SELECT b.user_id, (p_now AT TIME ZONE 'UTC')::date, p_move.app_id, -p_move.amount, 1
        FROM booked AS b
        WHERE p_move.type = 'usage'
        ON CONFLICT (user_id, day, app_id) DO UPDATE SET
            credits_used = s.credits_used + excluded.credits_used,
            operations = s.operations + 1
    )
    SELECT (
        credits._as_move(
            ROW(l.*)::credits.transactions, ROW(b.*)::credits.balances, p_replayed => false
        )
    ).*
    INTO v_move
    FROM ledger AS l
    CROSS JOIN booked AS b;
    ASSERT found, 'the caller holds the lock on the balance row';
    RETURN v_move;
END
$$;
COMMENT ON FUNCTION credits._record_move(credits.new_move, timestamptz, bigint) IS
'Writes one ledger row with its balance; the caller has locked the balance and decided';
