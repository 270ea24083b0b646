-- credits._purchase_outcome: what an event did to a purchase, in a word for whoever reads the events.
CREATE OR REPLACE FUNCTION credits._purchase_outcome(
    p_before credits.purchases, p_after credits.purchases
)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN p_after.status <> p_before.status THEN 'purchase ' || p_after.status::text
        WHEN p_after.updated_at <> p_before.updated_at THEN 'purchase still ' || p_after.status::text
        ELSE 'nothing to do'
    END
$$;
COMMENT ON FUNCTION credits._purchase_outcome(credits.purchases, credits.purchases) IS
'The outcome of an event: the purchase''s new status, or that nothing was to do';
