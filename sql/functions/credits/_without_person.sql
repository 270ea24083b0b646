-- credits._without_person: as much of a Stripe event as applying it again needs, and nobody in it.
CREATE OR REPLACE FUNCTION credits._without_person(p_payload jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT jsonb_build_object(
        'data', jsonb_build_object(
            'object',
            coalesce(jsonb_object_agg(f.key, f.value), '{}') || jsonb_build_object(
                'metadata',
                jsonb_build_object('purchaseId', p_payload #> '{data,object,metadata,purchaseId}')
            )
        )
    )
    FROM jsonb_each(
        CASE jsonb_typeof(p_payload #> '{data,object}')
            WHEN 'object' THEN p_payload #> '{data,object}'
            ELSE '{}'
        END
    ) AS f
    WHERE f.key IN (
        'id', 'object', 'payment_intent', 'amount', 'amount_received', 'amount_total', 'currency',
        'status', 'payment_status', 'created'
    )
    -- An object in the place of an id could be expanded, with a person in it.
    AND jsonb_typeof(f.value) IN ('string', 'number')
$$;
COMMENT ON FUNCTION credits._without_person(jsonb) IS
'A Stripe event''s payload reduced to the amounts, states and ids that applying it needs';
