-- credits._erase_actions: put a pseudonym where a user was in what administrators did, and clear what
-- they wrote of him.
--
-- What was done to him stays: what, how much, by whom, when. What he did as an administrator stays as
-- well, with the reasons, which are about others. The one statement that changes these rows: the
-- triggers let it through by the name of this function, and each row only for an erasure that is under
-- way (_refuse_action_change, _require_action_erasure).
--
-- Locks: the rows, by id, after all else of the user's. Only another erasure changes one.
-- Needs: an open row in erasures; the pseudonym has a balance row where the user had one.
CREATE OR REPLACE FUNCTION credits._erase_actions(p_user_id text, p_pseudonym text)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    -- Two administrators who are erased at once can share rows.
    PERFORM 1 FROM credits.admin_actions
    WHERE user_id = p_user_id OR admin_id = p_user_id
    ORDER BY id FOR UPDATE;
    UPDATE credits.admin_actions SET
        user_id = CASE user_id WHEN p_user_id THEN p_pseudonym ELSE user_id END,
        admin_id = CASE admin_id WHEN p_user_id THEN p_pseudonym ELSE admin_id END,
        admin_name = CASE WHEN admin_id <> p_user_id THEN admin_name END,
        reason = CASE WHEN user_id = p_user_id AND reason IS NOT NULL THEN 'erased' ELSE reason END,
        -- A key is a text of the administrator's.
        details = details - 'idempotencyKey'
    WHERE user_id = p_user_id OR admin_id = p_user_id;
END
$$;
COMMENT ON FUNCTION credits._erase_actions(text, text) IS
'Replaces a user by his pseudonym in what administrators did to him, and in what he did as one, and clears reasons, his name and keys; amounts and times stay';
