-- credits.list_transactions: a user's ledger, newest first.
--
-- p_before_seq is the cursor: the seq of the last row of the page before. Pages by cursor cost
-- the same at any depth; p_offset is for older clients.
CREATE OR REPLACE FUNCTION credits.list_transactions(
    p_user_id text,
    p_limit integer DEFAULT 50,
    p_before_seq bigint DEFAULT NULL,
    p_offset integer DEFAULT 0,
    p_type credits.transaction_type DEFAULT NULL,
    p_app_id text DEFAULT NULL
)
RETURNS SETOF credits.move
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT
        t.id, t.user_id, t.seq, t.type, t.amount, t.balance_before, t.balance_after, t.app_id,
        t.description, t.metadata, t.reference_id, t.idempotency_key, t.created_at, false,
        NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint
    FROM credits.transactions AS t
    WHERE t.user_id = p_user_id
        AND t.seq < coalesce(p_before_seq, 9223372036854775807)
        AND (p_type IS NULL OR t.type = p_type)
        AND (p_app_id IS NULL OR t.app_id = p_app_id)
    ORDER BY t.seq DESC
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION credits.list_transactions(
    text, integer, bigint, integer, credits.transaction_type, text
) IS
'A user''s ledger, newest first; p_before_seq goes on behind a page, p_type and p_app_id filter. The columns of the current balance are null';
