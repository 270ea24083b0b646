-- credits._remember_address: keep the address to which a user's notices go.
--
-- Notices that had nowhere to go are sent to it (_revive_notices). One that Stripe has heard replaces
-- none that a token has told (p_replace).
--
-- Needs: the caller holds the user's balance row.
-- Replaces: credits._remember_address(text, text, timestamptz)
CREATE OR REPLACE FUNCTION credits._remember_address(
    p_user_id text, p_email text, p_now timestamptz, p_replace boolean DEFAULT true
)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    -- What is no address is not worth refusing a payment for; who was erased has none any more,
    -- whatever a late payment of his says.
    IF p_email LIKE '%_@_%' AND char_length(p_email) <= 254 AND NOT credits._is_erased(p_user_id) THEN
        INSERT INTO credits.contacts AS c (user_id, email, updated_at)
        VALUES (p_user_id, p_email, p_now)
        ON CONFLICT (user_id) DO UPDATE SET email = excluded.email, updated_at = excluded.updated_at
        WHERE p_replace AND c.email <> excluded.email;
        IF found THEN
            PERFORM credits._revive_notices(p_user_id, p_now);
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION credits._remember_address(text, text, timestamptz, boolean) IS
'Keeps the last known address of a user; what is none is passed over';
