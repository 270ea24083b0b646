-- credits._stripe_events_about: the stored Stripe events whose payloads are about a user.
--
-- Found by his id, his customer at Stripe, his payments and his purchases, where Stripe's objects have
-- these, and by his addresses anywhere. It reads all payloads there are, which pruning clears after 90
-- days: requests of this kind are rare, and an index by person would be one more place to forget.
CREATE OR REPLACE FUNCTION credits._stripe_events_about(p_user_id text, p_addresses text [])
RETURNS text []
LANGUAGE sql STABLE
AS $$
    WITH named AS MATERIALIZED (
        SELECT array_agg(i.id) AS ids
        FROM (
            SELECT c.stripe_customer_id AS id FROM credits.stripe_customers AS c
            WHERE c.user_id = p_user_id
            UNION
            SELECT unnest(ARRAY[
                p.id::text, p.stripe_customer_id, p.stripe_payment_intent_id,
                p.stripe_checkout_session_id
            ])
            FROM credits.purchases AS p
            WHERE p.user_id = p_user_id
        ) AS i
        WHERE i.id IS NOT NULL
    )
    SELECT coalesce(array_agg(e.id), '{}')
    FROM credits.stripe_events AS e
    CROSS JOIN named AS n
    CROSS JOIN LATERAL (SELECT e.payload #> '{data,object}' AS object) AS o
    WHERE e.payload IS NOT NULL
        AND (
            o.object #>> '{metadata,userId}' = p_user_id
            OR ARRAY[
                o.object ->> 'id', o.object ->> 'payment_intent', o.object ->> 'customer',
                o.object ->> 'client_reference_id', o.object #>> '{metadata,purchaseId}'
            ] && n.ids
            OR (
                cardinality(p_addresses) > 0
                AND EXISTS (
                    SELECT 1
                    FROM (SELECT lower(e.payload::text) OFFSET 0) AS w (words)
                    CROSS JOIN unnest(p_addresses) AS a (email)
                    WHERE strpos(w.words, a.email) > 0
                )
            )
        )
$$;
COMMENT ON FUNCTION credits._stripe_events_about(text, text []) IS
'Ids of the stored Stripe events whose payloads name a user, his addresses, customers, payments or purchases';
