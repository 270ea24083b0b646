-- Page 1 of anybody's history, as the service asks for it: one row more than is shown.
\set n random(1, :users)
SELECT * FROM credits.list_transactions(p_user_id => 'user-' || :n, p_limit => 51);
