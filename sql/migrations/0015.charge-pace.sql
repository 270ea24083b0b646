-- How a charge run gives way to others: what credits.pace_charges answers.

SET LOCAL ROLE mana_credits_owner;

CREATE TYPE credits.charge_pace AS (
    batch_size integer,
    rest_ms integer,
    seen bigint
);
COMMENT ON TYPE credits.charge_pace IS
'The next batch of a charge run: how many subscriptions, after how many milliseconds of rest; seen is for the call after this one';

RESET ROLE;
