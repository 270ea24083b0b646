"""The command `mana-credits run`: the whole system on one machine, until Ctrl-C."""

import contextlib
import os
import signal
import sys
from pathlib import Path

from service.dev.login import DEMO_USER
from service.dev.postgres import PostgresError
from service.dev.system import (
    DATABASE,
    Running,
    StopRequestedError,
    System,
    SystemFailedError,
    default_data_dir,
    demo_package_ids,
)
from service.settings import DEVELOPMENT_SERVICE_KEY, Settings

USER = DEMO_USER.sub
_PAGES = (
    ("account", "/", ""),
    ("Cloud Sync", "/settings/sync", ""),
    ("gifts", "/gifts", ""),
    ("support", "/admin", "   (as Support Admin)"),
)


def main(settings: Settings) -> int:
    """Run the system until a signal; 0 then, 1 when it cannot be had or a part of it ends."""
    data_dir = default_data_dir()
    with System(settings, data_dir, _say) as system:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: system.request_stop())
        try:
            running = system.start()
            _say(_welcome(running, data_dir))
            system.wait()
        except StopRequestedError:
            pass
        except (SystemFailedError, PostgresError) as error:
            _complain(str(error))
            return 1
        except OSError as error:
            _complain(f"cannot go on: {error}")
            return 1
        _say("stopping")
    _say("stopped")
    return 0


def _say(line: str) -> None:
    # The terminal may be gone, and everything has to be stopped all the same.
    with contextlib.suppress(OSError):
        print(line, flush=True)


def _complain(line: str) -> None:
    with contextlib.suppress(OSError):
        print(f"mana-credits: {line}", file=sys.stderr, flush=True)


def _welcome(running: Running, data_dir: Path) -> str:
    token = running.token(
        data_dir,
        USER,
        name=DEMO_USER.name,
        email=DEMO_USER.email,
        email_verified=DEMO_USER.email_verified,
    )
    package = next(demo_package_ids())
    key = running.service_key if running.service_key == DEVELOPMENT_SERVICE_KEY else "…"
    port = running.admin_database_url.rsplit(":", 1)[1].split("/")[0]
    json = "-H 'Content-Type: application/json'"
    user = '-H "Authorization: Bearer $TOKEN"'
    internal = f"-H 'X-Service-Key: {key}'"
    grant = f'{{"userId": "{USER}", "amount": 100, "reason": "welcome", "referenceId": "welcome"}}'
    spend = '{"amount": 5, "appId": "chat", "description": "One question"}'
    back = f"{running.base_url}/health"
    buy = f'{{"packageId": "{package}", "successUrl": "{back}", "cancelUrl": "{back}"}}'
    pgpass = _shown(data_dir / "pgpass")
    pages = "\n".join(
        f"  {name:<14} {running.local_url}{path}{more}" for name, path, more in _PAGES
    )
    return f"""
The system is up. Ctrl-C stops it; the data stay in {_shown(data_dir)}.

Open {running.local_url}/ and choose who you are.{_reservation(running)}

{pages}

  service        {running.base_url}
  token issuer   {running.issuer_url}   (POST /api/auth/dev-token {{"sub": "…", "role": "admin"}})
  local Stripe   {running.stripe_url}
  mailbox        {running.mailbox_url}   (the notices that were sent)

A token for the user {USER}, good for a week, and what to do with it:

TOKEN='{token}'
API={running.base_url}/api/v1

# the balance; 100 credits as a gift of the house; spending 5; the history
curl {user} $API/credits/balance
curl {internal} {json} $API/internal/credits/grant -d '{grant}'
curl {user} {json} $API/credits/use -d '{spend}'
curl {user} $API/credits/transactions

# what can be bought; buying: open the checkoutUrl in a browser, pay with test money
curl $API/credits/packages
curl {user} {json} $API/credits/purchase -d '{buy}'

# the database, as its administrator
PGPASSFILE='{pgpass}' psql -h 127.0.0.1 -p {port} -U postgres {DATABASE}
"""


def _reservation(running: Running) -> str:
    if running.signs_in_at_base_url:
        return ""
    return f"""
Under BASE_URL, {running.base_url}, nobody can sign in:
the browser keeps the session for localhost, and sends it to no other site."""


def _shown(path: Path) -> str:
    """Return the path as one would type it from here."""
    with contextlib.suppress(ValueError):
        return os.fspath(path.relative_to(Path.cwd()))
    return os.fspath(path)
