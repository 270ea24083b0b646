-- The three roles, and the two schemas, which the owner owns.
--
-- Roles belong to the cluster, not to the database: another database of the same cluster may
-- have made them already, or may be making them at this moment.

DO $$
DECLARE
    v_role record;
BEGIN
    FOR v_role IN
        SELECT *
        FROM (VALUES
            -- pg_cron starts the jobs as this role, and starts none for a role that cannot log in.
            -- Without a password nobody can log in as it over a connection that asks for one.
            ('mana_credits_owner', 'LOGIN'),
            ('mana_credits_service', 'NOLOGIN'),
            ('mana_credits_readonly', 'NOLOGIN')
        ) AS roles (name, login)
    LOOP
        BEGIN
            IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = v_role.name) THEN
                EXECUTE format('CREATE ROLE %I %s', v_role.name, v_role.login);
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN
                NULL;
        END;
    END LOOP;

    -- A superuser may act as the owner anyway; an administrator who is none must be its member.
    -- Since PostgreSQL 16 whoever makes a role is its member, but may not act as it yet.
    IF NOT pg_catalog.pg_has_role(
            current_user, 'mana_credits_owner',
            CASE WHEN current_setting('server_version_num')::integer < 160000 THEN 'MEMBER' ELSE 'SET' END
        )
    THEN
        EXECUTE format('GRANT mana_credits_owner TO %I', current_user);
    END IF;
END
$$;

COMMENT ON ROLE mana_credits_owner IS
'mana-credits: owns the schemas credits and gifts, and runs the scheduled jobs';
COMMENT ON ROLE mana_credits_service IS
'mana-credits: may execute the granted functions; the service''s login is a member';
COMMENT ON ROLE mana_credits_readonly IS
'mana-credits: reads everything but live gift codes; for support and reporting';

CREATE SCHEMA credits AUTHORIZATION mana_credits_owner;
CREATE SCHEMA gifts AUTHORIZATION mana_credits_owner;
COMMENT ON SCHEMA credits IS
'Prepaid credits (1 credit = 1 euro cent): balances, the ledger, purchases, Cloud Sync';
COMMENT ON SCHEMA gifts IS
'Gift codes and the attempts to redeem them';

-- What the owner makes from now on is nobody's but the owner's until it is granted. EXECUTE is
-- given to PUBLIC by a default that only this global form takes back.
ALTER DEFAULT PRIVILEGES FOR ROLE mana_credits_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE mana_credits_owner REVOKE USAGE ON TYPES FROM PUBLIC;
