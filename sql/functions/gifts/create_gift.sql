-- gifts.create_gift: take credits from their owner and put them into a code.
--
-- Locks:  the creator's balance row; the new gift's row is nobody else's yet.
-- Keeps:  what leaves the creator is what the code holds.
-- Raises: MC001 invalid_request, MC002 insufficient_credits, MC003 idempotency_key_reused.
CREATE OR REPLACE FUNCTION gifts.create_gift(
    p_user_id text,
    p_credits bigint,
    p_type gifts.gift_type DEFAULT 'simple',
    p_target_email text DEFAULT NULL,
    p_message text DEFAULT NULL,
    p_expires_at timestamptz DEFAULT NULL,
    p_expiration_days integer DEFAULT NULL,
    p_creator_name text DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL,
    p_email text DEFAULT NULL,
    p_id uuid DEFAULT NULL
)
RETURNS gifts.gift
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_target      CONSTANT text := lower(btrim(p_target_email));
    v_id          CONSTANT uuid := coalesce(p_id, credits._new_id());
    v_balance     credits.balances;
    v_gift        gifts.gift_codes;
    v_transaction credits.transactions;
    v_expires_at  timestamptz;
    v_now         timestamptz;
BEGIN
    PERFORM credits._require(
        p_credits BETWEEN 1 AND 10000, 'totalCredits', 'must be a whole number from 1 to 10000'
    );
    PERFORM credits._require(p_type IS NOT NULL, 'type', 'must be simple or personalized');
    PERFORM credits._require(
        CASE p_type
            WHEN 'personalized' THEN v_target LIKE '%_@_%' AND char_length(v_target) <= 254
            ELSE p_target_email IS NULL
        END,
        'targetEmail', 'must be an e-mail address for a personalized gift, and absent for a simple one'
    );
    PERFORM credits._require(
        p_message IS NULL OR char_length(p_message) <= 500,
        'message', 'must have at most 500 characters'
    );
    PERFORM credits._require(
        p_expiration_days IS NULL OR p_expiration_days BETWEEN 1 AND 3650,
        'expirationDays', 'must be a whole number from 1 to 3650'
    );
    PERFORM credits._require_key(p_idempotency_key, 'user');
    v_balance := credits._lock_balance(p_user_id);
    v_now := clock_timestamp();

    SELECT * INTO v_gift FROM gifts.gift_codes WHERE id = v_id;
    IF found THEN
        RETURN gifts._as_gift(v_gift, p_replayed => false);
    END IF;
    IF p_idempotency_key IS NOT NULL THEN
        -- A gift's key stands in the ledger row that took its credits.
        SELECT * INTO v_transaction FROM credits.transactions
        WHERE user_id = p_user_id AND origin = 'user' AND idempotency_key = p_idempotency_key;
        IF found THEN
            SELECT * INTO v_gift FROM gifts.gift_codes
            WHERE id = v_transaction.reference_id AND v_transaction.type = 'gift';
            IF NOT found
                OR (v_gift.total_credits, v_gift.type) <> (p_credits, p_type)
                -- Of one whose target was erased it cannot be said.
                OR v_gift.target_email <> v_target
            THEN
                PERFORM credits._refuse_key(p_idempotency_key);
            END IF;
            RETURN gifts._as_gift(v_gift, p_replayed => true);
        END IF;
        PERFORM credits._refuse_used_key(
            p_user_id, 'user', p_idempotency_key, p_but_not => 'transactions'
        );
    END IF;

    v_expires_at := coalesce(
        p_expires_at,
        credits._utc_add(v_now, make_interval(days => coalesce(p_expiration_days, 90)))
    );
    PERFORM credits._require(
        v_expires_at > v_now AND v_expires_at <= credits._utc_add(v_now, '3650 days'),
        'expiresAt', 'must be in the future, and at most 3650 days ahead'
    );
    PERFORM credits._require_available(v_balance, p_credits);

    -- A code that is taken is drawn again. With 60 bits that is next to never; ten times in a
    -- row is a broken source of randomness.
    FOR v_attempt IN 1 .. 10 LOOP
        INSERT INTO gifts.gift_codes (
            id, code, creator_id, creator_name, total_credits, type, target_email, message,
            expires_at, created_at, updated_at
        ) VALUES (
            v_id, gifts._new_code(), p_user_id, gifts._clean_name(p_creator_name), p_credits,
            p_type, v_target, p_message, v_expires_at, v_now, v_now
        )
        ON CONFLICT (code) DO NOTHING
        RETURNING * INTO v_gift;
        EXIT WHEN found;
    END LOOP;
    ASSERT v_gift.id IS NOT NULL, 'ten random codes were all taken';

    PERFORM credits._record_move(
        ROW(
            p_user_id, NULL, 'gift', 'user', -p_credits, 'system', 'Gift created', NULL, v_id,
            p_idempotency_key
        )::credits.new_move,
        v_now
    );
    PERFORM credits._remember_address(p_user_id, p_email, v_now);
    RETURN gifts._as_gift(v_gift, p_replayed => false);
END
$$;
COMMENT ON FUNCTION gifts.create_gift(
    text, bigint, gifts.gift_type, text, text, timestamptz, integer, text, text, text, uuid
) IS
'Puts 1 to 10,000 of a user''s credits into a gift code that expires in 90 days unless said otherwise. Raises MC001 invalid_request, MC002 insufficient_credits, MC003 idempotency_key_reused';
