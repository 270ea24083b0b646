-- A debit as whoever may call nothing but the public functions makes it: without an id.
\set n random(1, :users)
SELECT credits.use_credits(
    p_user_id => 'user-' || :n, p_amount => 1, p_app_id => 'chat', p_description => 'A message'
);
