-- The same checks as before in fewer words, since a debit pays for every word of them.
--
-- PostgreSQL reads the text of each check of a table anew in every statement that writes to it, and
-- that was more than a third of a debit's CPU. A pattern that counts ({1,128}) is worse: for an id
-- like a UUID it took 39 µs, each time a balance changed; one that looks for a single forbidden
-- character takes 0.6.
--
-- Each check lets through exactly what it let through before. In a check null is not false, so what
-- may be null needs no word of its own. 0014 looks at the rows that are there, behind which nobody has
-- to wait; new ones are checked from here on.
-- squawk-ignore-file ban-drop-constraint

SET LOCAL ROLE mana_credits_owner;

-- In the order in which moves lock them.
ALTER TABLE credits.reservations
DROP CONSTRAINT reservations_texts_check,
ADD CONSTRAINT reservations_texts_check CHECK (
    char_length(reason) <@ int4range '[1,200]'
    AND char_length(idempotency_key) <@ int4range '[1,255]'
) NOT VALID,
DROP CONSTRAINT reservations_resolution_check,
ADD CONSTRAINT reservations_resolution_check CHECK (
    (status = 'open') = (resolved_at IS NULL)
    AND num_nonnulls(committed_amount, transaction_id)
    = CASE WHEN status = 'committed' THEN 2 ELSE 0 END
    AND committed_amount BETWEEN 1 AND amount
) NOT VALID;

ALTER TABLE credits.balances
DROP CONSTRAINT balances_user_id_check,
-- No forbidden character, and neither nothing nor one dot or two; at most 128 characters.
ADD CONSTRAINT balances_user_id_check CHECK (
    user_id !~ '[[:space:][:cntrl:]/?#%{}]|^\.{0,2}$' AND char_length(user_id) <= 128
) NOT VALID,
DROP CONSTRAINT balances_signs_check,
ADD CONSTRAINT balances_signs_check CHECK (
    least(reserved, total_earned, total_spent, last_seq) >= 0
) NOT VALID;

ALTER TABLE credits.transactions
DROP CONSTRAINT transactions_sign_check,
ADD CONSTRAINT transactions_sign_check CHECK (
    amount > 0 AND type <> 'usage'
    OR amount < 0 AND type = ANY('{usage,gift,reversal,forfeiture}')
) NOT VALID,
DROP CONSTRAINT transactions_texts_check,
ADD CONSTRAINT transactions_texts_check CHECK (
    char_length(app_id) <@ int4range '[1,200]'
    AND char_length(description) <= 500
    AND char_length(idempotency_key) <@ int4range '[1,255]'
    AND jsonb_typeof(metadata) = 'object'
) NOT VALID;

ALTER TABLE credits.usage_stats
DROP CONSTRAINT usage_stats_signs_check,
ADD CONSTRAINT usage_stats_signs_check CHECK (least(credits_used, operations) > 0) NOT VALID;

RESET ROLE;
