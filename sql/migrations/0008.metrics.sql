-- What operators watch: running totals of the ledger, and the indexes that make looking cheap.
-- squawk-ignore-file require-concurrent-index-creation

SET LOCAL ROLE mana_credits_owner;

-- The ledger is written in the order of its times, but for what waited; a block range index over
-- that is next to nothing to keep, and finds the rows of the last minutes.
CREATE INDEX transactions_created_at ON credits.transactions
USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX notices_stuck ON credits.notices (state) WHERE state IN ('failed', 'undeliverable');

CREATE TABLE credits.ledger_totals (
    type credits.transaction_type NOT NULL,
    direction text NOT NULL,
    moves bigint NOT NULL,
    credits bigint NOT NULL,
    CONSTRAINT ledger_totals_pkey PRIMARY KEY (type, direction),
    CONSTRAINT ledger_totals_check CHECK (direction IN ('in', 'out') AND moves >= 0 AND credits >= 0)
);
COMMENT ON TABLE credits.ledger_totals IS
'How much has moved since the counting began, for metrics; whoever reads them brings it up to date';
COMMENT ON COLUMN credits.ledger_totals.type IS 'Type of the ledger rows';
COMMENT ON COLUMN credits.ledger_totals.direction IS 'in: positive amounts; out: negative ones';
COMMENT ON COLUMN credits.ledger_totals.moves IS 'How many rows';
COMMENT ON COLUMN credits.ledger_totals.credits IS 'Sum of their amounts, as a positive number of credits';

CREATE TABLE credits.ledger_counting (
    only_row boolean NOT NULL DEFAULT true,
    counted_until timestamptz NOT NULL,
    CONSTRAINT ledger_counting_pkey PRIMARY KEY (only_row),
    CONSTRAINT ledger_counting_only_row_check CHECK (only_row)
);
INSERT INTO credits.ledger_counting (counted_until) VALUES (now());
COMMENT ON TABLE credits.ledger_counting IS 'How far ledger_totals has counted';
COMMENT ON COLUMN credits.ledger_counting.only_row IS 'There is one row';
COMMENT ON COLUMN credits.ledger_counting.counted_until IS 'Ledger rows of before are counted';

CREATE TYPE credits.metric AS (
    name text,
    label text,
    value bigint
);
COMMENT ON TYPE credits.metric IS 'A figure for operators, and what it is of, where there are several';

RESET ROLE;
