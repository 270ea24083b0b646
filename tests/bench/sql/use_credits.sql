-- A debit by the function, for pgbench. The service as well draws the id and passes it.
\set n random(1, :users)
SELECT credits.use_credits(
    p_user_id => 'user-' || :n, p_amount => 1, p_app_id => 'chat', p_description => 'A message',
    p_id => credits._new_id()
);
