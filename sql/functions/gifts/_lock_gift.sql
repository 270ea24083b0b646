-- gifts._lock_gift: lock a gift, and return it as it is once locked.
--
-- Locks: the gift row; the caller then takes balance rows.
CREATE OR REPLACE FUNCTION gifts._lock_gift(p_gift_id uuid)
RETURNS gifts.gift_codes
LANGUAGE plpgsql
AS $$
DECLARE
    v_gift gifts.gift_codes;
BEGIN
    SELECT * INTO STRICT v_gift FROM gifts.gift_codes WHERE id = p_gift_id FOR UPDATE;
    RETURN v_gift;
END
$$;
COMMENT ON FUNCTION gifts._lock_gift(uuid) IS 'Locks a gift that is there';
