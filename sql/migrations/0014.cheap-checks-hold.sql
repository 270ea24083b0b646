-- The checks of 0013 hold for the rows of before, too. Whoever reads or writes does not wait for it.

SET LOCAL ROLE mana_credits_owner;

ALTER TABLE credits.reservations VALIDATE CONSTRAINT reservations_texts_check;
ALTER TABLE credits.reservations VALIDATE CONSTRAINT reservations_resolution_check;
ALTER TABLE credits.balances VALIDATE CONSTRAINT balances_user_id_check;
ALTER TABLE credits.balances VALIDATE CONSTRAINT balances_signs_check;
ALTER TABLE credits.transactions VALIDATE CONSTRAINT transactions_sign_check;
ALTER TABLE credits.transactions VALIDATE CONSTRAINT transactions_texts_check;
ALTER TABLE credits.usage_stats VALIDATE CONSTRAINT usage_stats_signs_check;

RESET ROLE;
