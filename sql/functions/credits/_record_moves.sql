-- credits._record_moves: write many ledger rows of many users at once.
--
-- Keeps: what _record_move keeps, for each row; rows of one user chain in the order of the array.
-- Needs: the balance rows of all these users are locked (in the order of user_id).
--
-- Replaces: credits._record_moves(credits.new_move[], timestamptz)
CREATE OR REPLACE FUNCTION credits._record_moves(p_moves credits.new_move [], p_now timestamptz)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_item     record;
    v_move     credits.new_move;
    v_balance  credits.balances;
    v_entries  credits.transactions [] := ARRAY[]::credits.transactions [];
    v_balances credits.balances [] := ARRAY[]::credits.balances [];
BEGIN
    FOR v_item IN
        SELECT m.place, b AS balance
        FROM unnest(p_moves) WITH ORDINALITY AS m (
            user_id, id, type, origin, amount, app_id, description, metadata, reference_id,
            idempotency_key, place
        )
        INNER JOIN credits.balances AS b ON b.user_id = m.user_id
        ORDER BY m.user_id, m.place
    LOOP
        v_move := p_moves[v_item.place];
        IF v_balance.user_id IS DISTINCT FROM v_move.user_id THEN
            IF v_balance.user_id IS NOT NULL THEN
                v_balances := v_balances || v_balance;
            END IF;
            v_balance := v_item.balance;
        END IF;
        v_move.id := coalesce(v_move.id, credits._new_id());
        v_balance := credits._book(v_balance, v_move.amount, p_now);
        v_entries := v_entries || credits._as_entry(v_move, v_balance, p_now);
    END LOOP;
    -- The join would pass over a user without a balance row in silence.
    ASSERT cardinality(v_entries) = cardinality(p_moves),
        'the caller holds the locks on all balance rows';
    PERFORM credits._write_moves(v_entries, v_balances || v_balance);
END
$$;
COMMENT ON FUNCTION credits._record_moves(credits.new_move [], timestamptz) IS
'Writes many ledger rows with their balances; the caller has locked the balances and decided';
