-- credits._refuse_action_change: what administrators did is written down for good.
--
-- Raises: MC014 ledger_append_only.
CREATE OR REPLACE FUNCTION credits._refuse_action_change()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'the actions of administrators are append-only: % is refused', tg_op USING
        ERRCODE = 'MC014',
        DETAIL = json_build_object('operation', tg_op);
END
$$;
COMMENT ON FUNCTION credits._refuse_action_change() IS
'Trigger: raises MC014 ledger_append_only on UPDATE, DELETE and TRUNCATE of admin_actions';

CREATE OR REPLACE TRIGGER refuse_change
BEFORE UPDATE OR DELETE OR TRUNCATE ON credits.admin_actions
FOR EACH STATEMENT EXECUTE FUNCTION credits._refuse_action_change();
COMMENT ON TRIGGER refuse_change ON credits.admin_actions IS
'What administrators did is append-only';
