-- credits._erase_ledger: put a pseudonym where a user was in the ledger, and clear what callers wrote.
--
-- The one statement that changes ledger rows. The triggers let it through by the name of this
-- function, and each row only for an erasure that is under way (_refuse_ledger_change,
-- _require_erasure). What the database itself wrote stays: what was bought, taken back and charged.
--
-- Keeps: seq, amounts, balances and times of every row.
-- Needs: the pseudonym has a balance row and an open row in erasures; the user's balance is locked.
CREATE OR REPLACE FUNCTION credits._erase_ledger(p_user_id text, p_pseudonym text)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    -- A grant is the database's own by its key alone: its words and its reference are the caller's.
    UPDATE credits.transactions SET
        user_id = p_pseudonym,
        description = CASE WHEN origin = 'system' AND type <> 'grant' THEN description ELSE '' END,
        metadata = CASE WHEN origin = 'system' AND type <> 'grant' THEN metadata END,
        idempotency_key = CASE WHEN origin = 'system' AND type <> 'grant' THEN idempotency_key END
    WHERE user_id = p_user_id;
END
$$;
COMMENT ON FUNCTION credits._erase_ledger(text, text) IS
'Replaces a user by his pseudonym in the ledger and clears descriptions, metadata and keys that callers chose; amounts, seq and times stay';
