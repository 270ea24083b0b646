-- What a commit costs here, and nothing else.
SELECT pg_logical_emit_message(true, 'bench', 'a commit');
