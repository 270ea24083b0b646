-- credits._book: a balance as it is after a move.
--
-- One expression in SQL: PostgreSQL puts it in the place of the call. For moves that are written
-- together; _record_move says the same in the statement that writes one.
--
-- version stays: it counts how often the row is written.
CREATE OR REPLACE FUNCTION credits._book(
    p_balance credits.balances, p_amount bigint, p_now timestamptz
)
RETURNS credits.balances
LANGUAGE sql IMMUTABLE
AS $$
    SELECT ROW(
        p_balance.user_id,
        p_balance.balance + p_amount,
        p_balance.reserved,
        p_balance.total_earned + greatest(p_amount, 0),
        p_balance.total_spent + greatest(-p_amount, 0),
        p_balance.last_seq + 1,
        p_balance.version,
        p_balance.created_at,
        p_now
    )::credits.balances
$$;
COMMENT ON FUNCTION credits._book(credits.balances, bigint, timestamptz) IS
'A balance as it is after a move of so many credits';
