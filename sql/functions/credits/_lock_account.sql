-- credits._lock_account: lock everything that is a user's, in the one order, before he is erased.
--
-- What comes before the balance can have been made while this waited for it, by whoever held the
-- balance: a gift, a reservation, a purchase. That is locked afterwards without waiting, and so in no
-- order.
--
-- Locks:  the Stripe events about him, then his purchases, his gifts, his reservations, his
--         subscription, each by its id; he need not have any of these. Then his balance row, which
--         is made where he has none; the caller deletes it.
-- Raises: 55P03 lock_not_available where one that came late is being worked on: whoever called
--         begins again.
CREATE OR REPLACE FUNCTION credits._lock_account(
    p_user_id text, OUT has_balance boolean, OUT gift_ids uuid [], OUT event_ids text []
)
LANGUAGE plpgsql
AS $$
DECLARE
    v_now       CONSTANT timestamptz := clock_timestamp();
    v_addresses text [] := credits._known_addresses(p_user_id);
BEGIN
    PERFORM 1 FROM credits.stripe_events
    WHERE id = ANY(credits._stripe_events_about(p_user_id, v_addresses))
    ORDER BY id FOR UPDATE;
    PERFORM 1 FROM credits.purchases WHERE user_id = p_user_id ORDER BY id FOR UPDATE;
    PERFORM 1 FROM gifts.gift_codes
    WHERE id = ANY(gifts._gifts_about(p_user_id, v_addresses))
    ORDER BY id FOR UPDATE;
    PERFORM 1 FROM credits.reservations WHERE user_id = p_user_id ORDER BY id FOR UPDATE;
    PERFORM 1 FROM credits.sync_subscriptions WHERE user_id = p_user_id FOR UPDATE;
    -- Made where there is none, so that nobody begins a new chain meanwhile: whoever waited for a row
    -- that is deleted, as by another erasure, sees no row that was made since.
    has_balance := true;
    LOOP
        PERFORM 1 FROM credits.balances WHERE user_id = p_user_id FOR UPDATE;
        EXIT WHEN found;
        INSERT INTO credits.balances (user_id, created_at, updated_at)
        VALUES (p_user_id, v_now, v_now)
        ON CONFLICT (user_id) DO NOTHING;
        has_balance := NOT found;
    END LOOP;

    v_addresses := credits._known_addresses(p_user_id);
    gift_ids := gifts._gifts_about(p_user_id, v_addresses);
    event_ids := credits._stripe_events_about(p_user_id, v_addresses);
    PERFORM 1 FROM credits.purchases WHERE user_id = p_user_id FOR UPDATE NOWAIT;
    PERFORM 1 FROM gifts.gift_codes WHERE id = ANY(gift_ids) FOR UPDATE NOWAIT;
    PERFORM 1 FROM credits.reservations WHERE user_id = p_user_id FOR UPDATE NOWAIT;
    PERFORM 1 FROM credits.sync_subscriptions WHERE user_id = p_user_id FOR UPDATE NOWAIT;
    PERFORM 1 FROM credits.stripe_events WHERE id = ANY(event_ids) FOR UPDATE NOWAIT;
END
$$;
COMMENT ON FUNCTION credits._lock_account(text) IS
'Locks all that is a user''s; answers whether he had a balance, and which gifts and Stripe events are about him';
