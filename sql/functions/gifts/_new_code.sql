-- gifts._new_code: draw a gift code: 12 of 32 characters, 60 bits.
--
-- The alphabet has no I, L, O, 0 or 1, which people mistake for each other. The bits come from
-- gen_random_uuid, which draws them from the server's cryptographic source; its bytes 6 and 8 are
-- passed over, since they hold the version and the variant.
CREATE OR REPLACE FUNCTION gifts._new_code()
RETURNS text
LANGUAGE sql VOLATILE
AS $$
    SELECT string_agg(
        substr('ABCDEFGHJKLMNPQRSTUVWXYZ23456789', (get_byte(r.bytes, p.place) & 31) + 1, 1), ''
    )
    FROM (SELECT uuid_send(gen_random_uuid()) AS bytes) AS r
    CROSS JOIN unnest(ARRAY[0, 1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 13]) AS p (place)
$$;
COMMENT ON FUNCTION gifts._new_code() IS 'Draws a gift code of 60 random bits';
