-- credits._forget_in_logs: take a user out of stored Stripe events and out of what jobs found.
--
-- An event that is settled needs no payload; of one that may be tried again as much stays as that
-- needs (_without_person).
--
-- Needs: the caller has locked the events.
CREATE OR REPLACE FUNCTION credits._forget_in_logs(
    p_user_id text, p_pseudonym text, p_event_ids text []
)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_found CONSTANT jsonb := jsonb_build_array(jsonb_build_object('user_id', p_user_id));
BEGIN
    UPDATE credits.stripe_events SET
        payload = CASE
            WHEN state IN ('received', 'failed') OR next_attempt_at IS NOT NULL
                THEN credits._without_person(payload)
        END,
        -- The SQLSTATE tells what it was; the words may quote the event.
        error = split_part(error, ' ', 1)
    WHERE id = ANY(p_event_ids);
    -- The ledger check keeps whom it found something with.
    UPDATE credits.job_runs AS r SET
        did = jsonb_set(
            r.did, '{first}',
            (
                SELECT jsonb_agg(
                    CASE f.violation ->> 'user_id'
                        WHEN p_user_id THEN jsonb_build_object(
                            'rule', f.violation -> 'rule', 'user_id', p_pseudonym, 'detail', NULL
                        )
                        ELSE f.violation
                    END
                    ORDER BY f.place
                )
                FROM jsonb_array_elements(r.did -> 'first') WITH ORDINALITY AS f (violation, place)
            )
        )
    WHERE r.did -> 'first' @> v_found;
    UPDATE credits.job_runs SET
        error = replace(error, format('"%s"', p_user_id), format('"%s"', p_pseudonym))
    WHERE strpos(error, format('"%s"', p_user_id)) > 0;
END
$$;
COMMENT ON FUNCTION credits._forget_in_logs(text, text, text []) IS
'Clears the payloads of the given Stripe events, and replaces a user by his pseudonym in the runs of jobs';
