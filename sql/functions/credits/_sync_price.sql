-- credits._sync_price: what an interval of Cloud Sync costs now, in credits.
--
-- Raises: MC001 invalid_request without an interval.
CREATE OR REPLACE FUNCTION credits._sync_price(p_interval credits.sync_interval)
RETURNS credits.sync_prices
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_price credits.sync_prices;
BEGIN
    SELECT * INTO v_price FROM credits.sync_prices WHERE billing_interval = p_interval;
    PERFORM credits._require(found, 'interval', 'must be monthly, quarterly or yearly');
    RETURN v_price;
END
$$;
COMMENT ON FUNCTION credits._sync_price(credits.sync_interval) IS
'The price and length of an interval; raises MC001 invalid_request for none';
