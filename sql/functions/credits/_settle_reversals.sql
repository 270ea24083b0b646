-- credits._settle_reversals: make what was taken back for a purchase follow from its refunds and
-- disputes, with one ledger row for each difference.
--
-- Each takes its part of the credits, in proportion to the money and rounded down; all together
-- never more than the purchase gave. What was cut short by that is taken once another gives its
-- part back. Nothing depends on the order in which they are heard of but which rows tell of it.
--
-- Needs: the purchase has given its credits; purchase, gifts and balance are locked
--        (_lock_for_reversal).
-- Keeps: Σ reversals of the purchase = −(Σ credits of its refunds and disputes).
CREATE OR REPLACE FUNCTION credits._settle_reversals(p_purchase credits.purchases, p_now timestamptz)
RETURNS credits.purchases
LANGUAGE plpgsql
AS $$
DECLARE
    v_item   record;
    v_taken  bigint;
    v_change bigint;
    v_status credits.purchase_status;
BEGIN
    -- What is taken and stays so, of all of them: none may take more into the room of another,
    -- whichever of the two comes first below.
    SELECT coalesce(sum(t.credits), 0) INTO v_taken
    FROM (
        SELECT r.credits FROM credits.stripe_refunds AS r
        WHERE r.user_id = p_purchase.user_id AND r.purchase_id = p_purchase.id
            AND credits._refund_rank(r.status) < 2
        UNION ALL
        SELECT d.credits FROM credits.stripe_disputes AS d
        WHERE d.user_id = p_purchase.user_id AND d.purchase_id = p_purchase.id
            AND d.phase IN ('open', 'lost')
    ) AS t;
    FOR v_item IN
        SELECT i.*
        FROM (
            SELECT
                'refund' AS kind, r.id, r.amount_euro_cents, r.credits, r.moves, r.created_at,
                credits._refund_rank(r.status) < 2 AS counts
            FROM credits.stripe_refunds AS r
            WHERE r.user_id = p_purchase.user_id AND r.purchase_id = p_purchase.id
            UNION ALL
            SELECT
                'dispute', d.id, d.amount_euro_cents, d.credits, d.moves, d.created_at,
                d.phase IN ('open', 'lost')
            FROM credits.stripe_disputes AS d
            WHERE d.user_id = p_purchase.user_id AND d.purchase_id = p_purchase.id
        ) AS i
        -- What gives back comes first; what has been taken already stays before what is new.
        ORDER BY i.counts, i.credits = 0, i.created_at, i.id
    LOOP
        IF v_item.counts THEN
            v_change := greatest(
                0,
                least(
                    floor(
                        p_purchase.credits::numeric * v_item.amount_euro_cents
                        / p_purchase.price_euro_cents
                    )::bigint - v_item.credits,
                    p_purchase.credits - v_taken
                )
            );
            v_taken := v_taken + v_change;
        ELSE
            v_change := -v_item.credits;
        END IF;
        CONTINUE WHEN v_change = 0;
        IF v_change > 0 THEN
            PERFORM gifts._cancel_for(p_purchase.user_id, v_change, p_now);
        END IF;
        PERFORM credits._record_move(
            ROW(
                p_purchase.user_id, NULL, 'reversal', 'system', -v_change, 'system',
                CASE
                    WHEN v_item.kind = 'refund' AND v_change > 0 THEN 'Payment refunded'
                    WHEN v_item.kind = 'refund' THEN 'Refund did not come about'
                    WHEN v_change > 0 THEN 'Payment disputed'
                    ELSE 'Dispute won'
                END,
                jsonb_build_object(v_item.kind, v_item.id, 'euroCents', v_item.amount_euro_cents),
                p_purchase.id, format('reversal:%s:%s', v_item.id, v_item.moves + 1)
            )::credits.new_move,
            p_now
        );
        IF v_item.kind = 'refund' THEN
            UPDATE credits.stripe_refunds SET
                credits = credits + v_change, moves = moves + 1, updated_at = p_now
            WHERE user_id = p_purchase.user_id AND id = v_item.id;
        ELSE
            UPDATE credits.stripe_disputes SET
                credits = credits + v_change, moves = moves + 1, updated_at = p_now
            WHERE user_id = p_purchase.user_id AND id = v_item.id;
        END IF;
    END LOOP;

    v_status := credits._reversed_status(p_purchase);
    IF v_status <> p_purchase.status THEN
        UPDATE credits.purchases SET status = v_status, updated_at = p_now
        WHERE user_id = p_purchase.user_id AND id = p_purchase.id
        RETURNING * INTO STRICT p_purchase;
    END IF;
    RETURN p_purchase;
END
$$;
COMMENT ON FUNCTION credits._settle_reversals(credits.purchases, timestamptz) IS
'Takes and gives back the credits of a paid purchase as its refunds and disputes say, and sets its status; the caller has locked all of it';
