-- credits.get_account: a user as support sees him; zeros and nulls for a user never seen.
--
-- Of what is held at most the newest 50.
CREATE OR REPLACE FUNCTION credits.get_account(p_user_id text)
RETURNS credits.account
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_balance CONSTANT credits.balance_summary := credits.get_balance(p_user_id);
    v_account credits.account;
BEGIN
    SELECT
        p_user_id,
        (SELECT c.email FROM credits.contacts AS c WHERE c.user_id = p_user_id),
        v_balance.available, v_balance.reserved, v_balance.total_earned, v_balance.total_spent,
        v_balance.transactions_count, v_balance.created_at,
        credits.get_sync_status(p_user_id),
        ARRAY(
            SELECT ROW(r.id, r.amount, r.reason, r.status, r.created_at, r.expires_at)::credits.open_hold
            FROM credits.reservations AS r
            WHERE r.user_id = p_user_id AND r.status = 'open'
            ORDER BY r.id DESC
            LIMIT 50
        )
    INTO v_account;
    RETURN v_account;
END
$$;
COMMENT ON FUNCTION credits.get_account(text) IS
'What a user has, his last known address, his Cloud Sync, and the newest 50 of his open reservations; zeros and nulls for a user never seen';
