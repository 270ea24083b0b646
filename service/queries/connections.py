"""How many connections the database gives the service's login."""

from dataclasses import dataclass

from service.db import Database

_ROOM = """
SELECT l.connections, l.name
FROM pg_catalog.pg_roles AS r
CROSS JOIN pg_catalog.pg_database AS d
CROSS JOIN LATERAL (
    VALUES
    (
        pg_catalog.current_setting('max_connections')::integer - CASE
            WHEN r.rolsuper THEN 0
            ELSE pg_catalog.current_setting('superuser_reserved_connections')::integer
        END - CASE
            -- Since PostgreSQL 16 some are kept for those who have that role.
            WHEN r.rolsuper OR EXISTS (
                SELECT FROM pg_catalog.pg_roles AS u
                WHERE u.rolname = 'pg_use_reserved_connections'
                  AND pg_catalog.pg_has_role(session_user, u.oid, 'USAGE')
            ) THEN 0
            ELSE COALESCE(pg_catalog.current_setting('reserved_connections', true)::integer, 0)
        END,
        'max_connections'
    ),
    (r.rolconnlimit, 'the connection limit of the login'),
    (d.datconnlimit, 'the connection limit of the database')
) AS l (connections, name)
WHERE r.rolname = session_user
  AND d.datname = pg_catalog.current_database()
  -- Below 0 it is no limit, and superusers know only the first.
  AND (l.name = 'max_connections' OR l.connections >= 0 AND NOT r.rolsuper)
ORDER BY l.connections
LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Room:
    """What the login may hold at most, others' included, and what says so."""

    connections: int
    limit: str


async def room(db: Database) -> Room | None:
    """The narrowest of the limits; None behind a pooler, whose limits alone decide."""
    row = await db.row(_ROOM)
    return None if db.pooled else Room(row["connections"], row["name"])
