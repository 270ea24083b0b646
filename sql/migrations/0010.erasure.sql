-- What erasing a user needs: a type for what he forfeits, who was erased, gifts without a target, and
-- what an administrator did, found by him. And two comments that are not true any more.
--
-- The checks that are made anew let through all that the old ones did, so that validating them finds
-- nothing; a lock for as long as that takes is what it costs.
-- squawk-ignore-file require-concurrent-index-creation, constraint-missing-not-valid, ban-drop-constraint

SET LOCAL ROLE mana_credits_owner;

ALTER TYPE credits.transaction_type ADD VALUE 'forfeiture' AFTER 'reversal';
COMMENT ON TYPE credits.transaction_type IS
'What a ledger row is: purchase, refund and grant come in, usage goes out, gift, reversal and forfeiture do either';

-- As text: a value that is new cannot be named in the transaction that adds it.
ALTER TABLE credits.transactions DROP CONSTRAINT transactions_sign_check;
ALTER TABLE credits.transactions ADD CONSTRAINT transactions_sign_check CHECK (
    CASE type::text
        WHEN 'usage' THEN amount < 0
        WHEN 'gift' THEN amount <> 0
        WHEN 'reversal' THEN amount <> 0
        WHEN 'forfeiture' THEN amount <> 0
        ELSE amount > 0
    END
);

CREATE TABLE credits.erasures (
    user_id text NOT NULL,
    forfeited_credits bigint NOT NULL DEFAULT 0,
    written_off_credits bigint NOT NULL DEFAULT 0,
    cancelled_gifts integer NOT NULL DEFAULT 0,
    released_holds integer NOT NULL DEFAULT 0,
    erased_by text,
    erased_at timestamptz,
    CONSTRAINT erasures_pkey PRIMARY KEY (user_id),
    CONSTRAINT erasures_user_id_check CHECK (
        user_id ~ '^erased-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
    ),
    CONSTRAINT erasures_erased_by_check CHECK (char_length(erased_by) BETWEEN 1 AND 128),
    CONSTRAINT erasures_counts_check CHECK (
        forfeited_credits >= 0 AND written_off_credits >= 0
        AND cancelled_gifts >= 0 AND released_holds >= 0
    )
);
COMMENT ON TABLE credits.erasures IS
'Users who were erased, under their pseudonyms. Nothing leads from a pseudonym to the id that it stands for';
COMMENT ON COLUMN credits.erasures.user_id IS 'The pseudonym: erased- and a random UUID, drawn before the call';
COMMENT ON COLUMN credits.erasures.forfeited_credits IS 'Credits that were left, and were forfeited';
COMMENT ON COLUMN credits.erasures.written_off_credits IS 'Credits by which the balance was below zero, and which were written off';
COMMENT ON COLUMN credits.erasures.cancelled_gifts IS 'How many active gifts of the user were cancelled';
COMMENT ON COLUMN credits.erasures.released_holds IS 'How many open reservations were given back';
COMMENT ON COLUMN credits.erasures.erased_by IS 'The administrator who did it, or his pseudonym once he was erased; null for the auth service';
COMMENT ON COLUMN credits.erasures.erased_at IS 'When it was done; null while it is under way, which nobody else sees, and only then may his ledger take the pseudonym';

CREATE TYPE credits.erasure AS (
    forfeited_credits bigint,
    written_off_credits bigint,
    cancelled_gifts integer,
    released_holds integer,
    erased_at timestamptz
);
COMMENT ON TYPE credits.erasure IS
'What erasing a user did; erased_at is null where nothing was known of him';

ALTER TABLE gifts.gift_codes ADD COLUMN forget_target boolean NOT NULL DEFAULT false;
ALTER TABLE gifts.gift_codes DROP CONSTRAINT gift_codes_target_check;
ALTER TABLE gifts.gift_codes ADD CONSTRAINT gift_codes_target_check CHECK (
    (type = 'personalized' OR target_email IS NULL)
    AND (type = 'simple' OR status <> 'active' OR target_email IS NOT NULL)
    AND (target_email IS NULL OR target_email = lower(target_email))
);
CREATE INDEX gift_codes_final_target ON gifts.gift_codes (target_email)
WHERE status <> 'active' AND target_email IS NOT NULL;
COMMENT ON COLUMN gifts.gift_codes.target_email IS 'For personalized gifts: whose, in lower case; null once the gift is over and its target or creator was erased';
COMMENT ON COLUMN gifts.gift_codes.forget_target IS 'Whoever it is for was erased: target_email is cleared when the gift is over, until when its credits depend on it';

CREATE INDEX admin_actions_admin ON credits.admin_actions (admin_id);
COMMENT ON TABLE credits.admin_actions IS
'What administrators did to users, each written in the transaction that did it; append-only like the ledger, and changed like it by erasing a user alone';
COMMENT ON COLUMN credits.admin_actions.admin_id IS 'Who did it: the user id in the administrator''s token, or for a call in psql the login; his pseudonym once he was erased';
COMMENT ON COLUMN credits.admin_actions.admin_name IS 'The name in the token, cleaned as a gift''s creator_name is; null once he was erased';
COMMENT ON COLUMN credits.admin_actions.reason IS 'Why, in the administrator''s words; the user sees it in an export of his data alone. The word erased once the user was';
COMMENT ON COLUMN credits.admin_actions.details IS 'Facts: amount, for a refund debitId and whether all that was left was asked for (rest), the idempotencyKey until one of the two was erased';
COMMENT ON COLUMN credits.transactions.app_id IS 'The app it was for; sync for Cloud Sync, system where there is none, erased where it was no app''s name and the user was erased';

COMMENT ON COLUMN credits.job_runs.ended_at IS 'When it ended; null while it runs. One that never said that it ended is closed when the same job begins an hour later or after';
COMMENT ON TABLE credits.rate_limits IS
'Turns that were taken lately. Unlogged: after a crash everybody begins anew, and no standby has it; a dump has it unless told otherwise';

RESET ROLE;
