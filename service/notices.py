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
SEND_SECONDS: Final = 10.0
RETRY_FIRST_SECONDS: Final = 15.0
RETRY_MAX_SECONDS: Final = 86_400.0
ATTEMPTS_MAX: Final = 20
"""About six days of trying; then a person has to look."""
KEPT_SECONDS: Final = 3600.0
"""Without MANA_NOTIFY_URL: how long until a notice that was logged is looked at again."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Mail:
    """What a notice says. `body` is HTML, in which everything of a user is escaped."""

    subject: str
    body: str


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
                while await self.send_due() == BATCH and not stopping.is_set():
                    pass
            except ApiError as error:
                _log.warning("the outbox cannot be read", code=error.code)
            except Exception:
                # The task must outlive whatever one notice brings up.
                _log.exception("sending notices failed")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)

    async def send_due(self) -> int:
        """Send one batch of what is due, and answer how many notices it held."""
        batch = await notices.claim_notices(self._db, limit=BATCH, lease_seconds=LEASE_SECONDS)
        await asyncio.gather(*(self._settle(notice) for notice in batch))
        return len(batch)

    async def _settle(self, notice: Notice) -> None:
        about = {"notice_id": str(notice.id), "kind": notice.kind, "attempt": notice.attempts}
        if self._url is None:
            _log.info("notice kept: MANA_NOTIFY_URL is not set", **about)
            await notices.settle_notice(self._db, notice, "pending", retry_in_seconds=KEPT_SECONDS)
            return
        if notice.recipient is None:
            _log.warning("notice undeliverable: no address is known", **about)
            await notices.settle_notice(
                self._db, notice, "undeliverable", error="no address is known"
            )
            return
        problem, asked_for = await self._send(self._url, notice, notice.recipient)
        if problem is None:
            _log.info("notice delivered", **about)
            await notices.settle_notice(self._db, notice, "delivered")
        elif notice.attempts >= ATTEMPTS_MAX:
            _log.error("notice failed for good", problem=problem, **about)
            await notices.settle_notice(self._db, notice, "failed", error=problem)
        else:
            _log.warning("notice not delivered", problem=problem, **about)
            await notices.settle_notice(
                self._db,
                notice,
                "pending",
                error=problem,
                retry_in_seconds=max(retry_seconds(notice.attempts), asked_for),
            )

    async def _send(self, url: str, notice: Notice, recipient: str) -> tuple[str | None, float]:
        """One attempt: None when it was taken, else what went wrong, and the pause asked for."""
        try:
            mail = compose(notice.kind, notice.data, self._base_url)
        except (LookupError, ValueError) as error:
            # Of a newer release, or written by hand: it must not stop the others.
            return f"no words for it: {error!r}", 0.0
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
                timeout=aiohttp.ClientTimeout(total=SEND_SECONDS),
                # A redirect would carry the key to wherever it points.
                allow_redirects=False,
            ) as answer:
                if 200 <= answer.status < 300:
                    return None, 0.0
                return f"HTTP {answer.status}", _retry_after(answer.headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return type(error).__name__, 0.0


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
