-- credits._key_places: the tables in which an idempotency key stands.
--
-- Debits, refunds, reservations, gifts and purchases of one origin share one key space
-- (database.md, rule 7), and their keys stand in the table of what they made: the ledger,
-- reservations (services only), purchases (users only); those of calls that make no row of their
-- own stand in keyed_calls.
--
-- One query in SQL: PostgreSQL puts it in the place of the call.
CREATE OR REPLACE FUNCTION credits._key_places(
    p_user_id text, p_origin credits.origin, p_idempotency_key text
)
RETURNS SETOF text
LANGUAGE sql STABLE
AS $$
    SELECT 'transactions' FROM credits.transactions
    WHERE user_id = p_user_id AND origin = p_origin AND idempotency_key = p_idempotency_key
    UNION ALL
    SELECT 'keyed_calls' FROM credits.keyed_calls
    WHERE user_id = p_user_id AND origin = p_origin AND idempotency_key = p_idempotency_key
    UNION ALL
    SELECT 'reservations' FROM credits.reservations
    WHERE p_origin = 'service' AND user_id = p_user_id AND idempotency_key = p_idempotency_key
    UNION ALL
    SELECT 'purchases' FROM credits.purchases
    WHERE p_origin = 'user' AND user_id = p_user_id AND idempotency_key = p_idempotency_key
$$;
COMMENT ON FUNCTION credits._key_places(text, credits.origin, text) IS
'Names each table in which a key of this user and origin stands';
