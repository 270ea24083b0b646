"""What the service's own login may do beyond what it should."""

from service.db import Database

_MIGHTY_ROLE = """
SELECT r.rolname::text
FROM pg_catalog.pg_roles AS r
WHERE pg_catalog.pg_has_role(session_user, r.oid, 'MEMBER')
  AND (
      r.rolsuper
      OR r.rolname = 'mana_credits_owner'
      OR r.oid IN (SELECT n.nspowner FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'credits')
      -- Before PostgreSQL 16 such a role can make itself a member of any other.
      OR (r.rolcreaterole AND pg_catalog.current_setting('server_version_num')::integer < 160000)
  )
ORDER BY r.rolname = session_user DESC, r.rolname
LIMIT 1
"""


async def mighty_role(db: Database) -> str | None:
    """The name of a role that the login is or can become and that rules over the ledger, or None.

    That is a superuser, the owner of the tables, or one that can grant itself their role.
    """
    name: str | None = await db.value(_MIGHTY_ROLE)
    return name
