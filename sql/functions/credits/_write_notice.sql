-- credits._write_notice: put a notice into the outbox, in the transaction that it tells of.
CREATE OR REPLACE FUNCTION credits._write_notice(
    p_user_id text, p_kind credits.notice_kind, p_data jsonb, p_now timestamptz
)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO credits.notices (user_id, id, kind, data, next_attempt_at, created_at)
    VALUES (p_user_id, credits._new_id(), p_kind, p_data, p_now, p_now);
    -- A hint that wakes the sender; it looks for itself all the same.
    PERFORM pg_notify('mana_credits_notices', '');
END
$$;
COMMENT ON FUNCTION credits._write_notice(text, credits.notice_kind, jsonb, timestamptz) IS
'Writes a notice to the outbox and wakes the sender';
