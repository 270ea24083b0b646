"""Sending events to webhook endpoints: signed, in the order they were made, and tried again."""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiohttp

_log = logging.getLogger(__name__)

# Seconds to wait before each further attempt. Stripe goes on for three days; a developer's
# service that was away is back sooner, or not at all.
RETRY_DELAYS = (0.25, 0.5, 1, 2, 4, 8, 15, 30, 30, 30, 60, 60)
_TIMEOUT = aiohttp.ClientTimeout(total=10)


@dataclass(frozen=True)
class Endpoint:
    """Where events go; `events` names the types wanted, None means all."""

    url: str
    secret: str
    events: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Delivery:
    """One event for one endpoint."""

    endpoint_id: str
    endpoint: Endpoint
    event_id: str
    event_type: str
    payload: bytes


def sign(payload: bytes, secret: str, timestamp: int) -> str:
    """Return the Stripe-Signature header for `payload`, sent at `timestamp` (Unix seconds)."""
    signed = f"{timestamp}.".encode() + payload
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


class WebhookSender:
    """Sends each event once, in order; those that fail are tried again beside the others.

    `retry_delays` are the seconds before each further attempt; after the last one the event is
    given up. What is still waiting when the sender stops is lost.
    """

    def __init__(self, retry_delays: Sequence[float] = RETRY_DELAYS) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.delivering = True
        """Otherwise events are lost on their way, for good."""
        self._retry_delays = tuple(retry_delays)
        self._queue: asyncio.Queue[Delivery] = asyncio.Queue()
        self._retries: set[asyncio.Task[None]] = set()

    def schedule(self, event_id: str, event_type: str, payload: bytes) -> None:
        """Send the event to every endpoint that wants its type."""
        if not self.delivering:
            return
        for endpoint_id, endpoint in self.endpoints.items():
            if endpoint.events is None or event_type in endpoint.events:
                self._queue.put_nowait(
                    Delivery(endpoint_id, endpoint, event_id, event_type, payload)
                )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send in the background for as long as the context lasts."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            worker = asyncio.create_task(self._work(session))
            try:
                yield
            finally:
                tasks = [worker, *self._retries]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, session: aiohttp.ClientSession) -> None:
        while True:
            delivery = await self._queue.get()
            if not await self._attempt(session, delivery):
                task = asyncio.create_task(self._retry(session, delivery))
                self._retries.add(task)
                task.add_done_callback(self._retries.discard)

    async def _retry(self, session: aiohttp.ClientSession, delivery: Delivery) -> None:
        for delay in self._retry_delays:
            await asyncio.sleep(delay)
            if await self._attempt(session, delivery):
                return
        _log.warning("%s %s: given up", delivery.event_type, delivery.event_id)

    async def _attempt(self, session: aiohttp.ClientSession, delivery: Delivery) -> bool:
        """Send once; True when nothing is left to do."""
        if not self.delivering or self.endpoints.get(delivery.endpoint_id) != delivery.endpoint:
            return True
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            # Signed anew at each attempt: receivers refuse old timestamps.
            "Stripe-Signature": sign(delivery.payload, delivery.endpoint.secret, int(time.time())),
        }
        try:
            async with session.post(
                delivery.endpoint.url,
                data=delivery.payload,
                headers=headers,
                allow_redirects=False,
            ) as response:
                outcome = str(response.status)
                done = 200 <= response.status < 300
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            outcome = f"{type(error).__name__} {error}"
            done = False
        _log.info("%s %s: %s", delivery.event_type, delivery.event_id, outcome)
        return done
