-- credits._require_action_erasure: an administrator's action changes in one way alone, and only while
-- one of the two is erased.
--
-- Row by row, and whatever _refuse_action_change thinks of who asks: the user, the administrator or
-- both become the pseudonym of an erasure that is under way; the key stays or goes, the reason only
-- with the user, the name only with the administrator; everything else is as it was, a column that is
-- added later included.
--
-- Raises: MC014 ledger_append_only.
CREATE OR REPLACE FUNCTION credits._require_action_erasure()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_user_goes  CONSTANT boolean := new.user_id <> old.user_id;
    v_admin_goes CONSTANT boolean := new.admin_id <> old.admin_id;
    v_kept       credits.admin_actions := new;
BEGIN
    v_kept.user_id := old.user_id;
    v_kept.admin_id := old.admin_id;
    v_kept.admin_name := old.admin_name;
    v_kept.reason := old.reason;
    v_kept.details := old.details;
    IF v_kept IS DISTINCT FROM old
        OR new.details NOT IN (old.details, old.details - 'idempotencyKey')
        OR new.reason IS DISTINCT FROM old.reason
        AND (NOT v_user_goes OR old.reason IS NULL OR new.reason IS DISTINCT FROM 'erased')
        OR new.admin_name IS DISTINCT FROM old.admin_name
        AND (NOT v_admin_goes OR new.admin_name IS NOT NULL)
        OR NOT (v_user_goes OR v_admin_goes)
        OR v_user_goes AND credits._is_erased(old.user_id)
        OR v_admin_goes AND credits._is_erased(old.admin_id)
        OR v_user_goes AND v_admin_goes AND new.user_id <> new.admin_id
        OR NOT EXISTS (
            SELECT 1 FROM credits.erasures AS e
            WHERE e.user_id = CASE WHEN v_user_goes THEN new.user_id ELSE new.admin_id END
                AND e.erased_at IS NULL
        )
    THEN
        RAISE EXCEPTION 'the actions of administrators are append-only: a row keeps what it says' USING
            ERRCODE = 'MC014',
            DETAIL = json_build_object('operation', tg_op);
    END IF;
    RETURN new;
END
$$;
COMMENT ON FUNCTION credits._require_action_erasure() IS
'Trigger: raises MC014 ledger_append_only unless the user or the administrator of an action becomes the pseudonym of an erasure that is under way, and all else but reason, name and key stays';

CREATE OR REPLACE TRIGGER require_erasure
BEFORE UPDATE ON credits.admin_actions
FOR EACH ROW EXECUTE FUNCTION credits._require_action_erasure();
COMMENT ON TRIGGER require_erasure ON credits.admin_actions IS
'What an administrator did changes by erasing him or the user alone, and stays what it was';
