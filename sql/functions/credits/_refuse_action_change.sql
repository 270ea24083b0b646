-- credits._refuse_action_change: what administrators did is written down for good.
--
-- One statement passes, the one in _erase_actions, as in _refuse_ledger_change. Which changes it may
-- make to a row, _require_action_erasure says.
--
-- Raises: MC014 ledger_append_only.
CREATE OR REPLACE FUNCTION credits._refuse_action_change()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_stack text;
BEGIN
    GET DIAGNOSTICS v_stack = PG_CONTEXT;
    -- In every language of the server's a frame names the function; one that quotes a statement has
    -- a quotation mark.
    IF tg_op = 'UPDATE'
        AND v_stack ~ '\n[^"\n]*\mcredits\._erase_actions\(text,text\)[^"\n]*(\n|$)'
    THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'the actions of administrators are append-only: % is refused', tg_op USING
        ERRCODE = 'MC014',
        DETAIL = json_build_object('operation', tg_op);
END
$$;
COMMENT ON FUNCTION credits._refuse_action_change() IS
'Trigger: raises MC014 ledger_append_only on UPDATE, DELETE and TRUNCATE of admin_actions, but for the one statement that erases a user';

CREATE OR REPLACE TRIGGER refuse_change
BEFORE UPDATE OR DELETE OR TRUNCATE ON credits.admin_actions
FOR EACH STATEMENT EXECUTE FUNCTION credits._refuse_action_change();
COMMENT ON TRIGGER refuse_change ON credits.admin_actions IS
'What administrators did is append-only';
