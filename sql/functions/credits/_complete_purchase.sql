-- credits._complete_purchase: money has come in for a purchase; give its credits, once.
--
-- Webhook, status poll and reconciliation all end here, whichever comes first.
--
-- Refunds and disputes that were heard of before are taken at once, since they took nothing yet.
--
-- Locks:  the payer's active gifts where there are such, then the payer's balance row; the caller
--         holds the purchase row.
-- Keeps:  a payment of another amount or currency credits nothing and is refused loudly.
-- Raises: MC001 invalid_request.
-- Replaces: credits._complete_purchase(credits.purchases, text, bigint, text)
CREATE OR REPLACE FUNCTION credits._complete_purchase(
    p_purchase credits.purchases, p_stripe_payment_intent_id text, p_said_at timestamptz,
    p_paid_euro_cents bigint, p_currency text
)
RETURNS credits.purchases
LANGUAGE plpgsql
AS $$
DECLARE
    v_move credits.move;
    v_now  timestamptz;
BEGIN
    IF p_purchase.transaction_id IS NOT NULL
        AND p_purchase.stripe_payment_intent_id = p_stripe_payment_intent_id
    THEN
        RETURN p_purchase;
    END IF;
    PERFORM credits._require(
        p_stripe_payment_intent_id
        = coalesce(p_purchase.stripe_payment_intent_id, p_stripe_payment_intent_id),
        'paymentIntent', format('is not the one of purchase %s', p_purchase.id)
    );
    PERFORM credits._require(
        lower(p_currency) = 'eur',
        'currency', format('must be eur, but purchase %s was paid in %s', p_purchase.id, p_currency)
    );
    PERFORM credits._require(
        p_paid_euro_cents = p_purchase.price_euro_cents,
        'amount', format(
            'must be the %s euro cents of purchase %s, but %s were paid',
            p_purchase.price_euro_cents, p_purchase.id, p_paid_euro_cents
        )
    );

    PERFORM credits._lock_for_reversal(p_purchase);
    v_now := clock_timestamp();
    v_move := credits._record_move(
        ROW(
            p_purchase.user_id, NULL, 'purchase', 'system', p_purchase.credits, 'system',
            (SELECT k.name FROM credits.packages AS k WHERE k.id = p_purchase.package_id),
            jsonb_build_object('priceEuroCents', p_purchase.price_euro_cents),
            p_purchase.id, 'purchase:' || p_purchase.id
        )::credits.new_move,
        v_now
    );
    UPDATE credits.purchases SET
        status = 'completed',
        failure = NULL,
        stripe_payment_intent_id = p_stripe_payment_intent_id,
        stripe_status = 'succeeded',
        stripe_status_at = p_said_at,
        check_at = NULL,
        transaction_id = v_move.id,
        completed_at = v_now,
        updated_at = v_now
    WHERE user_id = p_purchase.user_id AND id = p_purchase.id
    RETURNING * INTO STRICT p_purchase;
    RETURN credits._settle_reversals(p_purchase, v_now);
END
$$;
COMMENT ON FUNCTION credits._complete_purchase(
    credits.purchases, text, timestamptz, bigint, text
) IS
'Gives the credits of a purchase, once; raises MC001 when the payment is not the one that was asked for';
