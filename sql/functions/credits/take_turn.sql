-- credits.take_turn: may a call be made now under all of its limits, over all processes together?
--
-- Answers 0 and counts the call, or the seconds until it may be made and counts nothing, so that
-- whoever goes on calling waits no longer for it. Exact: within any p_seconds no more than
-- p_allowed calls are let through.
--
-- Locks:  the subjects' rows, in their order.
-- Raises: MC001 invalid_request.
CREATE OR REPLACE FUNCTION credits.take_turn(
    p_subjects text [], p_allowed integer [], p_seconds integer DEFAULT 60
)
RETURNS double precision
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_limit record;
    v_now   timestamptz;
    v_since timestamptz;
    v_wait  double precision := 0;
BEGIN
    PERFORM credits._require(
        cardinality(p_subjects) > 0 AND cardinality(p_subjects) = cardinality(p_allowed),
        'subjects', 'must be given, each with how many calls it is allowed'
    );
    PERFORM credits._require(
        1 <= ALL(p_allowed) AND p_seconds BETWEEN 1 AND 86400, 'allowed', 'must be at least 1'
    );
    FOR v_limit IN SELECT l.subject FROM unnest(p_subjects) AS l (subject) ORDER BY l.subject LOOP
        -- Makes the row, or locks the one there is without a change, in one statement: between two,
        -- an old row could be pruned, and its caller would go on uncounted.
        INSERT INTO credits.rate_limits AS r (subject, taken, kept_until)
        VALUES (v_limit.subject, '{}', '-infinity')
        ON CONFLICT (subject) DO UPDATE SET taken = r.taken WHERE false;
    END LOOP;
    v_now := clock_timestamp();
    v_since := credits._utc_add(v_now, make_interval(secs => -p_seconds));

    FOR v_limit IN
        SELECT l.subject, l.allowed, t.recent
        FROM unnest(p_subjects, p_allowed) AS l (subject, allowed)
        INNER JOIN credits.rate_limits AS r ON r.subject = l.subject
        CROSS JOIN LATERAL (
            SELECT array(SELECT a.at FROM unnest(r.taken) AS a (at) WHERE a.at > v_since ORDER BY a.at)
                AS recent
        ) AS t
    LOOP
        IF cardinality(v_limit.recent) >= v_limit.allowed THEN
            -- The turn that has to run out before there is one again.
            v_wait := greatest(
                v_wait,
                extract(
                    epoch FROM
                    v_limit.recent[cardinality(v_limit.recent) - v_limit.allowed + 1] - v_since
                )
            );
        END IF;
    END LOOP;
    IF v_wait = 0 THEN
        UPDATE credits.rate_limits AS r SET
            taken = array(
                SELECT a.at FROM unnest(r.taken) AS a (at) WHERE a.at > v_since ORDER BY a.at
            ) || v_now,
            kept_until = credits._utc_add(v_now, make_interval(secs => p_seconds))
        WHERE r.subject = ANY(p_subjects);
    END IF;
    -- Now and then, and more than was added since: whoever calls from many addresses fills no disk.
    IF random() < 0.02 THEN
        PERFORM credits._prune_rate_limits(v_now, 200);
    END IF;
    RETURN v_wait;
END
$$;
COMMENT ON FUNCTION credits.take_turn(text [], integer [], integer) IS
'0 when a call may be made under all its limits, which counts it, or else the seconds until it may. Raises MC001 invalid_request';
