-- credits.claim_purchase_checks: take purchases that Stripe is to be asked about, unheard of for
-- long enough.
--
-- Ten minutes after a purchase began, and then with doubling gaps of at most a day, until its
-- payment has come to an end or seven days are over. The next time is written down before Stripe
-- is asked, which makes it the lease: nobody holds a lock meanwhile.
--
-- Locks: the purchases, passing over those that somebody works on.
CREATE OR REPLACE FUNCTION credits.claim_purchase_checks(p_limit integer DEFAULT 20)
RETURNS SETOF credits.purchase
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now   CONSTANT timestamptz := clock_timestamp();
    v_users text [];
    v_ids   uuid [];
BEGIN
    SELECT array_agg(d.user_id), array_agg(d.id) INTO v_users, v_ids
    FROM (
        SELECT p.user_id, p.id FROM credits.purchases AS p
        WHERE p.check_at <= v_now
        ORDER BY p.check_at
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ) AS d;
    RETURN QUERY
    WITH claimed AS (
        UPDATE credits.purchases AS p SET
            checks = p.checks + 1,
            polled_at = v_now,
            check_at = CASE
                WHEN v_now < credits._utc_add(p.created_at, '7 days') THEN least(
                    credits._utc_add(
                        v_now, least('10 minutes'::interval * 2 ^ least(p.checks, 10), '1 day')
                    ),
                    -- The last look is at the end of the seven days.
                    greatest(
                        credits._utc_add(p.created_at, '7 days'),
                        credits._utc_add(v_now, '10 minutes')
                    )
                )
            END
        WHERE p.user_id = ANY(v_users) AND p.id = ANY(v_ids)
        RETURNING p AS purchase
    )
    SELECT m.*
    FROM claimed AS c
    CROSS JOIN LATERAL credits._as_purchase(c.purchase, false) AS m;
END
$$;
COMMENT ON FUNCTION credits.claim_purchase_checks(integer) IS
'Open purchases that Stripe is to be asked about now: 10 minutes after they began, then with growing gaps for 7 days; each is handed to one caller';
