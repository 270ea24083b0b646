-- credits.retry_notices: send notices that were given up once more, after a person has looked.
--
-- Those that failed, and those for which no address was known; their attempts are counted anew. With
-- ids only these, else all of them. Answers how many there are.
--
-- Locks: the notices.
CREATE OR REPLACE FUNCTION credits.retry_notices(p_ids uuid [] DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now  CONSTANT timestamptz := clock_timestamp();
    v_done integer;
BEGIN
    UPDATE credits.notices SET state = 'pending', attempts = 0, next_attempt_at = v_now
    WHERE state IN ('failed', 'undeliverable') AND (p_ids IS NULL OR id = ANY(p_ids));
    GET DIAGNOSTICS v_done = ROW_COUNT;
    IF v_done > 0 THEN
        PERFORM pg_notify('mana_credits_notices', '');
    END IF;
    RETURN v_done;
END
$$;
COMMENT ON FUNCTION credits.retry_notices(uuid []) IS
'Puts notices that failed or had no address back to be sent, those with the given ids or (null) all, and returns how many';
