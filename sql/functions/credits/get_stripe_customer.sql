-- credits.get_stripe_customer: Stripe's id of a user, or null.
CREATE OR REPLACE FUNCTION credits.get_stripe_customer(p_user_id text)
RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT c.stripe_customer_id FROM credits.stripe_customers AS c WHERE c.user_id = p_user_id
    );
END
$$;
COMMENT ON FUNCTION credits.get_stripe_customer(text) IS 'Stripe''s id of a user (cus_…), or null';
