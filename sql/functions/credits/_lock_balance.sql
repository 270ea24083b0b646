-- credits._lock_balance: take the lock that every move of a user's credits takes first.
--
-- Locks:  the user's balance row, which is made if it is not there yet.
-- Raises: MC001 invalid_request for what cannot be a user id.
CREATE OR REPLACE FUNCTION credits._lock_balance(p_user_id text)
RETURNS credits.balances
LANGUAGE plpgsql
AS $$
DECLARE
    v_balance credits.balances;
BEGIN
    -- Once more only where the row was made by somebody else, or its user was erased, meanwhile.
    LOOP
        SELECT * INTO v_balance FROM credits.balances WHERE user_id = p_user_id FOR UPDATE;
        EXIT WHEN found;
        PERFORM credits._require_user_id(p_user_id);
        -- FOR UPDATE cannot lock a row that is not there: whoever loses the race to make it
        -- waits here for the winner, and then locks the winner's row.
        INSERT INTO credits.balances (user_id, created_at, updated_at)
        VALUES (p_user_id, clock_timestamp(), clock_timestamp())
        ON CONFLICT (user_id) DO NOTHING;
    END LOOP;
    RETURN v_balance;
END
$$;
COMMENT ON FUNCTION credits._lock_balance(text) IS
'Locks the user''s balance row, making it first for a user never seen, and returns it as it is once locked';
