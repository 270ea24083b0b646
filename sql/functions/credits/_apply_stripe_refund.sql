-- credits._apply_stripe_refund: one refund of a purchase's payment, as Stripe tells of it.
--
-- It counts from the moment that Stripe has it, pending or not, and no longer once it has failed or
-- was canceled. That end wins over everything, and succeeded over pending, whatever came first.
--
-- Locks:  the payer's active gifts and balance row; the caller holds the purchase row.
-- Keeps:  each refund takes its credits once and gives them back once.
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits._apply_stripe_refund(
    p_purchase credits.purchases, p_refund jsonb, p_created_at timestamptz
)
RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    v_now    CONSTANT timestamptz := clock_timestamp();
    v_status CONSTANT text := p_refund ->> 'status';
BEGIN
    PERFORM credits._require(v_status IS NOT NULL, 'status', 'is missing in the refund');
    PERFORM credits._require_taken_back(p_purchase, p_refund);
    INSERT INTO credits.stripe_refunds AS r (
        user_id, id, purchase_id, amount_euro_cents, credits, status, created_at, updated_at
    ) VALUES (
        p_purchase.user_id, p_refund ->> 'id', p_purchase.id, (p_refund ->> 'amount')::bigint, 0,
        v_status, coalesce(to_timestamp((p_refund ->> 'created')::double precision), p_created_at),
        v_now
    )
    ON CONFLICT (user_id, id) DO UPDATE SET status = excluded.status, updated_at = excluded.updated_at
    WHERE credits._refund_rank(excluded.status) > credits._refund_rank(r.status);
    RETURN credits._purchase_outcome(p_purchase, credits._take_back(p_purchase));
END
$$;
COMMENT ON FUNCTION credits._apply_stripe_refund(credits.purchases, jsonb, timestamptz) IS
'Keeps a Stripe refund by its id and takes its credits, or gives them back where it failed. Raises MC001 invalid_request';
