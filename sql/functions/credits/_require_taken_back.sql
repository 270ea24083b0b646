-- credits._require_taken_back: a refund or dispute whose money can be told in credits.
--
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits._require_taken_back(p_purchase credits.purchases, p_object jsonb)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM credits._require(p_object ->> 'id' IS NOT NULL, 'id', 'is missing');
    PERFORM credits._require(
        lower(p_object ->> 'currency') = 'eur',
        'currency', format(
            'must be eur, but %s of purchase %s is in %s',
            p_object ->> 'id', p_purchase.id, p_object ->> 'currency'
        )
    );
    PERFORM credits._require(
        (p_object ->> 'amount')::bigint > 0, 'amount', 'must be a positive number of euro cents'
    );
END
$$;
COMMENT ON FUNCTION credits._require_taken_back(credits.purchases, jsonb) IS
'Raises MC001 invalid_request for a refund or dispute without id, in another currency, or without an amount';
