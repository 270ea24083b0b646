-- credits._write_moves: write many ledger rows, and the balances that follow from them.
--
-- Keeps: usage_stats adds up the ledger's usage.
-- Needs: the balance rows are locked. p_entries chain from what the balances were, and p_balances,
--        one a user, are what they come to, with the version as it was.
--
-- Replaces: credits._write_batch(integer[], credits.new_move[])
CREATE OR REPLACE FUNCTION credits._write_moves(
    p_entries credits.transactions [], p_balances credits.balances []
)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_written bigint;
BEGIN
    -- The ledger first: to check its foreign keys PostgreSQL locks the balances, and finds them locked
    -- as long as they have not changed.
    INSERT INTO credits.transactions SELECT e.* FROM unnest(p_entries) AS e;
    WITH used AS (
        INSERT INTO credits.usage_stats AS s (user_id, day, app_id, credits_used, operations)
        SELECT
            e.user_id, (e.created_at AT TIME ZONE 'UTC')::date, e.app_id, sum(-e.amount)::bigint,
            count(*)
        FROM unnest(p_entries) AS e
        WHERE e.type = 'usage'
        GROUP BY 1, 2, 3
        ON CONFLICT (user_id, day, app_id) DO UPDATE SET
            credits_used = s.credits_used + excluded.credits_used,
            operations = s.operations + excluded.operations
    )
    UPDATE credits.balances AS b SET
        balance = n.balance,
        total_earned = n.total_earned,
        total_spent = n.total_spent,
        last_seq = n.last_seq,
        version = b.version + 1,
        updated_at = n.updated_at
    FROM unnest(p_balances) AS n
    WHERE b.user_id = n.user_id AND b.version = n.version;
    GET DIAGNOSTICS v_written = ROW_COUNT;
    -- The join would pass over a balance that is another one by now in silence.
    ASSERT v_written = cardinality(p_balances), 'the caller holds the locks on all balance rows';
END
$$;
COMMENT ON FUNCTION credits._write_moves(credits.transactions [], credits.balances []) IS
'Writes many ledger rows and the balances they come to; the caller has locked the balances and decided';
