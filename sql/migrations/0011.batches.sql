-- What a batch of calls takes and answers: many calls in one statement and one commit.

SET LOCAL ROLE mana_credits_owner;

CREATE TYPE credits.batch_operation AS ENUM (
    'use_credits', 'refund_credits', 'grant_credits', 'reserve_credits', 'commit_reservation',
    'refund_reservation'
);
COMMENT ON TYPE credits.batch_operation IS 'The function whose call stands in a batch';

CREATE TYPE credits.batch_call AS (
    operation credits.batch_operation,
    user_id text,
    id uuid,
    amount bigint,
    app_id text,
    description text,
    idempotency_key text,
    metadata jsonb,
    origin credits.origin,
    transaction_id uuid,
    reservation_id uuid,
    reason text,
    reference_id text,
    expires_in_seconds integer
);
COMMENT ON TYPE credits.batch_call IS
'One call: operation names the function, the others are its parameters of the same names, and null where it has none';

CREATE TYPE credits.decision AS (
    made credits.move,
    wanted credits.new_move
);
COMMENT ON TYPE credits.decision IS
'What a call comes to: a move that was made before, or one that may be made now; the other has a null id or user';

CREATE TYPE credits.batch_outcome AS (
    place integer,
    alone boolean,
    error text,
    detail text,
    move credits.move,
    hold credits.hold,
    committed credits.committed_hold
);
COMMENT ON TYPE credits.batch_outcome IS
'What became of the call at that place of the array (from 1): an answer, or the SQLSTATE and DETAIL that its function raises; alone: nothing was done, and its function must be called for it';
