-- credits._require_erasure: a ledger row may change in one way alone, and only while its user is erased.
--
-- Row by row, and whatever _refuse_ledger_change thinks of who asks: the row takes the pseudonym of an
-- erasure that is under way, which nobody sees but the transaction that does it; texts, keys and the
-- app stay or are cleared; everything else is as it was, a column that is added later included.
--
-- Raises: MC014 ledger_append_only.
CREATE OR REPLACE FUNCTION credits._require_erasure()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_kept credits.transactions := new;
BEGIN
    v_kept.user_id := old.user_id;
    v_kept.app_id := old.app_id;
    v_kept.description := old.description;
    v_kept.metadata := old.metadata;
    v_kept.idempotency_key := old.idempotency_key;
    IF v_kept IS DISTINCT FROM old
        OR new.app_id NOT IN (old.app_id, 'erased')
        OR new.description NOT IN (old.description, '')
        OR new.metadata IS DISTINCT FROM old.metadata AND new.metadata IS NOT NULL
        OR new.idempotency_key IS DISTINCT FROM old.idempotency_key AND new.idempotency_key IS NOT NULL
        OR credits._is_erased(old.user_id)
        OR NOT EXISTS (
            SELECT 1 FROM credits.erasures AS e
            WHERE e.user_id = new.user_id AND e.erased_at IS NULL
        )
    THEN
        RAISE EXCEPTION 'the ledger is append-only: a row keeps what it says' USING
            ERRCODE = 'MC014',
            DETAIL = json_build_object('operation', tg_op);
    END IF;
    RETURN new;
END
$$;
COMMENT ON FUNCTION credits._require_erasure() IS
'Trigger: raises MC014 ledger_append_only unless a ledger row takes the pseudonym of an erasure that is under way, and keeps all but texts, keys and its app';

CREATE OR REPLACE TRIGGER require_erasure
BEFORE UPDATE ON credits.transactions
FOR EACH ROW EXECUTE FUNCTION credits._require_erasure();
COMMENT ON TRIGGER require_erasure ON credits.transactions IS
'A row of the ledger changes by erasing its user alone, and keeps its amounts, its place and its time';
