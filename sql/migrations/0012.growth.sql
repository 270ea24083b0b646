-- What large tables and long runs need: where a charge goes on, how far a run is, and how the tables
-- that grow with use are kept clean.
--
-- The index holds the runs that go on, of which there are a handful.
-- squawk-ignore-file require-concurrent-index-creation

SET LOCAL ROLE mana_credits_owner;

ALTER TYPE credits.charge_result ADD ATTRIBUTE last_at timestamptz;
ALTER TYPE credits.charge_result ADD ATTRIBUTE last_key text;
COMMENT ON TYPE credits.charge_result IS
'What a batch of charges did; more tells that something is still due, and the next batch goes on behind last_at and last_key';

ALTER TABLE credits.job_runs
ADD COLUMN total bigint,
ADD COLUMN batches integer NOT NULL DEFAULT 0,
ADD COLUMN last_batch_at timestamptz;
COMMENT ON COLUMN credits.job_runs.total IS 'How much there was to do when it began; null where that was not counted';
COMMENT ON COLUMN credits.job_runs.batches IS 'How many batches it has done';
COMMENT ON COLUMN credits.job_runs.last_batch_at IS 'When its last batch ended';
CREATE INDEX job_runs_open ON credits.job_runs (job) WHERE ended_at IS NULL;

-- The ledger is only ever added to. By default it is vacuumed after a fifth of it is new: at fifty
-- million rows that is ten million at once, and until then a history or a check reads every row's page
-- to see whether it is visible. A fixed number keeps each vacuum the same small size. Freezing early
-- costs little, since nothing changes any more, and leaves no large freeze for later.
ALTER TABLE credits.transactions SET (
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 200000,
    autovacuum_freeze_min_age = 1000000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 500000
);

-- Rows that change in place: pages clean themselves as they are read, but for the index entries of
-- what moved. A fifth of a million dead rows is too much to wait for, and to do at once.
ALTER TABLE credits.balances SET (
    autovacuum_vacuum_scale_factor = 0.05
);
ALTER TABLE credits.usage_stats SET (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 200000
);

-- A charge moves its row in the index of what is due: a run over a million leaves a million dead
-- entries where the next one begins. Statistics follow at the same pace, since how many are due
-- changes from none to all.
ALTER TABLE credits.sync_subscriptions SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

-- Most rows are over, and the few that are open change all the time.
ALTER TABLE credits.reservations SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.05
);
ALTER TABLE credits.notices SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.05
);

RESET ROLE;
