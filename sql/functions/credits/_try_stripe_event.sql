-- credits._try_stripe_event: apply a stored event, and write down what became of it.
--
-- p_refunds is what Stripe answered when it was asked for the refunds that the event is about, or
-- null. What is not done is tried again by reconciliation: after 1, 2, 4 … minutes, at most 6
-- hours, for 30 days.
--
-- Locks: the purchase row, the payer's active gifts and balance row; the caller holds the event.
CREATE OR REPLACE FUNCTION credits._try_stripe_event(p_event credits.stripe_events, p_refunds jsonb)
RETURNS credits.stripe_event_result
LANGUAGE plpgsql
AS $$
DECLARE
    v_now     CONSTANT timestamptz := clock_timestamp();
    v_object  CONSTANT jsonb := p_event.payload #> '{data,object}';
    v_payer   text;
    v_retries boolean := false;
    v_result  credits.stripe_event_result;
BEGIN
    BEGIN
        IF p_refunds IS NULL THEN
            SELECT
                a.outcome, a.needs_refunds_of, a.may_become_ours OR a.needs_refunds_of IS NOT NULL
            INTO v_result.outcome, v_result.needs_refunds_of, v_retries
            FROM credits._apply_stripe_event(p_event.type, v_object, p_event.created_at) AS a;
        ELSE
            v_result.outcome := credits._apply_stripe_refund_list(v_object, p_refunds);
        END IF;
        v_result.state := (CASE
            WHEN v_result.needs_refunds_of IS NOT NULL THEN 'received'
            WHEN v_result.outcome IS NULL THEN 'ignored'
            ELSE 'applied'
        END)::credits.stripe_event_state;
    EXCEPTION
        WHEN
            serialization_failure OR deadlock_detected OR lock_not_available
            OR insufficient_resources OR operator_intervention OR system_error
        THEN
            RAISE;
        WHEN OTHERS OR assert_failure THEN
            v_retries := true;
            v_result.state := 'failed';
            v_result.error := sqlstate || ' ' || sqlerrm;
    END;

    -- The payment of somebody who was erased: what it says of him does not come back by it.
    v_payer := (
        credits._find_purchase(
            CASE
                WHEN starts_with(p_event.type, 'payment_intent.') THEN v_object ->> 'id'
                ELSE v_object ->> 'payment_intent'
            END,
            v_object #>> '{metadata,purchaseId}'
        )
    ).user_id;
    UPDATE credits.stripe_events SET
        payload = CASE
            WHEN NOT credits._is_erased(v_payer) THEN payload
            WHEN v_retries OR v_result.state = 'failed' THEN credits._without_person(payload)
        END,
        state = v_result.state,
        outcome = v_result.outcome,
        error = v_result.error,
        attempts = attempts + 1,
        applied_at = CASE WHEN v_result.state = 'applied' THEN v_now END,
        next_attempt_at = CASE
            WHEN NOT v_retries OR received_at < credits._utc_add(v_now, '-30 days') THEN NULL
            -- What only waits for an answer of Stripe need not wait for its first try.
            WHEN v_result.state = 'received' AND attempts = 0 THEN v_now
            ELSE credits._utc_add(
                v_now, least('1 minute'::interval * 2 ^ least(attempts, 10), '6 hours')
            )
        END
    WHERE id = p_event.id;
    IF v_result.state = 'received' THEN
        -- A hint that wakes whoever asks Stripe; it looks for itself all the same.
        PERFORM pg_notify('mana_credits_stripe_events', '');
    END IF;
    v_result.repeated := p_event.attempts > 0;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION credits._try_stripe_event(credits.stripe_events, jsonb) IS
'Applies a stored Stripe event, with the refunds that Stripe was asked for or null, and keeps its outcome and when it is tried again';
