-- credits._as_hold: a reservation, and beside it what the user can spend now.
CREATE OR REPLACE FUNCTION credits._as_hold(
    p_reservation credits.reservations, p_available bigint, p_replayed boolean
)
RETURNS credits.hold
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    RETURN ROW(
        p_reservation.id, p_reservation.user_id, p_reservation.amount, p_reservation.reason,
        p_reservation.status, p_reservation.expires_at, p_reservation.created_at, p_replayed,
        p_available
    )::credits.hold;
END
$$;
COMMENT ON FUNCTION credits._as_hold(credits.reservations, bigint, boolean) IS
'Puts a reservation into the type that functions return';
