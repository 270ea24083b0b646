-- credits._as_entry: the ledger row of a move.
--
-- One expression in SQL: PostgreSQL puts it in the place of the call.
--
-- Needs: p_balance is the user's balance as it is after the move, and the move has an id.
CREATE OR REPLACE FUNCTION credits._as_entry(
    p_move credits.new_move, p_balance credits.balances, p_now timestamptz
)
RETURNS credits.transactions
LANGUAGE sql IMMUTABLE
AS $$
    SELECT ROW(
        p_move.user_id, p_balance.last_seq, p_move.id, p_move.type,
        p_move.origin, p_move.amount, p_balance.balance - p_move.amount, p_balance.balance,
        p_move.app_id, p_move.description, p_move.metadata, p_move.reference_id,
        p_move.idempotency_key, p_now
    )::credits.transactions
$$;
COMMENT ON FUNCTION credits._as_entry(credits.new_move, credits.balances, timestamptz) IS
'The ledger row of a move after which the balance is as given';
