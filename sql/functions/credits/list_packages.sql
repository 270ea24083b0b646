-- credits.list_packages: what can be bought, in the order of display.
CREATE OR REPLACE FUNCTION credits.list_packages()
RETURNS SETOF credits.package
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT
        p.id, p.name, p.description, p.credits, p.price_euro_cents, p.stripe_price_id, p.active,
        p.sort_order, p.metadata, p.created_at, p.updated_at
    FROM credits.packages AS p
    WHERE p.active
    ORDER BY p.sort_order, p.credits, p.id;
END
$$;
COMMENT ON FUNCTION credits.list_packages() IS 'The active packages, in the order of display';
