-- credits.erase_user: forget a user, and keep what tax law wants: amounts, their order, their times.
--
-- Cloud Sync ends, open reservations and active gifts go back to him, and what is left is forfeited;
-- a balance below zero is written off. Then a random pseudonym takes his place in every table, and
-- what tells of him is cleared (sql/README.md, Erasing a user).
--
-- Called again, also by a caller who never got the answer (the same p_id), it changes nothing. For a
-- user never seen there is nothing to do. p_id is the random part of the pseudonym: whoever draws it
-- must forget it. p_admin_id is the administrator who does it, if one does.
--
-- Locks:  see _lock_account.
-- Keeps:  conservation, by a ledger row of the type forfeiture.
-- Raises: MC001 invalid_request, also for a pseudonym; 55P03 lock_not_available where something of
--         his is being worked on that came while this waited.
CREATE OR REPLACE FUNCTION credits.erase_user(
    p_user_id text, p_id uuid DEFAULT NULL, p_admin_id text DEFAULT NULL
)
RETURNS credits.erasure
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_pseudonym CONSTANT text := 'erased-' || coalesce(p_id, gen_random_uuid());
    v_account   record;
    v_balance   credits.balances;
    v_returned  uuid [];
    v_repeated  boolean;
    v_now       timestamptz;
    v_erasure   credits.erasure;
BEGIN
    PERFORM credits._require_user_id(p_user_id);
    PERFORM credits._require_admin(coalesce(p_admin_id, 'none'), 'erasure', NULL);
    SELECT a.* INTO v_account FROM credits._lock_account(p_user_id) AS a;
    v_now := clock_timestamp();
    SELECT
        e.forfeited_credits, e.written_off_credits, e.cancelled_gifts, e.released_holds, e.erased_at
    INTO v_erasure
    FROM credits.erasures AS e
    WHERE e.user_id = v_pseudonym;
    v_repeated := found;
    IF NOT v_account.has_balance THEN
        DELETE FROM credits.balances WHERE user_id = p_user_id;
    END IF;
    IF v_repeated THEN
        RETURN v_erasure;
    END IF;

    v_erasure := ROW(0, 0, 0, 0, NULL)::credits.erasure;
    IF NOT v_account.has_balance
        AND cardinality(v_account.gift_ids) + cardinality(v_account.event_ids) = 0
        AND NOT EXISTS (SELECT 1 FROM gifts.gift_redemptions WHERE user_id = p_user_id)
        AND NOT EXISTS (SELECT 1 FROM credits.admin_actions WHERE admin_id = p_user_id)
        AND NOT EXISTS (SELECT 1 FROM credits.erasures WHERE erased_by = p_user_id)
    THEN
        RETURN v_erasure;
    END IF;
    INSERT INTO credits.erasures (user_id, erased_by) VALUES (v_pseudonym, p_admin_id);

    IF v_account.has_balance THEN
        v_returned := ARRAY(
            SELECT g.id FROM gifts.gift_codes AS g
            WHERE g.creator_id = p_user_id AND g.status = 'active'
        );
        v_erasure.cancelled_gifts := cardinality(v_returned);
        IF v_erasure.cancelled_gifts > 0 THEN
            PERFORM gifts._return_gifts(v_returned, 'cancelled', v_now);
        END IF;
        UPDATE credits.reservations SET status = 'refunded', resolved_at = v_now
        WHERE user_id = p_user_id AND status = 'open';
        GET DIAGNOSTICS v_erasure.released_holds = ROW_COUNT;
        UPDATE credits.balances SET reserved = 0, version = version + 1, updated_at = v_now
        WHERE user_id = p_user_id
        RETURNING * INTO v_balance;
        v_erasure.forfeited_credits := greatest(v_balance.balance, 0);
        v_erasure.written_off_credits := greatest(-v_balance.balance, 0);
        IF v_balance.balance <> 0 THEN
            PERFORM credits._record_move(
                ROW(
                    p_user_id, NULL, 'forfeiture', 'system', -v_balance.balance, 'system',
                    CASE WHEN v_balance.balance > 0 THEN 'Credits forfeited' ELSE 'Debt written off' END,
                    NULL, NULL, NULL
                )::credits.new_move,
                v_now
            );
        END IF;
        PERFORM credits._rename_user(p_user_id, v_pseudonym);
    ELSE
        -- An administrator need not have credits.
        PERFORM credits._erase_actions(p_user_id, v_pseudonym);
    END IF;
    PERFORM gifts._forget_person(p_user_id, v_pseudonym, v_account.gift_ids);
    PERFORM credits._forget_in_logs(p_user_id, v_pseudonym, v_account.event_ids);
    UPDATE credits.erasures SET erased_by = v_pseudonym WHERE erased_by = p_user_id;

    v_erasure.erased_at := v_now;
    UPDATE credits.erasures SET
        forfeited_credits = v_erasure.forfeited_credits,
        written_off_credits = v_erasure.written_off_credits,
        cancelled_gifts = v_erasure.cancelled_gifts,
        released_holds = v_erasure.released_holds,
        erased_at = v_now
    WHERE user_id = v_pseudonym;
    RETURN v_erasure;
END
$$;
COMMENT ON FUNCTION credits.erase_user(text, uuid, text) IS
'Erases a user: ends what is open, forfeits what is left, and puts a pseudonym where he was; amounts, order and times of the ledger stay. Again changes nothing. Cannot be undone. Raises MC001 invalid_request';
