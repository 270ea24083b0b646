-- credits._count_ledger: bring the running totals of the ledger up to date.
--
-- Counts by the time in the rows, a minute late, so that a move that is not committed yet is not
-- passed over: its time is read under the lock on the balance, and the service gives a statement
-- ten seconds. Whatever commits later than that minute is not in these totals; they are for
-- watching, and check_ledger is for being right.
--
-- Locks: the one row of ledger_counting, without waiting: somebody else is counting then.
CREATE OR REPLACE FUNCTION credits._count_ledger(p_now timestamptz)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_until CONSTANT timestamptz := credits._utc_add(p_now, '-1 minute');
    v_since timestamptz;
BEGIN
    SELECT c.counted_until INTO v_since FROM credits.ledger_counting AS c FOR UPDATE SKIP LOCKED;
    IF v_since IS NULL OR v_since >= v_until THEN
        RETURN;
    END IF;
    INSERT INTO credits.ledger_totals AS s (type, direction, moves, credits)
    SELECT
        t.type, CASE WHEN t.amount > 0 THEN 'in' ELSE 'out' END, count(*), sum(abs(t.amount))
    FROM credits.transactions AS t
    WHERE t.created_at > v_since AND t.created_at <= v_until
    GROUP BY 1, 2
    ON CONFLICT (type, direction) DO UPDATE SET
        moves = s.moves + excluded.moves,
        credits = s.credits + excluded.credits;
    UPDATE credits.ledger_counting SET counted_until = v_until;
END
$$;
COMMENT ON FUNCTION credits._count_ledger(timestamptz) IS
'Adds the ledger rows since the last time to ledger_totals, up to a minute before p_now';
