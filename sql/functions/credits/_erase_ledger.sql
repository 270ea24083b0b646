-- credits._erase_ledger: put a pseudonym where a user was in the ledger, and clear what callers wrote.
--
-- The one statement that changes ledger rows. The triggers let it through by the name of this
-- function, and each row only for an erasure that is under way (_refuse_ledger_change,
-- _require_erasure). What the database itself wrote stays: what was bought, taken back and charged.
-- An app stays where it is a name; the app of a commit can be anything (_reason_app).
--
-- Keeps: seq, amounts, balances and times of every row.
-- Needs: the pseudonym has a balance row and an open row in erasures; the user's balance is locked.
CREATE OR REPLACE FUNCTION credits._erase_ledger(p_user_id text, p_pseudonym text)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    -- Of a grant and of what an administrator refunds only the origin is the database's own.
    UPDATE credits.transactions SET
        user_id = p_pseudonym,
        app_id = credits._erased_app(app_id, p_user_id),
        description = CASE
            WHEN origin = 'system' AND type NOT IN ('grant', 'refund') THEN description ELSE ''
        END,
        metadata = CASE WHEN origin = 'system' AND type NOT IN ('grant', 'refund') THEN metadata END,
        idempotency_key = CASE
            WHEN origin = 'system' AND type NOT IN ('grant', 'refund') THEN idempotency_key
        END
    WHERE user_id = p_user_id;
END
$$;
COMMENT ON FUNCTION credits._erase_ledger(text, text) IS
'Replaces a user by his pseudonym in the ledger and clears descriptions, metadata, keys and apps that callers chose, unless an app is a mere name; amounts, seq and times stay';
