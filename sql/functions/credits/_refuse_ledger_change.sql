-- credits._refuse_ledger_change: the ledger is append-only, for its owner too (database.md, rule 1).
--
-- One statement passes, the one in _erase_ledger, known by the call stack: no setting and no privilege
-- opens that way. Which changes it may make to a row, _require_erasure says.
--
-- Raises: MC014 ledger_append_only.
CREATE OR REPLACE FUNCTION credits._refuse_ledger_change()
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
        AND v_stack ~ '\n[^"\n]*\mcredits\._erase_ledger\(text,text\)[^"\n]*(\n|$)'
    THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'the ledger is append-only: % is refused', tg_op USING
        ERRCODE = 'MC014',
        DETAIL = json_build_object('operation', tg_op),
        HINT = 'Correct a mistake with a new row: refund_credits, grant_credits or use_credits.';
END
$$;
COMMENT ON FUNCTION credits._refuse_ledger_change() IS
'Trigger: raises MC014 ledger_append_only on UPDATE, DELETE and TRUNCATE of the ledger, but for the one statement that erases a user';

CREATE OR REPLACE TRIGGER refuse_change
BEFORE UPDATE OR DELETE OR TRUNCATE ON credits.transactions
FOR EACH STATEMENT EXECUTE FUNCTION credits._refuse_ledger_change();
COMMENT ON TRIGGER refuse_change ON credits.transactions IS
'The ledger is append-only';
