-- credits._refund_rank: which of two states of a Stripe refund is the later one.
--
-- Pending and requires_action come first; one that succeeded may still fail, and then it is over.
CREATE OR REPLACE FUNCTION credits._refund_rank(p_status text)
RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE p_status WHEN 'failed' THEN 2 WHEN 'canceled' THEN 2 WHEN 'succeeded' THEN 1 ELSE 0 END
$$;
COMMENT ON FUNCTION credits._refund_rank(text) IS
'The order of a Stripe refund''s states: 2 is over without a refund, 1 succeeded, 0 on its way';
