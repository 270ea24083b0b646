-- credits.pace_charges: how large the next batch of a charge run may be, and how long to rest before it.
--
-- A charge gives way to whoever else changes something. While a batch is written and its log goes to
-- the disk, debits wait for it: the longer, the larger it is. So it takes small batches while others
-- are at work, and is at work for a quarter of the time; else full ones, one after the other.
-- README.md has what was measured.
--
-- Whether others are at work is seen by the ids of transactions, which the whole server shares: more
-- have ended than the batch itself took. p_took_ms is how long the batch took, p_seen what the call
-- before it answered. A run begins with a small batch, since it has seen nothing yet.
--
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits.pace_charges(
    p_batch_size integer DEFAULT 500,
    p_took_ms integer DEFAULT 0,
    p_seen bigint DEFAULT NULL
)
RETURNS credits.charge_pace
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_small CONSTANT integer := 50;
    c_rest  CONSTANT integer := 3;
    -- A batch that waits for locks is no reason to rest for long.
    c_most  CONSTANT integer := 1000;
    -- The transaction of a batch, and its blocks that catch errors.
    c_own   CONSTANT bigint  := 3;
    v_seen  CONSTANT bigint  := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
    v_alone CONSTANT boolean := v_seen - p_seen <= c_own;
BEGIN
    PERFORM credits._require(p_batch_size > 0, 'batchSize', 'must be at least 1');
    RETURN ROW(
        CASE WHEN v_alone THEN p_batch_size ELSE least(p_batch_size, c_small) END,
        CASE WHEN NOT v_alone THEN least(greatest(p_took_ms, 0)::bigint * c_rest, c_most) ELSE 0 END,
        v_seen
    )::credits.charge_pace;
END
$$;
COMMENT ON FUNCTION credits.pace_charges(integer, integer, bigint) IS
'How large the next batch of a charge run may be, of at most p_batch_size, and how long to rest before it (ms): small batches and a rest of three times p_took_ms, which the last one took, while others change something. Raises MC001 invalid_request';
