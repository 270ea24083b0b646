-- A payment's whole life: what Stripe says and when, what is taken back, what is to be asked again.
--
-- These tables have a row a purchase or less, so that an index over them is made in an instant; the
-- column that is dropped was never written.
-- squawk-ignore-file require-concurrent-index-creation, ban-drop-column

SET LOCAL ROLE mana_credits_owner;

ALTER TABLE credits.purchases
ADD COLUMN stripe_status text,
ADD COLUMN stripe_status_at timestamptz,
ADD COLUMN check_at timestamptz,
ADD COLUMN checks integer NOT NULL DEFAULT 0;
UPDATE credits.purchases SET check_at = created_at + interval '10 minutes'
WHERE status IN ('pending', 'failed');
ALTER TABLE credits.purchases
-- squawk-ignore constraint-missing-not-valid
ADD CONSTRAINT purchases_check_at_check CHECK (
    (check_at IS NULL OR status IN ('pending', 'failed')) AND checks >= 0
    AND (stripe_status IS NULL) = (stripe_status_at IS NULL)
);
CREATE INDEX purchases_check_at ON credits.purchases (check_at) WHERE check_at IS NOT NULL;
COMMENT ON COLUMN credits.purchases.stripe_status IS 'Stripe''s word for where the payment stood when it was last heard of: processing, requires_payment_method, succeeded, canceled';
COMMENT ON COLUMN credits.purchases.stripe_status_at IS 'When Stripe said so, to the second: what was said before changes nothing any more';
COMMENT ON COLUMN credits.purchases.check_at IS 'When Stripe is asked about it next, unless it tells before; null: not any more. It is also the lease of whoever asks';
COMMENT ON COLUMN credits.purchases.checks IS 'How often Stripe was asked by itself; the gaps grow with it';

ALTER TABLE credits.stripe_events ADD COLUMN next_attempt_at timestamptz;
-- Events that failed before there was a retry are tried once more.
UPDATE credits.stripe_events SET next_attempt_at = received_at WHERE state = 'failed';
CREATE INDEX stripe_events_next_attempt ON credits.stripe_events (next_attempt_at)
WHERE next_attempt_at IS NOT NULL;
CREATE INDEX stripe_events_open ON credits.stripe_events (state, received_at)
WHERE state IN ('received', 'failed');
COMMENT ON COLUMN credits.stripe_events.next_attempt_at IS 'When reconciliation tries it again: received waits for what Stripe is to be asked, failed for whatever stood in its way, ignored for a payment that may become known. While it is being tried, when that lease ends; null: not any more';

ALTER TABLE credits.stripe_refunds ADD COLUMN moves integer NOT NULL DEFAULT 0;
CREATE INDEX stripe_refunds_purchase ON credits.stripe_refunds (user_id, purchase_id);
COMMENT ON COLUMN credits.stripe_refunds.created_at IS 'When Stripe made it';
COMMENT ON COLUMN credits.stripe_refunds.moves IS 'How many ledger rows it has made; the number of a row is the end of its idempotency key: reversal:<id>:<number>';

CREATE TYPE credits.dispute_phase AS ENUM ('inquiry', 'open', 'lost', 'won');
COMMENT ON TYPE credits.dispute_phase IS
'How far a dispute has come, a later phase winning over an earlier one whatever the order of the events: an inquiry moves nothing, open and lost take credits, won gives them back';
ALTER TABLE credits.stripe_disputes
DROP COLUMN status_before,
ADD COLUMN phase credits.dispute_phase NOT NULL DEFAULT 'inquiry',
ADD COLUMN moves integer NOT NULL DEFAULT 0;
CREATE INDEX stripe_disputes_purchase ON credits.stripe_disputes (user_id, purchase_id);
COMMENT ON COLUMN credits.stripe_disputes.created_at IS 'When Stripe made it';
COMMENT ON COLUMN credits.stripe_disputes.phase IS 'How far it has come, from which follows whether it takes credits';
COMMENT ON COLUMN credits.stripe_disputes.moves IS 'How many ledger rows it has made; the number of a row is the end of its idempotency key: reversal:<id>:<number>';

CREATE TABLE credits.stripe_listing (
    only_row boolean NOT NULL DEFAULT true,
    listed_until timestamptz NOT NULL,
    next_at timestamptz NOT NULL,
    CONSTRAINT stripe_listing_pkey PRIMARY KEY (only_row),
    CONSTRAINT stripe_listing_only_row_check CHECK (only_row)
);
-- Stripe delivers an event for three days at most; what is older was delivered or never will be.
INSERT INTO credits.stripe_listing (listed_until, next_at) VALUES (now() - interval '3 days', now());
COMMENT ON TABLE credits.stripe_listing IS
'How far Stripe''s list of events was read, to find those that no webhook has brought';
COMMENT ON COLUMN credits.stripe_listing.only_row IS 'There is one row';
COMMENT ON COLUMN credits.stripe_listing.listed_until IS 'Every event that Stripe made before is stored here';
COMMENT ON COLUMN credits.stripe_listing.next_at IS 'When the list is read again; while somebody reads it, when his lease ends';

ALTER TYPE credits.stripe_event_result ADD ATTRIBUTE needs_refunds_of text;
COMMENT ON TYPE credits.stripe_event_result IS
'What became of a Stripe event; repeated tells that it had been dealt with before; needs_refunds_of names the PaymentIntent whose refunds Stripe is to be asked for, to be handed to apply_stripe_refunds';

RESET ROLE;
