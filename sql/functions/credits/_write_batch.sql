-- credits._write_batch: write the moves that a batch has decided on, as the outcomes of their calls.
--
-- Needs: what _record_moves needs. p_places says to which call each move belongs.
CREATE OR REPLACE FUNCTION credits._write_batch(p_places integer [], p_moves credits.new_move [])
RETURNS SETOF credits.batch_outcome
LANGUAGE plpgsql
AS $$
BEGIN
    RETURN QUERY
    SELECT p_places[m.place], false, NULL::text, NULL::text, m.move, NULL::credits.hold,
        NULL::credits.committed_hold
    FROM credits._record_moves(p_moves, clock_timestamp()) AS m;
END
$$;
COMMENT ON FUNCTION credits._write_batch(integer [], credits.new_move []) IS
'Writes moves that were decided on, and returns them as outcomes';
