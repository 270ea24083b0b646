-- credits._as_move: a ledger row, and beside it what the user has now.
--
-- One expression in SQL: PostgreSQL puts it in the place of the call.
CREATE OR REPLACE FUNCTION credits._as_move(
    p_transaction credits.transactions, p_balance credits.balances, p_replayed boolean
)
RETURNS credits.move
LANGUAGE sql IMMUTABLE
AS $$
    SELECT ROW(
        p_transaction.id, p_transaction.user_id, p_transaction.seq, p_transaction.type,
        p_transaction.amount, p_transaction.balance_before, p_transaction.balance_after,
        p_transaction.app_id, p_transaction.description, p_transaction.metadata,
        p_transaction.reference_id, p_transaction.idempotency_key, p_transaction.created_at,
        p_replayed,
        p_balance.balance - p_balance.reserved, p_balance.reserved,
        p_balance.total_earned, p_balance.total_spent
    )::credits.move
$$;
COMMENT ON FUNCTION credits._as_move(credits.transactions, credits.balances, boolean) IS
'Puts a ledger row and a balance into the type that functions return';
