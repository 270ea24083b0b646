"""Sends the notices of the outbox to mana-notify.

At least once, always with the same `externalId`, by which the receiver drops repeats. NOTIFY
wakes the sender; polling finds what a lost NOTIFY left. Several processes share the work: a
notice belongs to whoever claimed it, until its lease ends.
"""

import asyncio
import contextlib
import html
import json
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import aiohttp
import structlog

from service.db import Database, listening
from service.errors import ApiError
from service.queries import notices
from service.queries.notices import Notice
from service.settings import Settings

POLL_SECONDS: Final = 30.0
BATCH: Final = 20
LEASE_SECONDS: Final = 120
"""Longer than a batch can take: BATCH sendings at once, each bounded by SEND_SECONDS."""
LEASE_MARGIN_SECONDS: Final = 10.0
"""Nothing is being sent so long before the lease ends, whatever held the sender up before."""
SEND_SECONDS: Final = 10.0
RETRY_FIRST_SECONDS: Final = 15.0
RETRY_MAX_SECONDS: Final = 86_400.0
ATTEMPTS_MAX: Final = 20
"""About six days of trying; then a person has to look."""
REFUSED_ATTEMPTS_MAX: Final = 8
"""About half an hour for a notice that is itself refused: the time of a bad release over there."""
REFUSED_STATUSES: Final = frozenset({400, 413, 422})
"""The notice is at fault. A wrong key (401), a wrong address (404) and the rest can be mended."""
BUSY_STATUSES: Final = frozenset({429, 503})
"""Their Retry-After is meant for the whole sender, and not for the one notice alone."""
QUIET_MAX_SECONDS: Final = 3600.0
"""How long a Retry-After can keep the sender from trying any other notice."""
KEPT_SECONDS: Final = 3600.0
"""Without MANA_NOTIFY_URL: how long until a notice that was logged is looked at again."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Mail:
    """What a notice says. `body` is HTML, in which everything of a user is escaped."""

    subject: str
    body: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an attempt failed."""

    what: str
    status: int | None = None
    retry_after_seconds: float = 0.0
    """How long the receiver wants to be left alone."""


class Sender:
    """The background task that sends what is due."""

    def __init__(self, db: Database, session: aiohttp.ClientSession, settings: Settings) -> None:
        self._db = db
        self._session = session
        self._url = (
            f"{settings.notify_url}/api/v1/notifications/send" if settings.notify_url else None
        )
        self._key = settings.service_keys[0] if settings.service_keys else ""
        self._base_url = settings.base_url
        self._listen_url = settings.listen_database_url
        self._wake = asyncio.Event()
        self._quiet_until = 0.0
        """In the time of the loop: until then the receiver wants nothing."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Sender"]:
        """Send in the background; at the end a batch under way is finished first."""
        stopping = asyncio.Event()
        listener = asyncio.create_task(
            listening(self._listen_url, notices.CHANNEL, self._wake.set), name="notices-listener"
        )
        sender = asyncio.create_task(self._run(stopping), name="notices-sender")
        try:
            yield self
        finally:
            stopping.set()
            self._wake.set()
            listener.cancel()
            await asyncio.gather(listener, sender, return_exceptions=True)

    async def _run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            self._wake.clear()
            try:
                more = True
                while more and not stopping.is_set() and self._quiet_seconds() == 0:
                    more = await self.send_due() == BATCH
            except ApiError as error:
                _log.warning("the outbox cannot be read", code=error.code)
            except Exception:
                # The task must outlive whatever one notice brings up.
                _log.exception("sending notices failed")
            pause = min(self._quiet_seconds() or POLL_SECONDS, POLL_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def _quiet_seconds(self) -> float:
        return max(self._quiet_until - asyncio.get_running_loop().time(), 0.0)

    async def send_due(self) -> int:
        """Send one batch of what is due, and answer how many notices it held."""
        # From before the claim, since the lease runs on while its answer is on its way.
        deadline = asyncio.get_running_loop().time() + LEASE_SECONDS - LEASE_MARGIN_SECONDS
        batch = await notices.claim_notices(self._db, limit=BATCH, lease_seconds=LEASE_SECONDS)
        # All of them are waited for, also when one cannot be settled: none is left running.
        ends = await asyncio.gather(
            *(self._deal_with(notice, deadline) for notice in batch), return_exceptions=True
        )
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return len(batch)

    async def _deal_with(self, notice: Notice, deadline: float) -> None:
        about = {"notice_id": str(notice.id), "kind": notice.kind, "attempt": notice.attempts}
        if self._url is None:
            _log.info("notice kept: MANA_NOTIFY_URL is not set", **about)
            await self._settle(notice, "pending", retry_in_seconds=KEPT_SECONDS)
            return
        if notice.recipient is None:
            _log.warning("notice undeliverable: no address is known", **about)
            await self._settle(notice, "undeliverable", error="no address is known")
            return
        seconds = min(SEND_SECONDS, deadline - asyncio.get_running_loop().time())
        if seconds <= 0:
            # This process stood still. Somebody may have it by now, or will when the lease ends.
            _log.warning("notice not sent: its lease is over", **about)
            return
        problem = await self._send(self._url, notice, notice.recipient, seconds)
        if problem is None:
            _log.info("notice delivered", **about)
            await self._settle(notice, "delivered")
            return
        if problem.status in BUSY_STATUSES:
            quiet = min(problem.retry_after_seconds, QUIET_MAX_SECONDS)
            self._quiet_until = max(self._quiet_until, asyncio.get_running_loop().time() + quiet)
        refused = problem.status in REFUSED_STATUSES
        if notice.attempts >= (REFUSED_ATTEMPTS_MAX if refused else ATTEMPTS_MAX):
            _log.error("notice failed for good", problem=problem.what, **about)
            await self._settle(notice, "failed", error=problem.what)
        else:
            _log.warning("notice not delivered", problem=problem.what, **about)
            await self._settle(
                notice,
                "pending",
                error=problem.what,
                retry_in_seconds=max(retry_seconds(notice.attempts), problem.retry_after_seconds),
            )

    async def _settle(
        self,
        notice: Notice,
        state: notices.State,
        *,
        error: str | None = None,
        retry_in_seconds: float | None = None,
    ) -> None:
        settled = await notices.settle_notice(
            self._db, notice, state, error=error, retry_in_seconds=retry_in_seconds
        )
        if not settled:
            _log.warning(
                "notice is somebody else's by now", notice_id=str(notice.id), not_written=state
            )

    async def _send(
        self, url: str, notice: Notice, recipient: str, seconds: float
    ) -> Problem | None:
        """One attempt, which takes no longer than `seconds`: None when it was taken."""
        try:
            mail = compose(notice.kind, notice.data, self._base_url)
        except (LookupError, ValueError) as error:
            # Of a newer release, or written by hand: it must not stop the others.
            return Problem(f"no words for it: {error!r}")
        payload = {
            "channel": "email",
            "appId": "sync",
            "userId": notice.user_id,
            "recipient": recipient,
            "externalId": str(notice.id),
            "subject": mail.subject,
            "body": mail.body,
            "data": {**notice.data, "kind": notice.kind},
        }
        try:
            async with self._session.post(
                url,
                data=json.dumps(payload),
                headers={"Content-Type": "application/json", "X-Service-Key": self._key},
                timeout=aiohttp.ClientTimeout(total=seconds),
                # A redirect would carry the key to wherever it points.
                allow_redirects=False,
            ) as answer:
                if 200 <= answer.status < 300:
                    return None
                return Problem(f"HTTP {answer.status}", answer.status, _retry_after(answer.headers))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Problem(type(error).__name__)


def retry_seconds(attempts: int) -> float:
    """How long to wait after the given number of attempts: doubling up to a day, with jitter."""
    ceiling = min(RETRY_FIRST_SECONDS * 2.0 ** (attempts - 1), RETRY_MAX_SECONDS)
    return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - spreads load, hides nothing


def _retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that the receiver asks for (RFC 9110, 10.2.3), at most a day; 0 without."""
    said = headers.get("Retry-After", "").strip()
    # A date is as rare as it is hard to tell from a wrong clock: it is passed over.
    return min(float(said), RETRY_MAX_SECONDS) if said.isascii() and said.isdigit() else 0.0


def compose(kind: str, data: Mapping[str, Any], base_url: str) -> Mail:
    """The words of a notice. Raises LookupError for a kind that has none."""
    settings_url = html.escape(f"{base_url}/settings/sync")
    account_url = html.escape(f"{base_url}/")
    match kind:
        case "sync_paused":
            return Mail(
                "Cloud Sync is paused",
                f"<p>Cloud Sync costs {_text(data['price'])} credits, and your balance is"
                f" {_text(data['available'])}. It is paused; everything on your devices stays"
                " as it is.</p>"
                f'<p><a href="{account_url}">Top up</a>, and then'
                f' <a href="{settings_url}">activate Cloud Sync again</a>.</p>',
            )
        case "charge_coming":
            return Mail(
                "Cloud Sync: your credits will not suffice",
                f"<p>On {_day(data['dueAt'])} Cloud Sync costs {_text(data['price'])} credits, and"
                f" your balance is {_text(data['available'])}. Without more credits it will be"
                " paused; everything on your devices stays as it is.</p>"
                f'<p><a href="{account_url}">Top up</a></p>',
            )
        case "gift_expired":
            return Mail(
                "Your gift was not redeemed",
                f"<p>A gift of {_text(data['credits'])} credits expired on"
                f" {_day(data['expiredAt'])}. The credits are back on your balance.</p>"
                f'<p><a href="{account_url}">Your account</a></p>',
            )
        case _:
            raise LookupError(f"no words for a notice of the kind {kind}")


def _text(value: object) -> str:
    return html.escape(str(value))


def _day(value: object) -> str:
    """The day (UTC) of a time, as 18 May 2026."""
    at = datetime.fromisoformat(str(value))
    return f"{at.day} {at:%B %Y}"
