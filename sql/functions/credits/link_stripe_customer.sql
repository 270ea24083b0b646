-- credits.link_stripe_customer: keep the Stripe customer that was made for a user.
--
-- One a user, also when two first purchases race: the first to be linked stays, and both use it.
-- p_instead_of names a customer that Stripe no longer knows, which is replaced.
--
-- Locks:  the user's balance row.
-- Raises: MC001 invalid_request for what cannot be a user id.
CREATE OR REPLACE FUNCTION credits.link_stripe_customer(
    p_user_id text, p_stripe_customer_id text, p_instead_of text DEFAULT NULL
)
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- ON CONFLICT settles the race for one of the two unique indexes alone. Racing calls bring the
    -- same customer, and would now and then collide in the other.
    PERFORM credits._lock_balance(p_user_id);
    INSERT INTO credits.stripe_customers AS c (user_id, stripe_customer_id, created_at)
    VALUES (p_user_id, p_stripe_customer_id, clock_timestamp())
    ON CONFLICT (user_id) DO UPDATE SET stripe_customer_id = excluded.stripe_customer_id
    WHERE c.stripe_customer_id = p_instead_of;
    RETURN credits.get_stripe_customer(p_user_id);
END
$$;
COMMENT ON FUNCTION credits.link_stripe_customer(text, text, text) IS
'Links a user to a Stripe customer unless he has one, and returns the one he has';
