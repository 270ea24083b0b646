-- credits.retry_notices: send notices that were given up once more, after a person has looked.
--
-- Those that failed, and those for which no address was known; their attempts are counted anew. With
-- ids only these, else all of them. Answers how many there are; what waits or was delivered is
-- passed over.
--
-- Locks:  the notices, by user_id and id, so that two of these calls never deadlock.
-- Raises: MC004 not_found for an id that no notice has; then nothing is changed.
CREATE OR REPLACE FUNCTION credits.retry_notices(p_ids uuid [] DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now   CONSTANT timestamptz := clock_timestamp();
    v_users text [];
    v_ids   uuid [];
    v_done  integer;
BEGIN
    -- Counted, since an anti-join would read the whole table.
    IF (SELECT count(DISTINCT i.id) FROM unnest(p_ids) AS i (id))
        > (SELECT count(*) FROM credits.notices AS n WHERE n.id = ANY(p_ids))
    THEN
        PERFORM credits._refuse_missing('notice');
    END IF;
    SELECT array_agg(l.user_id), array_agg(l.id) INTO v_users, v_ids
    FROM (
        SELECT n.user_id, n.id FROM credits.notices AS n
        WHERE n.state IN ('failed', 'undeliverable') AND (p_ids IS NULL OR n.id = ANY(p_ids))
        ORDER BY n.user_id, n.id
        FOR UPDATE
    ) AS l;
    UPDATE credits.notices SET state = 'pending', attempts = 0, next_attempt_at = v_now
    WHERE user_id = ANY(v_users) AND id = ANY(v_ids);
    GET DIAGNOSTICS v_done = ROW_COUNT;
    IF v_done > 0 THEN
        PERFORM pg_notify('mana_credits_notices', '');
    END IF;
    RETURN v_done;
END
$$;
COMMENT ON FUNCTION credits.retry_notices(uuid []) IS
'Puts notices that failed or had no address back to be sent, those with the given ids or (null) all, and returns how many. Raises MC004 not_found for an unknown id';
