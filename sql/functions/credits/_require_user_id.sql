-- credits._require_user_id: the shape of a user id, which the auth service chooses.
--
-- The pseudonym of who was erased is nobody's id: only late events of Stripe reach its balance.
--
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits._require_user_id(p_user_id text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    PERFORM credits._require(
        p_user_id !~ '[[:space:][:cntrl:]/?#%{}]|^\.{0,2}$' AND char_length(p_user_id) <= 128
        AND NOT credits._is_erased(p_user_id),
        'userId',
        'must be 1 to 128 printable characters without white space or / ? # % { }, and no pseudonym'
    );
END
$$;
COMMENT ON FUNCTION credits._require_user_id(text) IS
'Raises MC001 invalid_request unless it can be a user id, which a pseudonym cannot';
