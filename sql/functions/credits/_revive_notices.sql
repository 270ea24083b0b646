-- credits._revive_notices: send what could not be sent because the user had no address.
--
-- Only what is of the last 7 days and still holds: a pause that goes on, a charge that is to come.
--
-- Needs: the caller holds the user's balance row and has just written his address. settle_notice
--        takes that row, too, before it writes undeliverable, so that no notice falls in between.
CREATE OR REPLACE FUNCTION credits._revive_notices(p_user_id text, p_now timestamptz)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE credits.notices AS n SET state = 'pending', attempts = 0, next_attempt_at = p_now
    WHERE n.user_id = p_user_id
        AND n.state = 'undeliverable'
        AND n.created_at > credits._utc_add(p_now, '-7 days')
        AND CASE n.kind
            WHEN 'sync_paused' THEN EXISTS (
                SELECT 1 FROM credits.sync_subscriptions AS s
                WHERE s.user_id = p_user_id AND s.paused_at IS NOT NULL
            )
            WHEN 'charge_coming' THEN (n.data ->> 'dueAt')::timestamptz > p_now
            ELSE true
        END;
    IF found THEN
        PERFORM pg_notify('mana_credits_notices', '');
    END IF;
END
$$;
COMMENT ON FUNCTION credits._revive_notices(text, timestamptz) IS
'Puts a user''s undeliverable notices of the last 7 days that still hold back to be sent, once an address is known';
