-- credits._lock_reservation: find a reservation by its id alone, and lock it.
--
-- Locks:  the reservation row; the caller then takes the user's balance row.
-- Raises: MC004 not_found, also for a p_user_id that is not the hold's.
CREATE OR REPLACE FUNCTION credits._lock_reservation(p_reservation_id uuid, p_user_id text)
RETURNS credits.reservations
LANGUAGE plpgsql
AS $$
DECLARE
    v_user_id     text;
    v_reservation credits.reservations;
BEGIN
    -- Every lock names the user, so that user_id can become a distribution key.
    SELECT user_id INTO v_user_id FROM credits.reservations WHERE id = p_reservation_id;
    IF v_user_id IS NULL OR v_user_id <> coalesce(p_user_id, v_user_id) THEN
        PERFORM credits._refuse_missing('reservation');
    END IF;
    SELECT * INTO v_reservation FROM credits.reservations
    WHERE user_id = v_user_id AND id = p_reservation_id
    FOR UPDATE;
    IF NOT found THEN
        -- Its user was erased while this waited, and the hold was given back.
        PERFORM credits._refuse_missing('reservation');
    END IF;
    RETURN v_reservation;
END
$$;
COMMENT ON FUNCTION credits._lock_reservation(uuid, text) IS
'Locks a reservation and returns it as it is once locked; raises MC004 not_found';
