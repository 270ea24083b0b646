-- What support sees and does: actions of administrators, totals per day, finding a user.
--
-- balances and contacts have a row a user, and open reservations are few, so that an index over them
-- is made in an instant.
-- squawk-ignore-file require-concurrent-index-creation

SET LOCAL ROLE mana_credits_owner;

CREATE TYPE credits.admin_action AS ENUM ('grant', 'refund', 'gift_sync', 'revoke_sync_gift');
COMMENT ON TYPE credits.admin_action IS 'What an administrator did to a user';

CREATE TABLE credits.admin_actions (
    user_id text NOT NULL,
    id uuid NOT NULL,
    admin_id text NOT NULL,
    admin_name text,
    action credits.admin_action NOT NULL,
    reason text,
    transaction_id uuid,
    details jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT admin_actions_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT admin_actions_user_id_fkey FOREIGN KEY (user_id) REFERENCES credits.balances (user_id),
    CONSTRAINT admin_actions_texts_check CHECK (
        char_length(admin_id) BETWEEN 1 AND 128
        AND char_length(admin_name) BETWEEN 1 AND 64
        AND char_length(reason) BETWEEN 1 AND 500
        AND jsonb_typeof(details) = 'object'
    ),
    CONSTRAINT admin_actions_move_check CHECK (
        (action IN ('grant', 'refund')) = (transaction_id IS NOT NULL)
        AND (transaction_id IS NULL OR (transaction_id = id AND reason IS NOT NULL))
    )
);
COMMENT ON TABLE credits.admin_actions IS
'What administrators did to users, each written in the transaction that did it; append-only like the ledger';
COMMENT ON COLUMN credits.admin_actions.user_id IS 'To whom it was done';
COMMENT ON COLUMN credits.admin_actions.id IS 'The action (UUIDv7); for a grant or a refund the id of its ledger row';
COMMENT ON COLUMN credits.admin_actions.admin_id IS 'Who did it: the user id in the administrator''s token, or for a call in psql the login';
COMMENT ON COLUMN credits.admin_actions.admin_name IS 'The name in the token, cleaned as a gift''s creator_name is';
COMMENT ON COLUMN credits.admin_actions.action IS 'What was done';
COMMENT ON COLUMN credits.admin_actions.reason IS 'Why, in the administrator''s words; the user does not see it';
COMMENT ON COLUMN credits.admin_actions.transaction_id IS 'The ledger row it made, where it moved credits';
COMMENT ON COLUMN credits.admin_actions.details IS 'Facts: amount, for a refund debitId and whether all that was left was asked for (rest), the idempotencyKey';
COMMENT ON COLUMN credits.admin_actions.created_at IS 'When';

CREATE TABLE credits.daily_totals (
    day date NOT NULL,
    sold bigint NOT NULL,
    granted bigint NOT NULL,
    used bigint NOT NULL,
    reversed bigint NOT NULL,
    refunded bigint NOT NULL,
    outstanding bigint NOT NULL,
    CONSTRAINT daily_totals_pkey PRIMARY KEY (day)
);
COMMENT ON TABLE credits.daily_totals IS
'The ledger added up per day that is over, without gaps from its first day on; the job ledger-check keeps it';
COMMENT ON COLUMN credits.daily_totals.day IS 'The day, in UTC';
COMMENT ON COLUMN credits.daily_totals.sold IS 'Credits that purchases gave';
COMMENT ON COLUMN credits.daily_totals.granted IS 'Credits granted';
COMMENT ON COLUMN credits.daily_totals.used IS 'Credits debited, refunds not subtracted';
COMMENT ON COLUMN credits.daily_totals.reversed IS 'Credits taken back for refunds and disputes at Stripe, less those that were won back; negative where more came back';
COMMENT ON COLUMN credits.daily_totals.refunded IS 'Credits given back for debits';
COMMENT ON COLUMN credits.daily_totals.outstanding IS 'Credits that users had at the end of the day: all book balances and active gifts';

-- For what begins like the text that is searched, whatever the database's collation.
CREATE INDEX balances_user_id_prefix ON credits.balances (user_id COLLATE "C");
CREATE INDEX contacts_email_prefix ON credits.contacts (lower(email) COLLATE "C");
CREATE INDEX reservations_open ON credits.reservations (user_id, id) WHERE status = 'open';

CREATE TYPE credits.recorded_action AS (
    id uuid,
    user_id text,
    admin_id text,
    admin_name text,
    action credits.admin_action,
    reason text,
    transaction_id uuid,
    details jsonb,
    created_at timestamptz
);
COMMENT ON TYPE credits.recorded_action IS 'What an administrator did to a user, and why';

CREATE TYPE credits.found_user AS (
    user_id text,
    email text,
    available bigint,
    reserved bigint,
    sync_active boolean,
    last_move_at timestamptz
);
COMMENT ON TYPE credits.found_user IS 'A user that a search found; available is what can be spent';

CREATE TYPE credits.open_hold AS (
    id uuid,
    amount bigint,
    reason text,
    status credits.reservation_status,
    created_at timestamptz,
    expires_at timestamptz
);
COMMENT ON TYPE credits.open_hold IS 'A reservation that holds credits now';

CREATE TYPE credits.account AS (
    user_id text,
    email text,
    available bigint,
    reserved bigint,
    total_earned bigint,
    total_spent bigint,
    transactions_count bigint,
    created_at timestamptz,
    sync credits.sync_status,
    open_holds credits.open_hold []
);
COMMENT ON TYPE credits.account IS 'A user as support sees him; zeros and nulls for a user never seen';

CREATE TYPE gifts.masked_gift AS (
    id uuid,
    code text,
    creator_id text,
    creator_name text,
    total_credits bigint,
    type gifts.gift_type,
    status gifts.gift_status,
    target_email text,
    message text,
    expires_at timestamptz,
    redeemed_by text,
    redeemed_at timestamptz,
    created_at timestamptz,
    updated_at timestamptz
);
COMMENT ON TYPE gifts.masked_gift IS 'A gift as support sees it: the code of an active one is masked';

CREATE TYPE credits.day_totals AS (
    day date,
    sold bigint,
    granted bigint,
    used bigint,
    reversed bigint,
    refunded bigint,
    outstanding bigint
);
COMMENT ON TYPE credits.day_totals IS 'A day (UTC) of the whole ledger, in credits; outstanding is what users had at its end';

CREATE TYPE credits.overview AS (
    subscriptions_active bigint,
    subscriptions_paused bigint,
    subscriptions_gifted bigint,
    next_run_due bigint,
    next_run_charges bigint,
    next_run_pauses bigint,
    next_run_credits bigint,
    ledger_checked_at timestamptz,
    ledger_violations bigint,
    events_failed bigint,
    events_received bigint,
    notices_waiting bigint,
    notices_failed bigint,
    notices_undeliverable bigint
);
COMMENT ON TYPE credits.overview IS 'How the whole of it stands now, for the support page';

CREATE TYPE credits.job_state AS (
    job text,
    last_started_at timestamptz,
    last_ended_at timestamptz,
    last_succeeded_at timestamptz,
    did jsonb,
    error text,
    late boolean
);
COMMENT ON TYPE credits.job_state IS
'A job and its last runs: what the last one that ended did, or why it failed; late as readiness has it';

CREATE TYPE credits.listed_event AS (
    id text,
    type text,
    state credits.stripe_event_state,
    error text,
    received_at timestamptz,
    attempts integer,
    next_attempt_at timestamptz,
    purchase_id uuid
);
COMMENT ON TYPE credits.listed_event IS 'A stored Stripe event, and the purchase it is about, where that is known';

CREATE TYPE credits.listed_notice AS (
    id uuid,
    user_id text,
    kind credits.notice_kind,
    state credits.notice_state,
    attempts integer,
    last_error text,
    created_at timestamptz,
    next_attempt_at timestamptz
);
COMMENT ON TYPE credits.listed_notice IS 'A notice of the outbox, and where it stands';

RESET ROLE;
