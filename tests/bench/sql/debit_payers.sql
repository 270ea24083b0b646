-- As debit_any.sql, of the nine in ten users whom the charges leave enough.
\set n random(0, :users / 10 - 1) * 10 + random(1, 9)
SELECT credits.use_credits(
    p_user_id => 'user-' || :n, p_amount => 1, p_app_id => 'chat', p_description => 'A message'
);
