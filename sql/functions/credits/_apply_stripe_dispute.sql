-- credits._apply_stripe_dispute: what is heard of a dispute over a purchase's payment.
--
-- It takes credits from charge.dispute.created on, unless that is an inquiry (warning_), or from
-- funds_withdrawn, whichever comes first, and gives them back when it is won (database.md,
-- Purchases). The furthest phase that was heard of counts, so that the order does not matter: a win
-- that overtakes the beginning means that nothing is taken.
--
-- Locks:  the payer's active gifts and balance row; the caller holds the purchase row.
-- Keeps:  each dispute takes its credits once and gives them back once.
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits._apply_stripe_dispute(
    p_purchase credits.purchases, p_type text, p_dispute jsonb, p_created_at timestamptz
)
RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    v_now    CONSTANT timestamptz := clock_timestamp();
    v_status CONSTANT text := p_dispute ->> 'status';
    v_phase  credits.dispute_phase;
BEGIN
    PERFORM credits._require(v_status IS NOT NULL, 'status', 'is missing in the dispute');
    PERFORM credits._require_taken_back(p_purchase, p_dispute);
    v_phase := (CASE
        WHEN p_type = 'charge.dispute.funds_reinstated' THEN 'won'
        WHEN p_type = 'charge.dispute.closed' AND v_status IN ('won', 'lost') THEN v_status
        WHEN p_type = 'charge.dispute.funds_withdrawn' THEN 'open'
        WHEN p_type = 'charge.dispute.created' AND NOT starts_with(v_status, 'warning_') THEN 'open'
        ELSE 'inquiry'
    END)::credits.dispute_phase;
    INSERT INTO credits.stripe_disputes AS d (
        user_id, id, purchase_id, amount_euro_cents, credits, status, phase, created_at, updated_at
    ) VALUES (
        p_purchase.user_id, p_dispute ->> 'id', p_purchase.id, (p_dispute ->> 'amount')::bigint, 0,
        v_status, v_phase,
        coalesce(to_timestamp((p_dispute ->> 'created')::double precision), p_created_at), v_now
    )
    ON CONFLICT (user_id, id) DO UPDATE SET
        -- The amount may grow while it goes on.
        amount_euro_cents = greatest(d.amount_euro_cents, excluded.amount_euro_cents),
        status = CASE WHEN excluded.phase >= d.phase THEN excluded.status ELSE d.status END,
        phase = greatest(d.phase, excluded.phase),
        updated_at = excluded.updated_at;
    RETURN credits._purchase_outcome(p_purchase, credits._take_back(p_purchase));
END
$$;
COMMENT ON FUNCTION credits._apply_stripe_dispute(credits.purchases, text, jsonb, timestamptz) IS
'Keeps a Stripe dispute by its id and takes its credits, or gives them back where it was won. Raises MC001 invalid_request';
