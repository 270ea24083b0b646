-- credits._refuse_used_key: refuse a key that another kind of call of the same origin has used.
--
-- Debits, refunds, reservations, gifts and purchases of one origin share one key space
-- (database.md, rule 7), and their keys stand in the table of what they made: the ledger,
-- reservations (services only), purchases (users only); those of calls that make no row of their
-- own stand in keyed_calls. p_but_not is the caller's own table, in which it has looked already.
--
-- Needs:  the user's balance row is locked; every keyed call of a user takes it.
-- Raises: MC003 idempotency_key_reused.
CREATE OR REPLACE FUNCTION credits._refuse_used_key(
    p_user_id text, p_origin credits.origin, p_idempotency_key text, p_but_not text
)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF p_but_not <> 'transactions' AND EXISTS (
            SELECT 1 FROM credits.transactions
            WHERE user_id = p_user_id AND origin = p_origin AND idempotency_key = p_idempotency_key
        )
        OR p_but_not <> 'keyed_calls' AND EXISTS (
            SELECT 1 FROM credits.keyed_calls
            WHERE user_id = p_user_id AND origin = p_origin AND idempotency_key = p_idempotency_key
        )
        OR p_but_not <> 'reservations' AND p_origin = 'service' AND EXISTS (
            SELECT 1 FROM credits.reservations
            WHERE user_id = p_user_id AND idempotency_key = p_idempotency_key
        )
        OR p_but_not <> 'purchases' AND p_origin = 'user' AND EXISTS (
            SELECT 1 FROM credits.purchases
            WHERE user_id = p_user_id AND idempotency_key = p_idempotency_key
        )
    THEN
        PERFORM credits._refuse_key(p_idempotency_key);
    END IF;
END
$$;
COMMENT ON FUNCTION credits._refuse_used_key(text, credits.origin, text, text) IS
'Raises MC003 when a key stands in another table of the same key space';
