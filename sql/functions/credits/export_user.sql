-- credits.export_user: everything that is stored about a user, as one JSON document.
--
-- The service hands it on as it is, so that it exists once; its shape is the answer of
-- GET /api/v1/internal/users/{userId}/export. STABLE is what makes it one look: all of it is read in
-- the snapshot of the calling statement. For a user never seen it is the same document, empty.
--
-- Of others it names no more than he has seen himself: a giver's name and message. An administrator
-- who did something to him is not named, nor is whom he did something to as one, or why. Codes of
-- gifts that he could still redeem are not in it: a code is money, and the document travels.
--
-- Raises: MC001 invalid_request for what cannot be a user id.
CREATE OR REPLACE FUNCTION credits.export_user(p_user_id text)
RETURNS json
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM credits._require_user_id(p_user_id);
    RETURN json_build_object(
        'userId', p_user_id,
        'exportedAt', credits._wire_time(clock_timestamp()),
        'balance', (
            SELECT json_build_object(
                'balance', b.available, 'totalEarned', b.total_earned, 'totalSpent', b.total_spent,
                'reserved', b.reserved, 'transactionsCount', b.transactions_count,
                'createdAt', credits._wire_time(b.created_at),
                'updatedAt', credits._wire_time(b.updated_at)
            )
            FROM credits.get_balance(p_user_id) AS b
        ),
        'contact', (
            SELECT json_build_object('email', c.email, 'updatedAt', credits._wire_time(c.updated_at))
            FROM credits.contacts AS c
            WHERE c.user_id = p_user_id
        ),
        'transactions', (
            SELECT coalesce(json_agg(json_build_object(
                'seq', t.seq, 'id', t.id, 'type', t.type, 'origin', t.origin, 'amount', t.amount,
                'balanceBefore', t.balance_before, 'balanceAfter', t.balance_after,
                'appId', t.app_id, 'description', t.description, 'metadata', t.metadata,
                'referenceId', t.reference_id, 'idempotencyKey', t.idempotency_key,
                'createdAt', credits._wire_time(t.created_at)
            ) ORDER BY t.seq), '[]')
            FROM credits.transactions AS t
            WHERE t.user_id = p_user_id
        ),
        'debitRefunds', (
            SELECT coalesce(json_agg(json_build_object(
                'transactionId', d.debit_id, 'debited', d.debited, 'refunded', d.refunded
            ) ORDER BY d.debit_id), '[]')
            FROM credits.debit_refunds AS d
            WHERE d.user_id = p_user_id
        ),
        'usage', (
            SELECT coalesce(json_agg(json_build_object(
                'date', s.day, 'appId', s.app_id, 'creditsUsed', s.credits_used,
                'operations', s.operations
            ) ORDER BY s.day, s.app_id), '[]')
            FROM credits.usage_stats AS s
            WHERE s.user_id = p_user_id
        ),
        'reservations', (
            SELECT coalesce(json_agg(json_build_object(
                'id', r.id, 'amount', r.amount, 'reason', r.reason, 'status', r.status,
                'committedAmount', r.committed_amount, 'transactionId', r.transaction_id,
                'idempotencyKey', r.idempotency_key,
                'expiresAt', credits._wire_time(r.expires_at),
                'createdAt', credits._wire_time(r.created_at),
                'resolvedAt', credits._wire_time(r.resolved_at)
            ) ORDER BY r.id), '[]')
            FROM credits.reservations AS r
            WHERE r.user_id = p_user_id
        ),
        'purchases', (
            SELECT coalesce(json_agg(json_build_object(
                'id', p.id, 'packageId', p.package_id, 'credits', p.credits,
                'priceEuroCents', p.price_euro_cents, 'status', p.status, 'failure', p.failure,
                'stripeCustomerId', p.stripe_customer_id,
                'stripePaymentIntentId', p.stripe_payment_intent_id,
                'stripeCheckoutSessionId', p.stripe_checkout_session_id,
                'stripeCheckoutUrl', p.stripe_checkout_url,
                'stripeStatus', p.stripe_status,
                'successUrl', p.success_url, 'cancelUrl', p.cancel_url,
                'transactionId', p.transaction_id, 'idempotencyKey', p.idempotency_key,
                'metadata', p.metadata,
                'refunds', (
                    SELECT coalesce(json_agg(json_build_object(
                        'id', f.id, 'amountEuroCents', f.amount_euro_cents, 'credits', f.credits,
                        'status', f.status, 'createdAt', credits._wire_time(f.created_at),
                        'updatedAt', credits._wire_time(f.updated_at)
                    ) ORDER BY f.created_at, f.id), '[]')
                    FROM credits.stripe_refunds AS f
                    WHERE f.user_id = p.user_id AND f.purchase_id = p.id
                ),
                'disputes', (
                    SELECT coalesce(json_agg(json_build_object(
                        'id', d.id, 'amountEuroCents', d.amount_euro_cents, 'credits', d.credits,
                        'status', d.status, 'createdAt', credits._wire_time(d.created_at),
                        'updatedAt', credits._wire_time(d.updated_at)
                    ) ORDER BY d.created_at, d.id), '[]')
                    FROM credits.stripe_disputes AS d
                    WHERE d.user_id = p.user_id AND d.purchase_id = p.id
                ),
                'createdAt', credits._wire_time(p.created_at),
                'updatedAt', credits._wire_time(p.updated_at),
                'completedAt', credits._wire_time(p.completed_at)
            ) ORDER BY p.id), '[]')
            FROM credits.purchases AS p
            WHERE p.user_id = p_user_id
        ),
        'stripeCustomerId', credits.get_stripe_customer(p_user_id),
        'stripeEvents', (
            SELECT coalesce(json_agg(json_build_object(
                'id', e.id, 'type', e.type, 'state', e.state,
                'createdAt', credits._wire_time(e.created_at),
                'receivedAt', credits._wire_time(e.received_at)
            ) ORDER BY e.created_at, e.id), '[]')
            FROM credits.stripe_events AS e
            WHERE e.id = ANY(
                credits._stripe_events_about(p_user_id, credits._known_addresses(p_user_id))
            )
        ),
        'subscription', (
            SELECT json_build_object(
                'active', s.active, 'gifted', s.gifted, 'interval', s.billing_interval,
                'price', s.price, 'periods', s.periods,
                'anchorAt', credits._wire_time(s.anchor_at),
                'nextChargeAt', credits._wire_time(s.next_charge_at),
                'paidUntil', credits._wire_time(s.paid_until),
                'pausedAt', credits._wire_time(s.paused_at),
                'createdAt', credits._wire_time(s.created_at),
                'updatedAt', credits._wire_time(s.updated_at)
            )
            FROM credits.sync_subscriptions AS s
            WHERE s.user_id = p_user_id
        ),
        'giftsCreated', (
            SELECT coalesce(json_agg(json_build_object(
                'id', g.id, 'code', g.code, 'creatorName', g.creator_name,
                'totalCredits', g.total_credits, 'type', g.type, 'status', g.status,
                'targetEmail', g.target_email, 'message', g.message,
                'expiresAt', credits._wire_time(g.expires_at),
                'redeemedAt', credits._wire_time(g.redeemed_at),
                'createdAt', credits._wire_time(g.created_at),
                'updatedAt', credits._wire_time(g.updated_at)
            ) ORDER BY g.created_at, g.id), '[]')
            FROM gifts.gift_codes AS g
            WHERE g.creator_id = p_user_id
        ),
        'giftAttempts', (
            SELECT coalesce(json_agg(json_build_object(
                'id', r.id, 'giftId', r.gift_id, 'outcome', r.outcome, 'credits', r.credits,
                'sourceAppId', r.source_app_id,
                'creatorName', CASE r.outcome WHEN 'success' THEN g.creator_name END,
                'message', CASE r.outcome WHEN 'success' THEN g.message END,
                'targetEmail', CASE r.outcome WHEN 'success' THEN g.target_email END,
                'createdAt', credits._wire_time(r.created_at)
            ) ORDER BY r.id), '[]')
            FROM gifts.gift_redemptions AS r
            LEFT JOIN gifts.gift_codes AS g ON g.id = r.gift_id
            WHERE r.user_id = p_user_id
        ),
        'giftsAddressed', (
            SELECT coalesce(json_agg(json_build_object(
                'id', g.id, 'targetEmail', g.target_email, 'status', g.status,
                'totalCredits', g.total_credits,
                'expiresAt', credits._wire_time(g.expires_at),
                'createdAt', credits._wire_time(g.created_at)
            ) ORDER BY g.created_at, g.id), '[]')
            FROM gifts.gift_codes AS g
            WHERE g.id = ANY(
                gifts._gifts_about(p_user_id, credits._known_addresses(p_user_id))
            )
                AND g.target_email = ANY(credits._known_addresses(p_user_id))
                AND g.redeemed_by IS DISTINCT FROM p_user_id
        ),
        'notices', (
            SELECT coalesce(json_agg(json_build_object(
                'id', n.id, 'kind', n.kind, 'state', n.state, 'data', n.data,
                'recipient', n.recipient, 'createdAt', credits._wire_time(n.created_at),
                'deliveredAt', credits._wire_time(n.delivered_at)
            ) ORDER BY n.id), '[]')
            FROM credits.notices AS n
            WHERE n.user_id = p_user_id
        ),
        'keyedCalls', (
            SELECT coalesce(json_agg(json_build_object(
                'origin', k.origin, 'idempotencyKey', k.idempotency_key, 'operation', k.operation,
                'subject', k.subject, 'result', k.result,
                'createdAt', credits._wire_time(k.created_at)
            ) ORDER BY k.created_at, k.idempotency_key), '[]')
            FROM credits.keyed_calls AS k
            WHERE k.user_id = p_user_id
        ),
        'adminActions', (
            SELECT coalesce(json_agg(json_build_object(
                'id', a.id, 'action', a.action, 'reason', a.reason,
                'amount', (a.details ->> 'amount')::bigint,
                'debitId', a.details ->> 'debitId', 'transactionId', a.transaction_id,
                'createdAt', credits._wire_time(a.created_at)
            ) ORDER BY a.created_at, a.id), '[]')
            FROM credits.admin_actions AS a
            WHERE a.user_id = p_user_id
        ),
        'actionsAsAdmin', (
            SELECT coalesce(json_agg(json_build_object(
                'id', a.id, 'adminName', a.admin_name, 'action', a.action,
                'amount', (a.details ->> 'amount')::bigint,
                'idempotencyKey', a.details ->> 'idempotencyKey',
                'createdAt', credits._wire_time(a.created_at)
            ) ORDER BY a.created_at, a.id), '[]')
            FROM credits.admin_actions AS a
            WHERE a.admin_id = p_user_id
        ),
        'erasuresAsAdmin', (
            SELECT coalesce(json_agg(json_build_object(
                'erasedAt', credits._wire_time(e.erased_at)
            ) ORDER BY e.erased_at), '[]')
            FROM credits.erasures AS e
            WHERE e.erased_by = p_user_id
        )
    );
END
$$;
COMMENT ON FUNCTION credits.export_user(text) IS
'Everything that is stored about a user as one JSON document; an empty one for a user never seen. Changes nothing. Raises MC001 invalid_request';
