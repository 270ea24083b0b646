-- credits._stripe_events_about: the stored Stripe events whose payloads are about a user.
--
-- Found by his id, his addresses, his customers at Stripe, his payments and his purchases. It reads
-- all payloads there are, which pruning clears after 90 days; there is no index by person on purpose.
CREATE OR REPLACE FUNCTION credits._stripe_events_about(p_user_id text, p_addresses text [])
RETURNS text []
LANGUAGE sql STABLE
AS $$
    WITH named AS (
        SELECT c.stripe_customer_id AS id FROM credits.stripe_customers AS c
        WHERE c.user_id = p_user_id
        UNION
        SELECT i.id
        FROM credits.purchases AS p
        CROSS JOIN LATERAL unnest(ARRAY[
            p.id::text, p.stripe_customer_id, p.stripe_payment_intent_id, p.stripe_checkout_session_id
        ]) AS i (id)
        WHERE p.user_id = p_user_id AND i.id IS NOT NULL
    ),
    wanted AS MATERIALIZED (
        SELECT jsonb_build_object(
            'user', p_user_id, 'ids', coalesce(jsonb_agg(n.id), '[]')
        ) AS of_user
        FROM named AS n
    )
    SELECT coalesce(array_agg(e.id ORDER BY e.id), '{}')
    FROM credits.stripe_events AS e
    CROSS JOIN wanted AS w
    WHERE e.payload IS NOT NULL
        AND (
            jsonb_path_exists(e.payload, '$.**.userId ? (@ == $user)', w.of_user)
            OR jsonb_path_exists(e.payload, '$.** ? (@ == $ids[*])', w.of_user)
            OR EXISTS (
                SELECT 1 FROM unnest(p_addresses) AS a (email)
                WHERE strpos(lower(e.payload::text), a.email) > 0
            )
        )
$$;
COMMENT ON FUNCTION credits._stripe_events_about(text, text []) IS
'Ids of the stored Stripe events whose payloads name a user, his addresses, customers, payments or purchases';
