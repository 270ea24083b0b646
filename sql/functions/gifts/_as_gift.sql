-- gifts._as_gift: a gift as its creator sees it.
CREATE OR REPLACE FUNCTION gifts._as_gift(p_gift gifts.gift_codes, p_replayed boolean)
RETURNS gifts.gift
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    RETURN ROW(
        p_gift.id, p_gift.code, p_gift.creator_id, p_gift.creator_name, p_gift.total_credits,
        p_gift.type, p_gift.status, p_gift.target_email, p_gift.message, p_gift.expires_at,
        p_gift.created_at, p_gift.updated_at, p_replayed
    )::gifts.gift;
END
$$;
COMMENT ON FUNCTION gifts._as_gift(gifts.gift_codes, boolean) IS
'Puts a gift into the type that functions return';
