-- gifts._record_attempt: write down an attempt on a gift.
CREATE OR REPLACE FUNCTION gifts._record_attempt(
    p_user_id text, p_id uuid, p_gift_id uuid, p_outcome gifts.attempt_outcome, p_credits bigint,
    p_source_app_id text, p_now timestamptz
)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO gifts.gift_redemptions (
        user_id, id, gift_id, outcome, credits, source_app_id, created_at
    ) VALUES (
        p_user_id, coalesce(p_id, credits._new_id()), p_gift_id, p_outcome, p_credits,
        p_source_app_id, p_now
    )
    -- The same call once more, whose answer was lost on its way.
    ON CONFLICT (user_id, id) DO NOTHING;
END
$$;
COMMENT ON FUNCTION gifts._record_attempt(
    text, uuid, uuid, gifts.attempt_outcome, bigint, text, timestamptz
) IS 'Writes down an attempt on a gift, once per id';
