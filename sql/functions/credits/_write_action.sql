-- credits._write_action: write down what an administrator does, in the transaction that does it.
--
-- Needs: the caller has made sure that there is something to write down: a repeat writes nothing.
CREATE OR REPLACE FUNCTION credits._write_action(
    p_user_id text, p_id uuid, p_admin_id text, p_admin_name text, p_action credits.admin_action,
    p_reason text, p_transaction_id uuid, p_details jsonb, p_now timestamptz
)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO credits.admin_actions (
        user_id, id, admin_id, admin_name, action, reason, transaction_id, details, created_at
    ) VALUES (
        p_user_id, p_id, p_admin_id, gifts._clean_name(p_admin_name), p_action,
        nullif(p_reason, ''), p_transaction_id, p_details, p_now
    );
END
$$;
COMMENT ON FUNCTION credits._write_action(
    text, uuid, text, text, credits.admin_action, text, uuid, jsonb, timestamptz
) IS 'Writes an action of an administrator into admin_actions';
