-- credits._charge_metadata: the facts of a charge, kept in its ledger row.
CREATE OR REPLACE FUNCTION credits._charge_metadata(
    p_interval credits.sync_interval, p_due_at timestamptz, p_paid_until timestamptz,
    p_periods_skipped integer
)
RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT jsonb_build_object(
        'interval', p_interval,
        'dueAt', credits._utc_text(p_due_at),
        'paidUntil', credits._utc_text(p_paid_until),
        'periodsSkipped', p_periods_skipped
    )
$$;
COMMENT ON FUNCTION credits._charge_metadata(
    credits.sync_interval, timestamptz, timestamptz, integer
) IS 'The metadata of a Cloud Sync charge';
