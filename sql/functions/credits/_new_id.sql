-- credits._new_id: a UUID of version 7 (RFC 9562), for callers that bring no id.
--
-- Time comes first in it, so that an index on it only appends.
CREATE OR REPLACE FUNCTION credits._new_id()
RETURNS uuid
LANGUAGE sql VOLATILE
AS $$
    -- 48 bits of milliseconds over a random UUID of version 4; two more bits make a 7 of the 4.
    SELECT encode(
        set_bit(set_bit(
            overlay(
                uuid_send(gen_random_uuid())
                PLACING substring(
                    int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3
                )
                FROM 1 FOR 6
            ), 52, 1
        ), 53, 1),
        'hex'
    )::uuid
$$;
COMMENT ON FUNCTION credits._new_id() IS 'Draws a UUIDv7';
