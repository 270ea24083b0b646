-- credits.list_sync_prices: what Cloud Sync costs, shortest interval first.
CREATE OR REPLACE FUNCTION credits.list_sync_prices()
RETURNS SETOF credits.sync_price
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT p.billing_interval, p.months, p.price, p.updated_at
    FROM credits.sync_prices AS p
    ORDER BY p.months;
END
$$;
COMMENT ON FUNCTION credits.list_sync_prices() IS 'What Cloud Sync costs per interval, in credits';
