"""What the doctor looks at, for the most part as the administrator."""

from dataclasses import dataclass
from datetime import datetime

from service.db import Database

_SERVER = """
SELECT pg_catalog.current_setting('server_version_num')::integer AS version,
       pg_catalog.current_setting('server_version') AS version_text,
       pg_catalog.clock_timestamp() AS now,
       session_user::text AS login,
       current_user::text AS role
"""

_SCHEDULED = """
SELECT pg_catalog.split_part(pg_catalog.substr(j.jobname, 14), '@', 1) AS job, j.active
FROM cron.job AS j
WHERE pg_catalog.starts_with(j.jobname, 'mana-credits:') AND j.database = $1
"""

_RUNS = """
SELECT j.job, r.started_at, r.ended_at, r.error
FROM credits.jobs AS j
LEFT JOIN LATERAL (
    SELECT r.started_at, r.ended_at, r.error
    FROM credits.job_runs AS r
    WHERE r.job = j.job
    ORDER BY r.started_at DESC
    LIMIT 1
) AS r ON true
ORDER BY j.job
"""


@dataclass(frozen=True, slots=True)
class Server:
    """Who answers, and as whom."""

    version: int
    version_text: str
    now: datetime
    login: str
    role: str
    database: str


@dataclass(frozen=True, slots=True)
class LastRun:
    """How the last run of an expected job went; all None where it never ran."""

    job: str
    started_at: datetime | None
    ended_at: datetime | None
    error: str | None


async def server(db: Database) -> Server:
    """The server's version and clock, and the login with the role it has taken."""
    row = await db.row(_SERVER)
    return Server(**row, database=await db.value("SELECT pg_catalog.current_database()::text"))


async def scheduled(db: Database, database: str) -> dict[str, bool]:
    """The jobs that pg_cron has for `database`, and whether they are active."""
    return {row["job"]: row["active"] for row in await db.rows(_SCHEDULED, database)}


async def last_runs(db: Database) -> list[LastRun]:
    """The last run of each job that is expected to run."""
    return [LastRun(**row) for row in await db.rows(_RUNS)]


async def ledger_violations(db: Database) -> int:
    """How many violations of the money rules there are; it reads the whole ledger."""
    count: int = await db.value(
        "SELECT pg_catalog.count(*) FROM credits.check_ledger()", seconds=600.0
    )
    return count
