-- What the functions return: types of their own, so that a table can gain a column without
-- changing what callers get.

SET LOCAL ROLE mana_credits_owner;

CREATE TYPE credits.move AS (
    id uuid,
    user_id text,
    seq bigint,
    type credits.transaction_type,
    amount bigint,
    balance_before bigint,
    balance_after bigint,
    app_id text,
    description text,
    metadata jsonb,
    reference_id uuid,
    idempotency_key text,
    created_at timestamptz,
    replayed boolean,
    available bigint,
    reserved bigint,
    total_earned bigint,
    total_spent bigint
);
COMMENT ON TYPE credits.move IS
'A ledger row and, after it, what the user has now: available is what can be spent; replayed tells that the key had been used for it before';

CREATE TYPE credits.new_move AS (
    user_id text,
    id uuid,
    type credits.transaction_type,
    origin credits.origin,
    amount bigint,
    app_id text,
    description text,
    metadata jsonb,
    reference_id uuid,
    idempotency_key text
);
COMMENT ON TYPE credits.new_move IS 'A ledger row to be written: seq and balances follow from the rows before it';

CREATE TYPE credits.balance_summary AS (
    user_id text,
    available bigint,
    reserved bigint,
    total_earned bigint,
    total_spent bigint,
    transactions_count bigint,
    version bigint,
    created_at timestamptz,
    updated_at timestamptz
);
COMMENT ON TYPE credits.balance_summary IS
'What a user has: available is what can be spent; zeros and null times for a user never seen';

CREATE TYPE credits.usage_day AS (
    day date,
    app_id text,
    credits_used bigint,
    operations bigint
);
COMMENT ON TYPE credits.usage_day IS 'What an app used on a day (UTC), in credits and in debits';

CREATE TYPE credits.hold AS (
    reservation_id uuid,
    user_id text,
    amount bigint,
    reason text,
    status credits.reservation_status,
    expires_at timestamptz,
    created_at timestamptz,
    replayed boolean,
    available bigint
);
COMMENT ON TYPE credits.hold IS 'A reservation, and what can be spent now';

CREATE TYPE credits.committed_hold AS (
    reservation_id uuid,
    user_id text,
    transaction_id uuid,
    amount bigint,
    replayed boolean,
    available bigint
);
COMMENT ON TYPE credits.committed_hold IS
'The debit that a reservation became, amount as a positive number of credits, and what can be spent now';

CREATE TYPE credits.package AS (
    id uuid,
    name text,
    description text,
    credits bigint,
    price_euro_cents bigint,
    stripe_price_id text,
    active boolean,
    sort_order integer,
    metadata jsonb,
    created_at timestamptz,
    updated_at timestamptz
);
COMMENT ON TYPE credits.package IS 'What can be bought';

CREATE TYPE credits.operation_price AS (
    operation text,
    name text,
    description text,
    category text,
    app text,
    cost bigint,
    per integer,
    updated_at timestamptz
);
COMMENT ON TYPE credits.operation_price IS 'What an operation costs: cost credits for per uses';

CREATE TYPE credits.sync_price AS (
    billing_interval credits.sync_interval,
    months integer,
    price bigint,
    updated_at timestamptz
);
COMMENT ON TYPE credits.sync_price IS 'What Cloud Sync costs, in credits';

CREATE TYPE credits.purchase AS (
    id uuid,
    user_id text,
    package_id uuid,
    package_name text,
    credits bigint,
    price_euro_cents bigint,
    status credits.purchase_status,
    failure text,
    stripe_customer_id text,
    stripe_payment_intent_id text,
    stripe_checkout_session_id text,
    stripe_checkout_url text,
    success_url text,
    cancel_url text,
    metadata jsonb,
    created_at timestamptz,
    completed_at timestamptz,
    replayed boolean
);
COMMENT ON TYPE credits.purchase IS 'A purchase as its buyer sees it, with what Stripe calls it';

CREATE TYPE credits.stripe_event_result AS (
    state credits.stripe_event_state,
    outcome text,
    error text,
    repeated boolean
);
COMMENT ON TYPE credits.stripe_event_result IS
'What became of a Stripe event; repeated tells that it had been dealt with before';

CREATE TYPE credits.sync_status AS (
    user_id text,
    active boolean,
    billing_interval credits.sync_interval,
    price bigint,
    next_charge_at timestamptz,
    paid_until timestamptz,
    paused_at timestamptz,
    gifted boolean
);
COMMENT ON TYPE credits.sync_status IS 'Cloud Sync as its user sees it; inactive and monthly for a user never seen';

CREATE TYPE credits.sync_activation AS (
    billing_interval credits.sync_interval,
    next_charge_at timestamptz,
    paid_until timestamptz,
    amount_charged bigint,
    available bigint,
    replayed boolean
);
COMMENT ON TYPE credits.sync_activation IS 'What an activation did; amount_charged is 0 inside a period already paid';

CREATE TYPE credits.interval_change AS (
    billing_interval credits.sync_interval,
    price bigint,
    effective_at timestamptz
);
COMMENT ON TYPE credits.interval_change IS 'The new interval and price, and the charge from which on they hold';

CREATE TYPE credits.charge_result AS (
    charged integer,
    paused integer,
    errors integer,
    more boolean
);
COMMENT ON TYPE credits.charge_result IS
'What a batch of charges did; more tells that something is still due';

CREATE TYPE credits.planned_charge AS (
    user_id text,
    billing_interval credits.sync_interval,
    price bigint,
    available bigint,
    due_at timestamptz,
    action text,
    next_charge_at timestamptz,
    periods_skipped integer
);
COMMENT ON TYPE credits.planned_charge IS
'What a run would do with a subscription: charge, pause, or skip (waits for a retry)';

CREATE TYPE credits.batch_result AS (
    done integer,
    errors integer,
    last_at timestamptz,
    last_key text,
    more boolean
);
COMMENT ON TYPE credits.batch_result IS
'How many rows a batch dealt with and how many it could not; the next batch goes on behind last_at and last_key, so that a row that fails never stands in the way of the others';

CREATE TYPE credits.notice_to_send AS (
    id uuid,
    user_id text,
    kind credits.notice_kind,
    data jsonb,
    recipient text,
    attempts integer,
    created_at timestamptz
);
COMMENT ON TYPE credits.notice_to_send IS 'A notice that the caller may send until its lease ends; recipient is null where no address is known';

CREATE TYPE credits.violation AS (
    rule text,
    user_id text,
    detail jsonb
);
COMMENT ON TYPE credits.violation IS 'One breach of the money rules; user_id is null where it concerns the whole database';

CREATE TYPE gifts.gift AS (
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
    created_at timestamptz,
    updated_at timestamptz,
    replayed boolean
);
COMMENT ON TYPE gifts.gift IS 'A gift as its creator sees it';

CREATE TYPE gifts.public_gift AS (
    code text,
    type gifts.gift_type,
    status gifts.gift_status,
    total_credits bigint,
    message text,
    creator_name text,
    expires_at timestamptz
);
COMMENT ON TYPE gifts.public_gift IS 'What anybody who has a code may see of the gift';

CREATE TYPE gifts.received_gift AS (
    id uuid,
    code text,
    credits bigint,
    message text,
    creator_name text,
    status gifts.gift_status,
    source_app_id text,
    redeemed_at timestamptz,
    created_at timestamptz
);
COMMENT ON TYPE gifts.received_gift IS 'A gift as its redeemer sees it';

CREATE TYPE gifts.redemption AS (
    outcome gifts.attempt_outcome,
    gift_id uuid,
    credits bigint,
    message text,
    creator_name text,
    replayed boolean,
    available bigint
);
COMMENT ON TYPE gifts.redemption IS
'How an attempt ended. A refusal is an outcome, not an error: an error would undo the record of the attempt';

CREATE TYPE gifts.pending_redemption AS (
    redeemed integer,
    total_credits bigint,
    available bigint
);
COMMENT ON TYPE gifts.pending_redemption IS 'How many waiting gifts were redeemed, and for how many credits';

CREATE TYPE gifts.cancellation AS (
    refunded_credits bigint,
    replayed boolean,
    available bigint
);
COMMENT ON TYPE gifts.cancellation IS 'What a cancelled gift gave back to its creator';

RESET ROLE;
