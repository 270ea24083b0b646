-- credits._record_moves: write many ledger rows of many users at once.
--
-- Keeps: what _record_move keeps, for each row; rows of one user chain in the order of the array.
-- Needs: the balance rows of all these users are locked (in the order of user_id).
-- Answers each move by its place in the array, and with it what its user had then.
--
-- Replaces: credits._record_moves(credits.new_move[], timestamptz)
CREATE OR REPLACE FUNCTION credits._record_moves(p_moves credits.new_move [], p_now timestamptz)
RETURNS TABLE (place integer, move credits.move)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    v_written bigint;
BEGIN
    RETURN QUERY
    WITH moves AS (
        SELECT m.*
        FROM unnest(p_moves) WITH ORDINALITY AS m (
            user_id, id, type, origin, amount, app_id, description, metadata, reference_id,
            idempotency_key, place
        )
    ),
    chained AS (
        SELECT
            m.*,
            coalesce(m.id, credits._new_id()) AS new_id,
            b.last_seq + row_number() OVER chain AS seq,
            (b.balance + sum(m.amount) OVER chain)::bigint AS balance_after,
            (b.total_earned + sum(greatest(m.amount, 0)) OVER chain)::bigint AS total_earned,
            (b.total_spent + sum(greatest(-m.amount, 0)) OVER chain)::bigint AS total_spent,
            b.reserved
        FROM moves AS m
        INNER JOIN credits.balances AS b ON b.user_id = m.user_id
        WINDOW chain AS (PARTITION BY m.user_id ORDER BY m.place)
    ),
    ledger AS (
        INSERT INTO credits.transactions (
            user_id, seq, id, type, origin, amount, balance_before, balance_after, app_id,
            description, metadata, reference_id, idempotency_key, created_at
        )
        SELECT
            c.user_id, c.seq, c.new_id, c.type, c.origin, c.amount,
            c.balance_after - c.amount, c.balance_after, c.app_id, c.description, c.metadata,
            c.reference_id, c.idempotency_key, p_now
        FROM chained AS c
        ORDER BY c.user_id, c.seq
        RETURNING 1
    ),
    totals AS (
        SELECT
            m.user_id,
            count(*) AS moves,
            sum(m.amount)::bigint AS amount,
            sum(greatest(m.amount, 0))::bigint AS earned,
            sum(greatest(-m.amount, 0))::bigint AS spent
        FROM moves AS m
        GROUP BY m.user_id
    ),
    booked AS (
        UPDATE credits.balances AS b SET
            balance = b.balance + t.amount,
            total_earned = b.total_earned + t.earned,
            total_spent = b.total_spent + t.spent,
            last_seq = b.last_seq + t.moves,
            version = b.version + 1,
            updated_at = p_now
        FROM totals AS t
        WHERE b.user_id = t.user_id
    ),
    used AS (
        INSERT INTO credits.usage_stats AS s (user_id, day, app_id, credits_used, operations)
        SELECT m.user_id, (p_now AT TIME ZONE 'UTC')::date, m.app_id, sum(-m.amount)::bigint, count(*)
        FROM moves AS m
        WHERE m.type = 'usage'
        GROUP BY m.user_id, m.app_id
        ON CONFLICT (user_id, day, app_id) DO UPDATE SET
            credits_used = s.credits_used + excluded.credits_used,
            operations = s.operations + excluded.operations
    )
    SELECT
        c.place::integer,
        ROW(
            c.new_id, c.user_id, c.seq, c.type, c.amount, c.balance_after - c.amount,
            c.balance_after, c.app_id, c.description, c.metadata, c.reference_id, c.idempotency_key,
            p_now, false, c.balance_after - c.reserved, c.reserved, c.total_earned, c.total_spent
        )::credits.move
    FROM chained AS c;
    GET DIAGNOSTICS v_written = ROW_COUNT;
    -- The join would pass over a user without a balance row in silence.
    ASSERT v_written = cardinality(p_moves), 'the caller holds the locks on all balance rows';
END
$$;
COMMENT ON FUNCTION credits._record_moves(credits.new_move [], timestamptz) IS
'Writes many ledger rows with their balances in one statement; the caller has locked the balances and decided';
