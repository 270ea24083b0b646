-- credits._rename_user: put a pseudonym where a user was in every table of credits, and clear what
-- tells of him.
--
-- A foreign key leads from every table to the balance: the pseudonym's row comes first, and the user's
-- goes last. What bookkeeping does not need is deleted.
--
-- Needs: the caller has locked all of it (_lock_account), and has an open row in erasures.
-- Keeps: amounts, states and times of the ledger, purchases, refunds, disputes, reservations, usage.
CREATE OR REPLACE FUNCTION credits._rename_user(p_user_id text, p_pseudonym text)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO credits.balances (
        user_id, balance, reserved, total_earned, total_spent, last_seq, version, created_at,
        updated_at
    )
    SELECT
        p_pseudonym, b.balance, b.reserved, b.total_earned, b.total_spent, b.last_seq, b.version,
        b.created_at, b.updated_at
    FROM credits.balances AS b
    WHERE b.user_id = p_user_id;
    PERFORM credits._erase_ledger(p_user_id, p_pseudonym);
    PERFORM credits._erase_actions(p_user_id, p_pseudonym);
    UPDATE credits.debit_refunds SET user_id = p_pseudonym WHERE user_id = p_user_id;
    -- Apps that were none become one, and stay what the ledger adds up to.
    WITH used AS (
        DELETE FROM credits.usage_stats WHERE user_id = p_user_id
        RETURNING day, credits._erased_app(app_id, p_user_id) AS app_id, credits_used, operations
    )
    INSERT INTO credits.usage_stats (user_id, day, app_id, credits_used, operations)
    SELECT p_pseudonym, u.day, u.app_id, sum(u.credits_used), sum(u.operations)
    FROM used AS u
    GROUP BY u.day, u.app_id;
    UPDATE credits.reservations SET
        user_id = p_pseudonym,
        reason = 'erased',
        idempotency_key = NULL
    WHERE user_id = p_user_id;
    -- One statement: refunds and disputes name their purchase by its user.
    WITH refunds AS (
        UPDATE credits.stripe_refunds SET user_id = p_pseudonym WHERE user_id = p_user_id
    ),
    disputes AS (
        UPDATE credits.stripe_disputes SET user_id = p_pseudonym WHERE user_id = p_user_id
    )
    -- The ids of payment and session stay: by these Stripe's late events find the purchase.
    UPDATE credits.purchases SET
        user_id = p_pseudonym,
        failure = NULL,
        stripe_customer_id = NULL,
        stripe_checkout_url = NULL,
        success_url = NULL,
        cancel_url = NULL,
        idempotency_key = NULL,
        metadata = NULL
    WHERE user_id = p_user_id;
    DELETE FROM credits.sync_subscriptions WHERE user_id = p_user_id;
    DELETE FROM credits.keyed_calls WHERE user_id = p_user_id;
    DELETE FROM credits.stripe_customers WHERE user_id = p_user_id;
    DELETE FROM credits.contacts WHERE user_id = p_user_id;
    DELETE FROM credits.notices WHERE user_id = p_user_id;
    DELETE FROM credits.balances WHERE user_id = p_user_id;
END
$$;
COMMENT ON FUNCTION credits._rename_user(text, text) IS
'Replaces a user by his pseudonym in the tables of credits, and clears or deletes what tells of him; the caller has locked all of it';
