-- credits._refuse_used_key: refuse a key that another kind of call of the same origin has used.
--
-- p_but_not is the caller's own table, in which it has looked already.
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
    PERFORM FROM credits._key_places(p_user_id, p_origin, p_idempotency_key) AS p (place)
    WHERE p.place <> p_but_not;
    IF found THEN
        PERFORM credits._refuse_key(p_idempotency_key);
    END IF;
END
$$;
COMMENT ON FUNCTION credits._refuse_used_key(text, credits.origin, text, text) IS
'Raises MC003 when a key stands in another table of the same key space';
