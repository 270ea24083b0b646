-- credits.list_operation_prices: what operations cost, in the order of display.
CREATE OR REPLACE FUNCTION credits.list_operation_prices()
RETURNS SETOF credits.operation_price
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT o.operation, o.name, o.description, o.category, o.app, o.cost, o.per, o.updated_at
    FROM credits.operation_prices AS o
    ORDER BY o.sort_order, o.operation;
END
$$;
COMMENT ON FUNCTION credits.list_operation_prices() IS
'What operations cost: cost credits for per uses';
