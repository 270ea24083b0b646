-- credits._is_unseen: whether neither the id of a call nor its key was used before.
--
-- Hardly ever was one, and to look whether it was costs less than to read what is there.
--
-- Needs: the user's balance row is locked, so that a racing call has committed or not begun. Volatile,
--        so that it sees what was committed while the lock was waited for.
CREATE OR REPLACE FUNCTION credits._is_unseen(
    p_user_id text, p_id uuid, p_origin credits.origin, p_idempotency_key text
)
RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    IF p_idempotency_key IS NOT NULL THEN
        PERFORM FROM credits.transactions WHERE id = p_id
        UNION ALL
        SELECT FROM credits._key_places(p_user_id, p_origin, p_idempotency_key);
    ELSIF p_id IS NOT NULL THEN
        PERFORM FROM credits.transactions WHERE id = p_id;
    ELSE
        RETURN true;
    END IF;
    RETURN NOT found;
END
$$;
COMMENT ON FUNCTION credits._is_unseen(text, uuid, credits.origin, text) IS
'Whether no move has that id, and the user has used that key for nothing; null stands for none';
