-- The schema credits: types, tables, constraints, indexes.
--
-- Amounts are whole credits in bigint (1 credit = 1 euro cent), times are timestamptz. A table
-- that belongs to a user has user_id first in its key, so that it can become a distribution key.

SET LOCAL ROLE mana_credits_owner;

CREATE TYPE credits.transaction_type AS ENUM (
    'purchase', 'usage', 'refund', 'gift', 'grant', 'reversal'
);
COMMENT ON TYPE credits.transaction_type IS
'What a ledger row is: purchase, refund and grant come in, usage goes out, gift and reversal do either';

CREATE TYPE credits.origin AS ENUM ('user', 'service', 'system');
COMMENT ON TYPE credits.origin IS
'Who chose an idempotency key: the user himself, a service of ours, or the database (charges, grants). Keys of one origin never meet those of another';

CREATE TYPE credits.reservation_status AS ENUM ('open', 'committed', 'refunded', 'expired');
COMMENT ON TYPE credits.reservation_status IS
'open holds credits; committed has become a debit; refunded and expired have given the credits back';

CREATE TYPE credits.purchase_status AS ENUM (
    'pending', 'completed', 'failed', 'cancelled', 'refunded', 'partially_refunded', 'disputed'
);
COMMENT ON TYPE credits.purchase_status IS
'Where a payment stands; credits were given in every state from completed on, and in none before';

CREATE TYPE credits.sync_interval AS ENUM ('monthly', 'quarterly', 'yearly');
COMMENT ON TYPE credits.sync_interval IS 'How long a Cloud Sync charge lasts: 1, 3 or 12 months';

CREATE TYPE credits.stripe_event_state AS ENUM ('received', 'applied', 'ignored', 'failed');
COMMENT ON TYPE credits.stripe_event_state IS
'applied changed something or had been done already; ignored is not about a purchase of ours; failed has its error beside it';

CREATE TYPE credits.notice_kind AS ENUM ('sync_paused', 'gift_expired', 'charge_coming');
COMMENT ON TYPE credits.notice_kind IS 'What a notice tells its user';

CREATE TYPE credits.notice_state AS ENUM ('pending', 'delivered', 'undeliverable', 'failed');
COMMENT ON TYPE credits.notice_state IS
'pending is to be sent at next_attempt_at; undeliverable had no address; failed was given up and waits for a person';

CREATE TABLE credits.balances (
    user_id text NOT NULL,
    balance bigint NOT NULL DEFAULT 0,
    reserved bigint NOT NULL DEFAULT 0,
    total_earned bigint NOT NULL DEFAULT 0,
    total_spent bigint NOT NULL DEFAULT 0,
    last_seq bigint NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT balances_pkey PRIMARY KEY (user_id),
    CONSTRAINT balances_user_id_check CHECK (
        user_id ~ '^[^[:space:][:cntrl:]/?#%{}]{1,128}$' AND user_id NOT IN ('.', '..')
    ),
    CONSTRAINT balances_totals_check CHECK (balance = total_earned - total_spent),
    CONSTRAINT balances_signs_check CHECK (
        reserved >= 0 AND total_earned >= 0 AND total_spent >= 0 AND last_seq >= 0
    )
) WITH (fillfactor = 50);
COMMENT ON TABLE credits.balances IS
'One row a user, the row that every move of his credits locks. It stays HOT: half-filled pages, and no index on anything that changes';
COMMENT ON COLUMN credits.balances.user_id IS 'The auth service''s id of the user: 1 to 128 printable characters without white space or / ? # % { }';
COMMENT ON COLUMN credits.balances.balance IS 'Book balance in credits: the last balance_after of the user''s ledger. What can be spent is balance - reserved; only a reversal makes it negative';
COMMENT ON COLUMN credits.balances.reserved IS 'Credits held by open reservations';
COMMENT ON COLUMN credits.balances.total_earned IS 'Sum of all positive ledger amounts, in credits';
COMMENT ON COLUMN credits.balances.total_spent IS 'Sum of all negative ledger amounts, as a positive number of credits';
COMMENT ON COLUMN credits.balances.last_seq IS 'seq of the user''s last ledger row, which is also how many there are';
COMMENT ON COLUMN credits.balances.version IS 'Counts the changes of this row';
COMMENT ON COLUMN credits.balances.created_at IS 'When the user was first seen';
COMMENT ON COLUMN credits.balances.updated_at IS 'When this row last changed';

CREATE TABLE credits.transactions (
    user_id text NOT NULL,
    seq bigint NOT NULL,
    id uuid NOT NULL,
    type credits.transaction_type NOT NULL,
    origin credits.origin NOT NULL,
    amount bigint NOT NULL,
    balance_before bigint NOT NULL,
    balance_after bigint NOT NULL,
    app_id text NOT NULL,
    description text NOT NULL,
    metadata jsonb,
    reference_id uuid,
    idempotency_key text,
    created_at timestamptz NOT NULL,
    CONSTRAINT transactions_pkey PRIMARY KEY (user_id, seq),
    CONSTRAINT transactions_id_key UNIQUE (id),
    CONSTRAINT transactions_user_id_fkey FOREIGN KEY (user_id) REFERENCES credits.balances (user_id),
    CONSTRAINT transactions_seq_check CHECK (seq >= 1),
    CONSTRAINT transactions_arithmetic_check CHECK (balance_after - balance_before = amount),
    CONSTRAINT transactions_sign_check CHECK (
        CASE type
            WHEN 'usage' THEN amount < 0
            WHEN 'gift' THEN amount <> 0
            WHEN 'reversal' THEN amount <> 0
            ELSE amount > 0
        END
    ),
    CONSTRAINT transactions_texts_check CHECK (
        char_length(app_id) BETWEEN 1 AND 200
        AND char_length(description) <= 500
        AND char_length(idempotency_key) BETWEEN 1 AND 255
        AND (metadata IS NULL OR jsonb_typeof(metadata) = 'object')
    )
);
-- No foreign key leads to the ledger: to check one, PostgreSQL locks the row it names, for which
-- the owner would need UPDATE on a table that nobody may update. Its rows never vanish, and
-- check_ledger holds what names them against them.
--
-- Keyless rows are most of the ledger, and need no place in this index.
CREATE UNIQUE INDEX transactions_idempotency_key
ON credits.transactions (user_id, origin, idempotency_key) WHERE idempotency_key IS NOT NULL;
COMMENT ON TABLE credits.transactions IS
'The ledger: append-only, one row a move of book credits, a gapless chain per user';
COMMENT ON COLUMN credits.transactions.user_id IS 'Whose credits moved';
COMMENT ON COLUMN credits.transactions.seq IS '1, 2, 3 … per user, without gaps';
COMMENT ON COLUMN credits.transactions.id IS 'The move''s id, drawn before the call (UUIDv7, so that the index only appends)';
COMMENT ON COLUMN credits.transactions.type IS 'What kind of move it is';
COMMENT ON COLUMN credits.transactions.origin IS 'Who asked for it, and whose idempotency_key it is';
COMMENT ON COLUMN credits.transactions.amount IS 'Credits: negative goes out, positive comes in';
COMMENT ON COLUMN credits.transactions.balance_before IS 'Book balance before: the balance_after of the row before, 0 for the first';
COMMENT ON COLUMN credits.transactions.balance_after IS 'Book balance after: balance_before + amount';
COMMENT ON COLUMN credits.transactions.app_id IS 'The app it was for; sync for Cloud Sync, system where there is none';
COMMENT ON COLUMN credits.transactions.description IS 'For people';
COMMENT ON COLUMN credits.transactions.metadata IS 'A JSON object of the caller''s, or facts of a charge';
COMMENT ON COLUMN credits.transactions.reference_id IS 'What the move is about: the debit of a refund, the reservation of a commit, the gift of a gift row, the purchase of a purchase or a reversal';
COMMENT ON COLUMN credits.transactions.idempotency_key IS 'Unique per user and origin';
COMMENT ON COLUMN credits.transactions.created_at IS 'When it was written, read after the user''s balance was locked';

CREATE TABLE credits.debit_refunds (
    user_id text NOT NULL,
    debit_id uuid NOT NULL,
    debited bigint NOT NULL,
    refunded bigint NOT NULL,
    CONSTRAINT debit_refunds_pkey PRIMARY KEY (user_id, debit_id),
    CONSTRAINT debit_refunds_user_id_fkey FOREIGN KEY (user_id) REFERENCES credits.balances (user_id),
    CONSTRAINT debit_refunds_bounds_check CHECK (refunded BETWEEN 1 AND debited)
);
COMMENT ON TABLE credits.debit_refunds IS
'How much of a debit was refunded: all refunds that name it together never exceed it';
COMMENT ON COLUMN credits.debit_refunds.user_id IS 'Whose debit it was';
COMMENT ON COLUMN credits.debit_refunds.debit_id IS 'The debit''s id in the ledger';
COMMENT ON COLUMN credits.debit_refunds.debited IS 'What the debit took, in credits';
COMMENT ON COLUMN credits.debit_refunds.refunded IS 'What its refunds gave back so far, in credits';

CREATE TABLE credits.usage_stats (
    user_id text NOT NULL,
    day date NOT NULL,
    app_id text NOT NULL,
    credits_used bigint NOT NULL,
    operations bigint NOT NULL,
    CONSTRAINT usage_stats_pkey PRIMARY KEY (user_id, day, app_id),
    CONSTRAINT usage_stats_user_id_fkey FOREIGN KEY (user_id) REFERENCES credits.balances (user_id),
    CONSTRAINT usage_stats_signs_check CHECK (credits_used > 0 AND operations > 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE credits.usage_stats IS
'The ledger''s usage rows added up per user, day and app, so that a chart needs no scan of the ledger';
COMMENT ON COLUMN credits.usage_stats.user_id IS 'Whose usage';
COMMENT ON COLUMN credits.usage_stats.day IS 'The day, in UTC';
COMMENT ON COLUMN credits.usage_stats.app_id IS 'The app, as in the ledger';
COMMENT ON COLUMN credits.usage_stats.credits_used IS 'Credits debited, refunds not subtracted';
COMMENT ON COLUMN credits.usage_stats.operations IS 'How many debits';

CREATE TABLE credits.reservations (
    user_id text NOT NULL,
    id uuid NOT NULL,
    amount bigint NOT NULL,
    reason text NOT NULL,
    status credits.reservation_status NOT NULL DEFAULT 'open',
    committed_amount bigint,
    transaction_id uuid,
    idempotency_key text,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    resolved_at timestamptz,
    CONSTRAINT reservations_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT reservations_id_key UNIQUE (id),
    CONSTRAINT reservations_user_id_fkey FOREIGN KEY (user_id) REFERENCES credits.balances (user_id),
    CONSTRAINT reservations_amount_check CHECK (amount > 0),
    CONSTRAINT reservations_texts_check CHECK (
        char_length(reason) BETWEEN 1 AND 200 AND char_length(idempotency_key) BETWEEN 1 AND 255
    ),
    CONSTRAINT reservations_resolution_check CHECK (
        (status = 'open') = (resolved_at IS NULL)
        AND (status = 'committed') = (committed_amount IS NOT NULL)
        AND (status = 'committed') = (transaction_id IS NOT NULL)
        AND (committed_amount IS NULL OR committed_amount BETWEEN 1 AND amount)
    )
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX reservations_idempotency_key
ON credits.reservations (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX reservations_open_expiry ON credits.reservations (expires_at) WHERE status = 'open';
COMMENT ON TABLE credits.reservations IS
'Credits held for a call that is under way. A hold writes no ledger row; its commit does';
COMMENT ON COLUMN credits.reservations.user_id IS 'Whose credits are held';
COMMENT ON COLUMN credits.reservations.id IS 'The reservation''s id, drawn before the call';
COMMENT ON COLUMN credits.reservations.amount IS 'Credits held';
COMMENT ON COLUMN credits.reservations.reason IS 'What for; the part before the first colon is the app of the commit';
COMMENT ON COLUMN credits.reservations.status IS 'open, or how it ended';
COMMENT ON COLUMN credits.reservations.committed_amount IS 'Credits debited by the commit; the rest went back';
COMMENT ON COLUMN credits.reservations.transaction_id IS 'The commit''s ledger row';
COMMENT ON COLUMN credits.reservations.idempotency_key IS 'The service''s key; it shares one key space with the services'' debits and refunds';
COMMENT ON COLUMN credits.reservations.expires_at IS 'When a job may give the credits back; until it has, a commit still works';
COMMENT ON COLUMN credits.reservations.created_at IS 'When the credits were held';
COMMENT ON COLUMN credits.reservations.resolved_at IS 'When it ended';

CREATE TABLE credits.keyed_calls (
    user_id text NOT NULL,
    origin credits.origin NOT NULL,
    idempotency_key text NOT NULL,
    operation text NOT NULL,
    subject text NOT NULL,
    result jsonb,
    created_at timestamptz NOT NULL,
    CONSTRAINT keyed_calls_pkey PRIMARY KEY (user_id, origin, idempotency_key),
    CONSTRAINT keyed_calls_user_id_fkey FOREIGN KEY (user_id) REFERENCES credits.balances (user_id),
    CONSTRAINT keyed_calls_idempotency_key_check CHECK (char_length(idempotency_key) BETWEEN 1 AND 255),
    CONSTRAINT keyed_calls_origin_check CHECK (origin IN ('user', 'service'))
);
COMMENT ON TABLE credits.keyed_calls IS
'The idempotency keys of calls that make no row of their own which could hold it: activations, redemptions, cancellations, commits, returned holds';
COMMENT ON COLUMN credits.keyed_calls.user_id IS 'Whose credits moved';
COMMENT ON COLUMN credits.keyed_calls.origin IS 'Who chose the key';
COMMENT ON COLUMN credits.keyed_calls.idempotency_key IS 'The key; it shares one key space with the ledger, reservations and purchases';
COMMENT ON COLUMN credits.keyed_calls.operation IS 'The function that was called';
COMMENT ON COLUMN credits.keyed_calls.subject IS 'What the call was about, such as the gift or the interval: the same key for anything else is refused';
COMMENT ON COLUMN credits.keyed_calls.result IS 'The first answer, where it cannot be told from the state any more';
COMMENT ON COLUMN credits.keyed_calls.created_at IS 'When the key was used';

CREATE TABLE credits.packages (
    id uuid NOT NULL,
    name text NOT NULL,
    description text,
    credits bigint NOT NULL,
    price_euro_cents bigint NOT NULL,
    stripe_price_id text,
    active boolean NOT NULL DEFAULT true,
    sort_order integer NOT NULL DEFAULT 0,
    metadata jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT packages_pkey PRIMARY KEY (id),
    CONSTRAINT packages_amounts_check CHECK (
        credits BETWEEN 1 AND 1000000000 AND price_euro_cents BETWEEN 1 AND 99999999
    ),
    CONSTRAINT packages_texts_check CHECK (char_length(name) BETWEEN 1 AND 200)
);
COMMENT ON TABLE credits.packages IS 'What can be bought';
COMMENT ON COLUMN credits.packages.id IS 'Chosen by whoever adds the package';
COMMENT ON COLUMN credits.packages.name IS 'For people, also on Stripe''s page';
COMMENT ON COLUMN credits.packages.description IS 'For people';
COMMENT ON COLUMN credits.packages.credits IS 'Credits that a purchase gives';
COMMENT ON COLUMN credits.packages.price_euro_cents IS 'Price in euro cents; Stripe takes at most 999,999.99 euros';
COMMENT ON COLUMN credits.packages.stripe_price_id IS 'Stripe''s price, for whoever keeps one; purchases name their amount themselves';
COMMENT ON COLUMN credits.packages.active IS 'Whether it is shown and can be bought';
COMMENT ON COLUMN credits.packages.sort_order IS 'Order of display, smallest first';
COMMENT ON COLUMN credits.packages.metadata IS 'For the apps';
COMMENT ON COLUMN credits.packages.created_at IS 'When it was added';
COMMENT ON COLUMN credits.packages.updated_at IS 'When it last changed';

CREATE TABLE credits.stripe_customers (
    user_id text NOT NULL,
    stripe_customer_id text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT stripe_customers_pkey PRIMARY KEY (user_id),
    CONSTRAINT stripe_customers_stripe_customer_id_key UNIQUE (stripe_customer_id),
    CONSTRAINT stripe_customers_user_id_fkey FOREIGN KEY (user_id) REFERENCES credits.balances (user_id)
);
COMMENT ON TABLE credits.stripe_customers IS 'The one Stripe customer of a user';
COMMENT ON COLUMN credits.stripe_customers.user_id IS 'The user';
COMMENT ON COLUMN credits.stripe_customers.stripe_customer_id IS 'Stripe''s id: cus_…';
COMMENT ON COLUMN credits.stripe_customers.created_at IS 'When they were linked';

CREATE TABLE credits.purchases (
    user_id text NOT NULL,
    id uuid NOT NULL,
    package_id uuid NOT NULL,
    credits bigint NOT NULL,
    price_euro_cents bigint NOT NULL,
    status credits.purchase_status NOT NULL DEFAULT 'pending',
    failure text,
    stripe_customer_id text,
    stripe_payment_intent_id text,
    stripe_checkout_session_id text,
    stripe_checkout_url text,
    success_url text,
    cancel_url text,
    transaction_id uuid,
    idempotency_key text,
    metadata jsonb,
    polled_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    completed_at timestamptz,
    CONSTRAINT purchases_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT purchases_id_key UNIQUE (id),
    CONSTRAINT purchases_stripe_payment_intent_id_key UNIQUE (stripe_payment_intent_id),
    CONSTRAINT purchases_stripe_checkout_session_id_key UNIQUE (stripe_checkout_session_id),
    CONSTRAINT purchases_user_id_fkey FOREIGN KEY (user_id) REFERENCES credits.balances (user_id),
    CONSTRAINT purchases_package_id_fkey FOREIGN KEY (package_id) REFERENCES credits.packages (id),
    CONSTRAINT purchases_amounts_check CHECK (credits > 0 AND price_euro_cents > 0),
    CONSTRAINT purchases_credited_check CHECK (
        (status IN ('pending', 'failed', 'cancelled')) = (transaction_id IS NULL)
        AND (transaction_id IS NULL) = (completed_at IS NULL)
    ),
    CONSTRAINT purchases_urls_check CHECK ((success_url IS NULL) = (cancel_url IS NULL)),
    CONSTRAINT purchases_idempotency_key_check CHECK (char_length(idempotency_key) BETWEEN 1 AND 255)
);
CREATE UNIQUE INDEX purchases_idempotency_key
ON credits.purchases (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
COMMENT ON TABLE credits.purchases IS
'What users buy. The row is there before Stripe is asked, so that no payment can come for an unknown one';
COMMENT ON COLUMN credits.purchases.user_id IS 'Who buys';
COMMENT ON COLUMN credits.purchases.id IS 'The purchase''s id (UUIDv7): also Stripe''s idempotency key, and in the metadata of its payment';
COMMENT ON COLUMN credits.purchases.package_id IS 'What was bought';
COMMENT ON COLUMN credits.purchases.credits IS 'Credits to give, as the package was when the purchase began';
COMMENT ON COLUMN credits.purchases.price_euro_cents IS 'What must be paid, in euro cents, as the package was when the purchase began';
COMMENT ON COLUMN credits.purchases.status IS 'Where the payment stands';
COMMENT ON COLUMN credits.purchases.failure IS 'Why it failed last, for support';
COMMENT ON COLUMN credits.purchases.stripe_customer_id IS 'Stripe''s customer: cus_…';
COMMENT ON COLUMN credits.purchases.stripe_payment_intent_id IS 'Stripe''s PaymentIntent: pi_…';
COMMENT ON COLUMN credits.purchases.stripe_checkout_session_id IS 'Stripe''s Checkout Session: cs_…, where the buyer was sent to Stripe''s page';
COMMENT ON COLUMN credits.purchases.stripe_checkout_url IS 'Stripe''s page for this purchase';
COMMENT ON COLUMN credits.purchases.success_url IS 'Where Stripe''s page sends a buyer who has paid; null: no Checkout Session';
COMMENT ON COLUMN credits.purchases.cancel_url IS 'Where Stripe''s page sends a buyer who gave up';
COMMENT ON COLUMN credits.purchases.transaction_id IS 'The ledger row that gave the credits';
COMMENT ON COLUMN credits.purchases.idempotency_key IS 'The user''s key; it shares one key space with his debits and gifts';
COMMENT ON COLUMN credits.purchases.metadata IS 'Facts for support';
COMMENT ON COLUMN credits.purchases.polled_at IS 'When Stripe was last asked about it';
COMMENT ON COLUMN credits.purchases.created_at IS 'When it began';
COMMENT ON COLUMN credits.purchases.updated_at IS 'When it last changed';
COMMENT ON COLUMN credits.purchases.completed_at IS 'When the credits were given';

CREATE TABLE credits.stripe_events (
    id text NOT NULL,
    type text NOT NULL,
    state credits.stripe_event_state NOT NULL DEFAULT 'received',
    outcome text,
    error text,
    attempts integer NOT NULL DEFAULT 0,
    payload jsonb,
    created_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    applied_at timestamptz,
    CONSTRAINT stripe_events_pkey PRIMARY KEY (id),
    CONSTRAINT stripe_events_error_check CHECK ((state = 'failed') = (error IS NOT NULL))
);
CREATE INDEX stripe_events_payloads ON credits.stripe_events (received_at)
WHERE payload IS NOT NULL;
COMMENT ON TABLE credits.stripe_events IS
'Every verified event that Stripe sent, once by its id, with what became of it';
COMMENT ON COLUMN credits.stripe_events.id IS 'Stripe''s id: evt_…';
COMMENT ON COLUMN credits.stripe_events.type IS 'Stripe''s type, such as payment_intent.succeeded';
COMMENT ON COLUMN credits.stripe_events.state IS 'What became of it';
COMMENT ON COLUMN credits.stripe_events.outcome IS 'What it did, in a word';
COMMENT ON COLUMN credits.stripe_events.error IS 'Why it could not be applied';
COMMENT ON COLUMN credits.stripe_events.attempts IS 'How often it was tried';
COMMENT ON COLUMN credits.stripe_events.payload IS 'The event as Stripe sent it; cleared by the pruning job once it is old, the id stays';
COMMENT ON COLUMN credits.stripe_events.created_at IS 'When Stripe made it';
COMMENT ON COLUMN credits.stripe_events.received_at IS 'When it first came';
COMMENT ON COLUMN credits.stripe_events.applied_at IS 'When it was applied';

CREATE TABLE credits.stripe_refunds (
    user_id text NOT NULL,
    id text NOT NULL,
    purchase_id uuid NOT NULL,
    amount_euro_cents bigint NOT NULL,
    credits bigint NOT NULL,
    status text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT stripe_refunds_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT stripe_refunds_id_key UNIQUE (id),
    CONSTRAINT stripe_refunds_purchase_fkey FOREIGN KEY (user_id, purchase_id)
    REFERENCES credits.purchases (user_id, id),
    CONSTRAINT stripe_refunds_amounts_check CHECK (amount_euro_cents > 0 AND credits >= 0)
);
COMMENT ON TABLE credits.stripe_refunds IS
'Stripe''s refunds by their ids, so that each takes its credits once';
COMMENT ON COLUMN credits.stripe_refunds.user_id IS 'Whose purchase was refunded';
COMMENT ON COLUMN credits.stripe_refunds.id IS 'Stripe''s id: re_…';
COMMENT ON COLUMN credits.stripe_refunds.purchase_id IS 'The purchase';
COMMENT ON COLUMN credits.stripe_refunds.amount_euro_cents IS 'Money refunded, in euro cents';
COMMENT ON COLUMN credits.stripe_refunds.credits IS 'Credits taken for it, rounded down; 0 once they were given back';
COMMENT ON COLUMN credits.stripe_refunds.status IS 'Stripe''s word for where it stands';
COMMENT ON COLUMN credits.stripe_refunds.created_at IS 'When it was first heard of';
COMMENT ON COLUMN credits.stripe_refunds.updated_at IS 'When it last changed';

CREATE TABLE credits.stripe_disputes (
    user_id text NOT NULL,
    id text NOT NULL,
    purchase_id uuid NOT NULL,
    amount_euro_cents bigint NOT NULL,
    credits bigint NOT NULL,
    status text NOT NULL,
    status_before credits.purchase_status NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT stripe_disputes_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT stripe_disputes_id_key UNIQUE (id),
    CONSTRAINT stripe_disputes_purchase_fkey FOREIGN KEY (user_id, purchase_id)
    REFERENCES credits.purchases (user_id, id),
    CONSTRAINT stripe_disputes_amounts_check CHECK (amount_euro_cents > 0 AND credits >= 0)
);
COMMENT ON TABLE credits.stripe_disputes IS
'Stripe''s disputes by their ids, so that each takes its credits once and gives them back once';
COMMENT ON COLUMN credits.stripe_disputes.user_id IS 'Whose purchase is disputed';
COMMENT ON COLUMN credits.stripe_disputes.id IS 'Stripe''s id: dp_…';
COMMENT ON COLUMN credits.stripe_disputes.purchase_id IS 'The purchase';
COMMENT ON COLUMN credits.stripe_disputes.amount_euro_cents IS 'Money disputed, in euro cents';
COMMENT ON COLUMN credits.stripe_disputes.credits IS 'Credits taken for it, rounded down; 0 once they were given back';
COMMENT ON COLUMN credits.stripe_disputes.status IS 'Stripe''s word for where it stands';
COMMENT ON COLUMN credits.stripe_disputes.status_before IS 'The purchase''s status before, to which it returns when the dispute is won';
COMMENT ON COLUMN credits.stripe_disputes.created_at IS 'When it was first heard of';
COMMENT ON COLUMN credits.stripe_disputes.updated_at IS 'When it last changed';

CREATE TABLE credits.sync_subscriptions (
    user_id text NOT NULL,
    active boolean NOT NULL DEFAULT false,
    gifted boolean NOT NULL DEFAULT false,
    billing_interval credits.sync_interval NOT NULL DEFAULT 'monthly',
    price bigint NOT NULL,
    periods bigint NOT NULL DEFAULT 0,
    anchor_at timestamptz,
    next_charge_month integer,
    next_charge_at timestamptz,
    paid_until timestamptz,
    paused_at timestamptz,
    retry_at timestamptz,
    failures integer NOT NULL DEFAULT 0,
    last_error text,
    announced_for timestamptz,
    last_call_id uuid,
    last_call_charged bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    due_at timestamptz GENERATED ALWAYS AS (
        CASE WHEN active AND NOT gifted THEN coalesce(retry_at, next_charge_at) END
    ) STORED,
    CONSTRAINT sync_subscriptions_pkey PRIMARY KEY (user_id),
    -- Checked at the end, when the balance is locked already: checked at once, it would take a weaker
    -- lock on the balance than the same transaction takes later, and two of these wait in a circle.
    CONSTRAINT sync_subscriptions_user_id_fkey FOREIGN KEY (user_id) REFERENCES credits.balances (user_id)
    DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT sync_subscriptions_price_check CHECK (price > 0),
    CONSTRAINT sync_subscriptions_state_check CHECK (
        (active OR NOT gifted)
        AND (NOT active OR paused_at IS NULL)
        AND ((active AND NOT gifted) = (next_charge_at IS NOT NULL))
        AND (next_charge_at IS NULL OR anchor_at IS NOT NULL)
        AND ((anchor_at IS NULL) = (next_charge_month IS NULL))
        AND ((anchor_at IS NULL) = (paid_until IS NULL))
        AND (retry_at IS NULL OR next_charge_at IS NOT NULL)
        AND (next_charge_month > 0)
        AND (failures >= 0)
        AND (periods >= 0)
    )
) WITH (fillfactor = 80);
CREATE INDEX sync_subscriptions_due ON credits.sync_subscriptions (due_at, user_id)
WHERE due_at IS NOT NULL;
CREATE INDEX sync_subscriptions_waiting ON credits.sync_subscriptions (retry_at)
WHERE retry_at IS NOT NULL;
COMMENT ON TABLE credits.sync_subscriptions IS
'Cloud Sync, one row a user who ever had it. Neither active nor paused: local only';
COMMENT ON COLUMN credits.sync_subscriptions.user_id IS 'The subscriber';
COMMENT ON COLUMN credits.sync_subscriptions.active IS 'Whether the user may sync now';
COMMENT ON COLUMN credits.sync_subscriptions.gifted IS 'On without charges until an administrator revokes it';
COMMENT ON COLUMN credits.sync_subscriptions.billing_interval IS 'How long the next charge lasts';
COMMENT ON COLUMN credits.sync_subscriptions.price IS 'What the next charge takes, in credits: the price at the activation or the last change of interval';
COMMENT ON COLUMN credits.sync_subscriptions.periods IS 'How many periods were charged; the number of a period is the idempotency key of its charge: sync:<number>';
COMMENT ON COLUMN credits.sync_subscriptions.anchor_at IS 'The last activation that charged: every later date is counted from its day, in UTC';
COMMENT ON COLUMN credits.sync_subscriptions.next_charge_month IS 'How many months after the anchor the paid period ends';
COMMENT ON COLUMN credits.sync_subscriptions.next_charge_at IS 'When the next charge is due; null unless active and not gifted';
COMMENT ON COLUMN credits.sync_subscriptions.paid_until IS 'End of what was paid for; it outlives a deactivation and a gift';
COMMENT ON COLUMN credits.sync_subscriptions.paused_at IS 'When the credits ran out; cleared by activating or deactivating';
COMMENT ON COLUMN credits.sync_subscriptions.retry_at IS 'When a charge that failed is tried again; until then the row is not due';
COMMENT ON COLUMN credits.sync_subscriptions.failures IS 'How often the due charge failed';
COMMENT ON COLUMN credits.sync_subscriptions.last_error IS 'Why it failed last';
COMMENT ON COLUMN credits.sync_subscriptions.announced_for IS 'The next_charge_at whose notice went out, so that there is one a charge';
COMMENT ON COLUMN credits.sync_subscriptions.last_call_id IS 'Id of the call that last changed the state, by which a repeated call is known';
COMMENT ON COLUMN credits.sync_subscriptions.last_call_charged IS 'What that call charged, in credits';
COMMENT ON COLUMN credits.sync_subscriptions.created_at IS 'When the user first had it';
COMMENT ON COLUMN credits.sync_subscriptions.updated_at IS 'When this row last changed';
COMMENT ON COLUMN credits.sync_subscriptions.due_at IS 'When the charge job looks at it; null: never';

CREATE TABLE credits.sync_prices (
    billing_interval credits.sync_interval NOT NULL,
    months integer NOT NULL,
    price bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sync_prices_pkey PRIMARY KEY (billing_interval),
    CONSTRAINT sync_prices_amounts_check CHECK (months > 0 AND price > 0)
);
COMMENT ON TABLE credits.sync_prices IS 'What Cloud Sync costs for new activations and changes of interval';
COMMENT ON COLUMN credits.sync_prices.billing_interval IS 'The interval';
COMMENT ON COLUMN credits.sync_prices.months IS 'Its length in months';
COMMENT ON COLUMN credits.sync_prices.price IS 'Its price in credits';
COMMENT ON COLUMN credits.sync_prices.updated_at IS 'When it last changed';

CREATE TABLE credits.operation_prices (
    operation text NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    category text NOT NULL,
    app text,
    cost bigint NOT NULL,
    per integer NOT NULL DEFAULT 1,
    sort_order integer NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT operation_prices_pkey PRIMARY KEY (operation),
    CONSTRAINT operation_prices_amounts_check CHECK (cost > 0 AND per > 0)
);
COMMENT ON TABLE credits.operation_prices IS
'What operations cost, for the apps to show and to charge; the list is data, so that a price changes without a release';
COMMENT ON COLUMN credits.operation_prices.operation IS 'The stable name that apps use';
COMMENT ON COLUMN credits.operation_prices.name IS 'For people';
COMMENT ON COLUMN credits.operation_prices.description IS 'For people';
COMMENT ON COLUMN credits.operation_prices.category IS 'ai, images, research, premium';
COMMENT ON COLUMN credits.operation_prices.app IS 'The app it belongs to, null for all';
COMMENT ON COLUMN credits.operation_prices.cost IS 'Price in credits';
COMMENT ON COLUMN credits.operation_prices.per IS 'For how many uses: 1, or a bundle such as 10 messages';
COMMENT ON COLUMN credits.operation_prices.sort_order IS 'Order of display, smallest first';
COMMENT ON COLUMN credits.operation_prices.updated_at IS 'When it last changed';

CREATE TABLE credits.contacts (
    user_id text NOT NULL,
    email text NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT contacts_pkey PRIMARY KEY (user_id),
    -- At the end, as for sync_subscriptions.
    CONSTRAINT contacts_user_id_fkey FOREIGN KEY (user_id) REFERENCES credits.balances (user_id)
    DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT contacts_email_check CHECK (char_length(email) BETWEEN 3 AND 254 AND email LIKE '%_@_%')
);
COMMENT ON TABLE credits.contacts IS 'The last known address of a user, to which notices go';
COMMENT ON COLUMN credits.contacts.user_id IS 'The user';
COMMENT ON COLUMN credits.contacts.email IS 'From his token, or else from Stripe';
COMMENT ON COLUMN credits.contacts.updated_at IS 'When it was last seen';

CREATE TABLE credits.notices (
    user_id text NOT NULL,
    id uuid NOT NULL,
    kind credits.notice_kind NOT NULL,
    state credits.notice_state NOT NULL DEFAULT 'pending',
    data jsonb NOT NULL,
    recipient text,
    attempts integer NOT NULL DEFAULT 0,
    last_error text,
    next_attempt_at timestamptz,
    created_at timestamptz NOT NULL,
    delivered_at timestamptz,
    CONSTRAINT notices_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT notices_id_key UNIQUE (id),
    CONSTRAINT notices_user_id_fkey FOREIGN KEY (user_id) REFERENCES credits.balances (user_id),
    CONSTRAINT notices_state_check CHECK (
        ((state = 'pending') = (next_attempt_at IS NOT NULL))
        AND ((state = 'delivered') = (delivered_at IS NOT NULL))
        AND (attempts >= 0)
    )
);
CREATE INDEX notices_pending ON credits.notices (next_attempt_at) WHERE state = 'pending';
COMMENT ON TABLE credits.notices IS
'The outbox: notices are written in the transaction they tell of, and sent by the service';
COMMENT ON COLUMN credits.notices.user_id IS 'Whom it is for';
COMMENT ON COLUMN credits.notices.id IS 'Sent as externalId, by which the receiver drops repeats';
COMMENT ON COLUMN credits.notices.kind IS 'What it tells';
COMMENT ON COLUMN credits.notices.state IS 'Where it stands';
COMMENT ON COLUMN credits.notices.data IS 'The facts it tells, from which the service makes the words';
COMMENT ON COLUMN credits.notices.recipient IS 'The address it was last sent to';
COMMENT ON COLUMN credits.notices.attempts IS 'How often it was tried';
COMMENT ON COLUMN credits.notices.last_error IS 'Why the last attempt failed';
COMMENT ON COLUMN credits.notices.next_attempt_at IS 'When it is tried next; while it is being sent, when the sender''s lease ends';
COMMENT ON COLUMN credits.notices.created_at IS 'When it was written';
COMMENT ON COLUMN credits.notices.delivered_at IS 'When the receiver took it';

CREATE TABLE credits.jobs (
    job text NOT NULL,
    description text NOT NULL,
    late_after interval NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT jobs_pkey PRIMARY KEY (job)
);
COMMENT ON TABLE credits.jobs IS
'The scheduled jobs and how long each may go without a success before readiness calls it late';
COMMENT ON COLUMN credits.jobs.job IS 'As in cron/: mana-credits:<job> without the prefix';
COMMENT ON COLUMN credits.jobs.description IS 'What it does';
COMMENT ON COLUMN credits.jobs.late_after IS 'How long after its last success it counts as late';
COMMENT ON COLUMN credits.jobs.since IS 'Since when it is expected to run';

CREATE TABLE credits.job_runs (
    id uuid NOT NULL,
    job text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    did jsonb,
    error text,
    CONSTRAINT job_runs_pkey PRIMARY KEY (id),
    CONSTRAINT job_runs_job_fkey FOREIGN KEY (job) REFERENCES credits.jobs (job)
);
CREATE INDEX job_runs_latest ON credits.job_runs (job, started_at DESC);
COMMENT ON TABLE credits.job_runs IS
'Every run of a job: pg_cron''s own history is in another database and behind row security';
COMMENT ON COLUMN credits.job_runs.id IS 'The run (UUIDv7)';
COMMENT ON COLUMN credits.job_runs.job IS 'The job';
COMMENT ON COLUMN credits.job_runs.started_at IS 'When it began';
COMMENT ON COLUMN credits.job_runs.ended_at IS 'When it ended; null while it runs, and for good where the server stopped under it';
COMMENT ON COLUMN credits.job_runs.did IS 'What it did so far, as counts; brought up to date after every batch';
COMMENT ON COLUMN credits.job_runs.error IS 'Why it failed';

RESET ROLE;
