-- credits._check_users: the money rules that hold for each user by himself.
--
-- One statement, so that everything is seen at one moment while moves go on.
CREATE OR REPLACE FUNCTION credits._check_users(p_user_id text)
RETURNS SETOF credits.violation
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN QUERY
    WITH ledger AS (
        SELECT
            t.*,
            lag(t.seq, 1, 0::bigint) OVER chain AS seq_before,
            lag(t.balance_after, 1, 0::bigint) OVER chain AS after_before
        FROM credits.transactions AS t
        WHERE p_user_id IS NULL OR t.user_id = p_user_id
        WINDOW chain AS (PARTITION BY t.user_id ORDER BY t.seq)
    ),
    sums AS (
        SELECT
            l.user_id,
            max(l.seq) AS last_seq,
            (array_agg(l.balance_after ORDER BY l.seq DESC))[1] AS last_after,
            sum(l.amount) AS amount,
            sum(greatest(l.amount, 0)) AS earned,
            sum(greatest(-l.amount, 0)) AS spent,
            bool_or(l.type = 'reversal') AS reversed
        FROM ledger AS l
        GROUP BY l.user_id
    ),
    holds AS (
        SELECT r.user_id, sum(r.amount) AS amount
        FROM credits.reservations AS r
        WHERE r.status = 'open' AND (p_user_id IS NULL OR r.user_id = p_user_id)
        GROUP BY r.user_id
    ),
    balances AS (
        SELECT b.* FROM credits.balances AS b WHERE p_user_id IS NULL OR b.user_id = p_user_id
    )

    -- The chain: gapless, and each row goes on where the row before ended.
    SELECT
        'chain', l.user_id,
        jsonb_build_object(
            'seq', l.seq, 'seqBefore', l.seq_before,
            'balanceBefore', l.balance_before, 'balanceAfterBefore', l.after_before
        )
    FROM ledger AS l
    WHERE l.seq <> l.seq_before + 1 OR l.balance_before <> l.after_before

    UNION ALL
    SELECT
        'arithmetic', l.user_id,
        jsonb_build_object(
            'seq', l.seq, 'amount', l.amount,
            'balanceBefore', l.balance_before, 'balanceAfter', l.balance_after
        )
    FROM ledger AS l
    WHERE l.balance_after - l.balance_before <> l.amount

    UNION ALL
    SELECT 'sign', l.user_id, jsonb_build_object('seq', l.seq, 'type', l.type, 'amount', l.amount)
    FROM ledger AS l
    WHERE CASE l.type
        WHEN 'usage' THEN l.amount >= 0
        WHEN 'gift' THEN l.amount = 0
        WHEN 'reversal' THEN l.amount = 0
        WHEN 'forfeiture' THEN l.amount = 0
        ELSE l.amount <= 0
    END

    UNION ALL
    SELECT
        'balance', coalesce(b.user_id, s.user_id),
        jsonb_build_object(
            'balance', b.balance, 'lastBalanceAfter', s.last_after, 'sumOfAmounts', s.amount,
            'totalEarned', b.total_earned, 'sumEarned', s.earned,
            'totalSpent', b.total_spent, 'sumSpent', s.spent,
            'lastSeq', b.last_seq, 'ledgerSeq', s.last_seq
        )
    FROM balances AS b
    FULL JOIN sums AS s ON s.user_id = b.user_id
    WHERE (b.balance, b.balance, b.total_earned, b.total_spent, b.last_seq)
        IS DISTINCT FROM (
            coalesce(s.last_after, 0), coalesce(s.amount, 0), coalesce(s.earned, 0),
            coalesce(s.spent, 0), coalesce(s.last_seq, 0)
        )

    UNION ALL
    SELECT
        'reserved', coalesce(b.user_id, h.user_id),
        jsonb_build_object('reserved', b.reserved, 'openReservations', coalesce(h.amount, 0))
    FROM balances AS b
    FULL JOIN holds AS h ON h.user_id = b.user_id
    WHERE b.reserved IS DISTINCT FROM coalesce(h.amount, 0)

    UNION ALL
    -- Only a reversal may take what can be spent below zero.
    SELECT
        'overdrawn', b.user_id,
        jsonb_build_object('balance', b.balance, 'reserved', b.reserved)
    FROM balances AS b
    LEFT JOIN sums AS s ON s.user_id = b.user_id
    WHERE b.balance < b.reserved AND s.reversed IS NOT TRUE

    UNION ALL
    SELECT
        'usage', coalesce(u.user_id, l.user_id),
        jsonb_build_object(
            'day', coalesce(u.day, l.day), 'appId', coalesce(u.app_id, l.app_id),
            'creditsUsed', u.credits_used, 'ledgerCredits', l.credits_used,
            'operations', u.operations, 'ledgerOperations', l.operations
        )
    FROM (
        SELECT s.* FROM credits.usage_stats AS s WHERE p_user_id IS NULL OR s.user_id = p_user_id
    ) AS u
    FULL JOIN (
        SELECT
            l.user_id, (l.created_at AT TIME ZONE 'UTC')::date AS day, l.app_id,
            sum(-l.amount) AS credits_used, count(*) AS operations
        FROM ledger AS l
        WHERE l.type = 'usage'
        GROUP BY 1, 2, 3
    ) AS l ON l.user_id = u.user_id AND l.day = u.day AND l.app_id = u.app_id
    WHERE (u.credits_used, u.operations) IS DISTINCT FROM (l.credits_used, l.operations)

    UNION ALL
    SELECT
        'refund', coalesce(d.user_id, l.user_id),
        jsonb_build_object(
            'debitId', coalesce(d.debit_id, l.reference_id), 'debited', d.debited,
            'refunded', d.refunded, 'ledgerRefunded', l.refunded, 'ledgerDebited', -t.amount
        )
    FROM (
        SELECT r.* FROM credits.debit_refunds AS r WHERE p_user_id IS NULL OR r.user_id = p_user_id
    ) AS d
    FULL JOIN (
        SELECT l.user_id, l.reference_id, sum(l.amount) AS refunded
        FROM ledger AS l
        WHERE l.type = 'refund' AND l.reference_id IS NOT NULL
        GROUP BY 1, 2
    ) AS l ON l.user_id = d.user_id AND l.reference_id = d.debit_id
    LEFT JOIN credits.transactions AS t ON t.id = coalesce(d.debit_id, l.reference_id)
    WHERE d.refunded IS DISTINCT FROM l.refunded
        OR d.debited IS DISTINCT FROM -t.amount
        OR d.refunded > -t.amount
        OR t.user_id IS DISTINCT FROM d.user_id

    UNION ALL
    SELECT
        'reservation', r.user_id,
        jsonb_build_object(
            'reservationId', r.id, 'committed', r.committed_amount, 'ledgerAmount', l.amount
        )
    FROM credits.reservations AS r
    LEFT JOIN ledger AS l ON l.user_id = r.user_id AND l.id = r.transaction_id
    WHERE r.status = 'committed'
        AND (p_user_id IS NULL OR r.user_id = p_user_id)
        AND (l.type, -l.amount, l.reference_id) IS DISTINCT FROM ('usage', r.committed_amount, r.id)

    UNION ALL
    -- A purchase that gave credits has one row that gave them, and no row was given by another.
    SELECT
        'purchase', coalesce(p.user_id, l.user_id),
        jsonb_build_object(
            'purchaseId', coalesce(p.id, l.reference_id), 'status', p.status,
            'credits', p.credits, 'ledgerAmount', l.amount
        )
    FROM (
        SELECT p.* FROM credits.purchases AS p
        WHERE p.transaction_id IS NOT NULL AND (p_user_id IS NULL OR p.user_id = p_user_id)
    ) AS p
    FULL JOIN (
        SELECT l.* FROM ledger AS l WHERE l.type = 'purchase'
    ) AS l ON l.user_id = p.user_id AND l.id = p.transaction_id
    WHERE (p.credits, p.id) IS DISTINCT FROM (l.amount, l.reference_id)

    UNION ALL
    -- What was taken back for a purchase is what its refunds and disputes say, and no more than it
    -- gave; one that gave nothing had nothing taken back.
    SELECT
        'reversal', coalesce(p.user_id, l.user_id),
        jsonb_build_object(
            'purchaseId', coalesce(p.id, l.reference_id), 'status', p.status, 'credits', p.credits,
            'taken', p.taken, 'ledgerAmount', l.amount
        )
    FROM (
        SELECT
            p.user_id, p.id, p.status, p.credits,
            p.transaction_id IS NOT NULL AS given,
            credits._reversed_status(p) AS expected_status,
            (
                SELECT coalesce(sum(i.credits), 0)
                FROM (
                    SELECT r.credits FROM credits.stripe_refunds AS r
                    WHERE r.user_id = p.user_id AND r.purchase_id = p.id
                    UNION ALL
                    SELECT d.credits FROM credits.stripe_disputes AS d
                    WHERE d.user_id = p.user_id AND d.purchase_id = p.id
                ) AS i
            ) AS taken
        FROM credits.purchases AS p
        WHERE p_user_id IS NULL OR p.user_id = p_user_id
    ) AS p
    FULL JOIN (
        SELECT l.user_id, l.reference_id, sum(l.amount) AS amount
        FROM ledger AS l
        WHERE l.type = 'reversal'
        GROUP BY 1, 2
    ) AS l ON l.user_id = p.user_id AND l.reference_id = p.id
    WHERE coalesce(l.amount, 0) IS DISTINCT FROM -p.taken
        OR p.taken > CASE WHEN p.given THEN p.credits ELSE 0 END
        OR (p.given AND p.status <> p.expected_status)

    UNION ALL
    -- Nobody has more of Cloud Sync than his last charge has paid for.
    SELECT
        'sync', s.user_id,
        jsonb_build_object('paidUntil', credits._utc_text(s.paid_until), 'charged', l.paid_until)
    FROM credits.sync_subscriptions AS s
    LEFT JOIN (
        SELECT DISTINCT ON (l.user_id) l.user_id, l.metadata ->> 'paidUntil' AS paid_until
        FROM ledger AS l
        WHERE l.origin = 'system' AND l.idempotency_key LIKE 'sync:%'
        ORDER BY l.user_id, l.seq DESC
    ) AS l ON l.user_id = s.user_id
    WHERE (p_user_id IS NULL OR s.user_id = p_user_id)
        AND credits._utc_text(s.paid_until) > coalesce(l.paid_until, '')

    UNION ALL
    SELECT
        'idempotency_key', k.user_id,
        jsonb_build_object('origin', k.origin, 'idempotencyKey', k.idempotency_key)
    FROM (
        SELECT l.user_id, l.origin, l.idempotency_key FROM ledger AS l
        WHERE l.idempotency_key IS NOT NULL
        UNION ALL
        SELECT c.user_id, c.origin, c.idempotency_key FROM credits.keyed_calls AS c
        WHERE p_user_id IS NULL OR c.user_id = p_user_id
        UNION ALL
        SELECT r.user_id, 'service', r.idempotency_key FROM credits.reservations AS r
        WHERE r.idempotency_key IS NOT NULL AND (p_user_id IS NULL OR r.user_id = p_user_id)
        UNION ALL
        SELECT p.user_id, 'user', p.idempotency_key FROM credits.purchases AS p
        WHERE p.idempotency_key IS NOT NULL AND (p_user_id IS NULL OR p.user_id = p_user_id)
    ) AS k
    GROUP BY k.user_id, k.origin, k.idempotency_key
    HAVING count(*) > 1;
END
$$;
COMMENT ON FUNCTION credits._check_users(text) IS
'Violations of the rules that hold per user, for one user or (null) for all';
