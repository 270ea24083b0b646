-- credits.find_users: whom a text that support was given may mean, the best match first.
--
-- The user's own id, ids that begin so, his last known address in any case, addresses that begin so;
-- then what stands for a user: a purchase, a transaction, a PaymentIntent, a Stripe customer, or a
-- gift's code (who gave it, and who redeemed it). Each is one look into an index.
--
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits.find_users(p_query text, p_limit integer DEFAULT 20)
RETURNS SETOF credits.found_user
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_text  CONSTANT text := btrim(p_query);
    v_email CONSTANT text := lower(v_text);
    -- Behind every text that begins so: the last character there is.
    v_end   CONSTANT text := chr(1114111);
    v_id    CONSTANT uuid := CASE WHEN credits._is_uuid(v_text) THEN v_text::uuid END;
    v_code  CONSTANT text := gifts._normalize_code(v_text);
    v_users text [];
BEGIN
    PERFORM credits._require(
        char_length(v_text) BETWEEN 1 AND 254, 'query', 'must have 1 to 254 characters'
    );
    v_users := ARRAY(
        SELECT f.user_id
        FROM (
            SELECT b.user_id, 1 AS place FROM credits.balances AS b WHERE b.user_id = v_text
            UNION ALL
            (
                SELECT b.user_id, 2 FROM credits.balances AS b
                WHERE b.user_id COLLATE "C" >= v_text AND b.user_id COLLATE "C" < v_text || v_end
                ORDER BY b.user_id COLLATE "C"
                LIMIT p_limit
            )
            UNION ALL
            (
                SELECT c.user_id, 3 FROM credits.contacts AS c
                WHERE lower(c.email) COLLATE "C" = v_email
                LIMIT p_limit
            )
            UNION ALL
            (
                SELECT c.user_id, 4 FROM credits.contacts AS c
                WHERE lower(c.email) COLLATE "C" >= v_email
                    AND lower(c.email) COLLATE "C" < v_email || v_end
                ORDER BY lower(c.email) COLLATE "C"
                LIMIT p_limit
            )
            UNION ALL
            SELECT p.user_id, 5 FROM credits.purchases AS p WHERE p.id = v_id
            UNION ALL
            SELECT t.user_id, 5 FROM credits.transactions AS t WHERE t.id = v_id
            UNION ALL
            SELECT p.user_id, 5 FROM credits.purchases AS p
            WHERE p.stripe_payment_intent_id = v_text
            UNION ALL
            SELECT s.user_id, 5 FROM credits.stripe_customers AS s
            WHERE s.stripe_customer_id = v_text
            UNION ALL
            SELECT g.creator_id, 5 FROM gifts.gift_codes AS g WHERE g.code = v_code
            UNION ALL
            SELECT g.redeemed_by, 6 FROM gifts.gift_codes AS g
            WHERE g.code = v_code AND g.redeemed_by IS NOT NULL
        ) AS f
        GROUP BY f.user_id
        ORDER BY min(f.place), f.user_id
        LIMIT p_limit
    );
    RETURN QUERY
    SELECT
        b.user_id,
        (SELECT c.email FROM credits.contacts AS c WHERE c.user_id = b.user_id),
        b.balance - b.reserved,
        b.reserved,
        coalesce(
            (SELECT s.active FROM credits.sync_subscriptions AS s WHERE s.user_id = b.user_id), false
        ),
        (
            SELECT t.created_at FROM credits.transactions AS t
            WHERE t.user_id = b.user_id AND t.seq = b.last_seq
        )
    FROM unnest(v_users) WITH ORDINALITY AS f (user_id, place)
    INNER JOIN credits.balances AS b ON b.user_id = f.user_id
    ORDER BY f.place;
END
$$;
COMMENT ON FUNCTION credits.find_users(text, integer) IS
'Finds users by id, beginning of the id, e-mail address or its beginning, purchase, transaction, PaymentIntent, Stripe customer or gift code; the best match first. Raises MC001 invalid_request';
