-- credits.start_purchase: write a purchase down before Stripe is asked for its payment.
--
-- The same key again returns the first purchase, with which the caller goes on where it stopped:
-- a purchase without a payment at Stripe yet is asked for again.
--
-- Locks:  the user's balance row, under which idempotency keys are looked for.
-- Raises: MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found (package).
CREATE OR REPLACE FUNCTION credits.start_purchase(
    p_user_id text,
    p_package_id uuid,
    p_success_url text DEFAULT NULL,
    p_cancel_url text DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL,
    p_email text DEFAULT NULL,
    p_id uuid DEFAULT NULL
)
RETURNS credits.purchase
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_purchase credits.purchases;
    v_now      timestamptz;
BEGIN
    PERFORM credits._require_key(p_idempotency_key, 'user');
    PERFORM credits._require(
        (p_success_url IS NULL) = (p_cancel_url IS NULL),
        CASE WHEN p_success_url IS NULL THEN 'successUrl' ELSE 'cancelUrl' END,
        'must be given where the other URL is'
    );
    PERFORM credits._lock_balance(p_user_id);
    v_now := clock_timestamp();

    SELECT * INTO v_purchase FROM credits.purchases
    WHERE user_id = p_user_id AND (id = p_id OR idempotency_key = p_idempotency_key);
    IF found THEN
        IF v_purchase.package_id <> p_package_id
            OR (v_purchase.success_url IS NULL) <> (p_success_url IS NULL)
        THEN
            PERFORM credits._refuse_key(p_idempotency_key);
        END IF;
        RETURN credits._as_purchase(
            v_purchase, p_replayed => v_purchase.id IS DISTINCT FROM p_id
        );
    END IF;
    IF p_idempotency_key IS NOT NULL THEN
        PERFORM credits._refuse_used_key(
            p_user_id, 'user', p_idempotency_key, p_but_not => 'purchases'
        );
    END IF;

    INSERT INTO credits.purchases (
        user_id, id, package_id, credits, price_euro_cents, success_url, cancel_url,
        idempotency_key, check_at, created_at, updated_at
    )
    SELECT
        p_user_id, coalesce(p_id, credits._new_id()), k.id, k.credits, k.price_euro_cents,
        p_success_url, p_cancel_url, p_idempotency_key, credits._utc_add(v_now, '10 minutes'),
        v_now, v_now
    FROM credits.packages AS k
    WHERE k.id = p_package_id AND k.active
    RETURNING * INTO v_purchase;
    IF NOT found THEN
        PERFORM credits._refuse_missing('package');
    END IF;
    PERFORM credits._remember_address(p_user_id, p_email, v_now);
    RETURN credits._as_purchase(v_purchase, p_replayed => false);
END
$$;
COMMENT ON FUNCTION credits.start_purchase(text, uuid, text, text, text, text, uuid) IS
'Begins a purchase of a package, before Stripe is asked. With both URLs the buyer is sent to Stripe''s page. Raises MC001 invalid_request, MC003 idempotency_key_reused, MC004 not_found';
