-- credits._refuse_resolved: the opposite of what was asked has happened to a reservation.
--
-- Raises: MC013 reservation_resolved.
CREATE OR REPLACE FUNCTION credits._refuse_resolved(p_reservation credits.reservations)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'reservation was % already', p_reservation.status USING
        ERRCODE = 'MC013',
        DETAIL = json_build_object('status', p_reservation.status);
END
$$;
COMMENT ON FUNCTION credits._refuse_resolved(credits.reservations) IS
'Raises MC013 reservation_resolved, with the state the reservation is in';
