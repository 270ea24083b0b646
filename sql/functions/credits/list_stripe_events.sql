-- credits.list_stripe_events: stored events that are not done with, newest first.
--
-- p_before is the id of the last event of the page before.
--
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits.list_stripe_events(
    p_state credits.stripe_event_state DEFAULT 'failed', p_limit integer DEFAULT 50,
    p_before text DEFAULT NULL
)
RETURNS SETOF credits.listed_event
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_before timestamptz := timestamptz 'infinity';
BEGIN
    -- Those that are done with are most of the table, and in no index.
    PERFORM credits._require(
        p_state IN ('failed', 'received'), 'state', 'must be failed or received'
    );
    IF p_before IS NOT NULL THEN
        SELECT e.received_at INTO v_before FROM credits.stripe_events AS e WHERE e.id = p_before;
        PERFORM credits._require(found, 'before', 'must be the id of an event');
    END IF;
    RETURN QUERY
    SELECT
        e.id, e.type, e.state, e.error, e.received_at, e.attempts, e.next_attempt_at, p.id
    FROM (
        SELECT o.* FROM credits.stripe_events AS o
        WHERE o.state = p_state
            AND o.state IN ('received', 'failed')
            AND o.received_at <= v_before
            AND (o.received_at < v_before OR o.id < p_before)
        ORDER BY o.received_at DESC, o.id DESC
        LIMIT p_limit
    ) AS e
    CROSS JOIN LATERAL credits._find_purchase(
        CASE
            WHEN starts_with(e.type, 'payment_intent.') THEN e.payload #>> '{data,object,id}'
            ELSE e.payload #>> '{data,object,payment_intent}'
        END,
        e.payload #>> '{data,object,metadata,purchaseId}'
    ) AS p
    ORDER BY e.received_at DESC, e.id DESC;
END
$$;
COMMENT ON FUNCTION credits.list_stripe_events(credits.stripe_event_state, integer, text) IS
'Stripe events that failed or wait for an answer of Stripe, newest first; p_before goes on behind a page. Raises MC001 invalid_request';
