-- Who called what how often within the last minute, for limits that hold over all processes.

SET LOCAL ROLE mana_credits_owner;

CREATE UNLOGGED TABLE credits.rate_limits (
    subject text NOT NULL,
    taken timestamptz [] NOT NULL,
    kept_until timestamptz NOT NULL,
    CONSTRAINT rate_limits_pkey PRIMARY KEY (subject),
    CONSTRAINT rate_limits_subject_check CHECK (char_length(subject) BETWEEN 1 AND 200)
) WITH (fillfactor = 50);
CREATE INDEX rate_limits_kept_until ON credits.rate_limits (kept_until);
COMMENT ON TABLE credits.rate_limits IS
'Turns that were taken lately. Unlogged: after a crash everybody begins anew, and no backup has it';
COMMENT ON COLUMN credits.rate_limits.subject IS 'The limit''s name and, as a keyed hash, who is counted: a user or an address';
COMMENT ON COLUMN credits.rate_limits.taken IS 'When turns were taken, oldest first, as many as count';
COMMENT ON COLUMN credits.rate_limits.kept_until IS 'From then on the row says nothing any more and is deleted';

RESET ROLE;
