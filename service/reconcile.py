"""Asks Stripe about what its webhooks should have told, so that a day without them heals by itself.

Three things, at the start and every minute: stored events that wait for another try, purchases
that stay open, and events that no webhook has brought. Several processes share the work: each
piece is leased in its row before Stripe is asked, and no lock is held meanwhile. What goes wrong
about one of them does not stop the others; only where Stripe or the database is away does the
round end.

A purchase for which Stripe was asked but whose answer was lost is left alone: without that answer
nobody got a secret or a page to pay with. Its buyer repeats the call with his key, and should a
payment of it succeed all the same, its event names the purchase.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog

from service import purchasing
from service.db import Database, listening
from service.errors import ApiError
from service.metrics import Metrics
from service.payments import Event, PaymentProviderError, PaymentRefusedError
from service.queries import purchases, stripe_events
from service.queries.purchases import Purchase
from service.queries.stripe_events import EventResult
from service.settings import Settings

if TYPE_CHECKING:
    from service.stripe_gateway import StripeGateway

ROUND_SECONDS: Final = 60.0
CLAIMED_AT_ONCE: Final = 1
"""What is claimed and not done waits for its next turn, up to a day: Stripe being away, or a stop
of the service, costs only one of them its turn."""
EVENT_LEASE_SECONDS: Final = 120
"""Longer than one event takes, which may ask Stripe for several pages of 15 s."""
LISTING_LEASE_SECONDS: Final = 900
FETCHED_AT_ONCE: Final = 2000
"""Missing events that are held in memory; where there are more, the list is read again."""

_log = structlog.get_logger(__name__)


class Reconciler:
    """The background task that asks Stripe."""

    def __init__(
        self, db: Database, stripe: "StripeGateway", settings: Settings, metrics: Metrics
    ) -> None:
        self._db = db
        self._stripe = stripe
        self._listen_url = settings.listen_database_url
        self._metrics = metrics
        self._wake = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Reconciler"]:
        """Work in the background; at the end what is under way is cut off, and its lease ends."""
        tasks = [
            asyncio.create_task(
                listening(self._listen_url, stripe_events.CHANNEL, self._wake.set),
                name="reconcile-listener",
            ),
            asyncio.create_task(self._run(), name="reconcile"),
        ]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            await self.reconcile()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_SECONDS):
                    await self._wake.wait()

    async def reconcile(self) -> None:
        """One round. What goes wrong in it is logged, and its rest is left to the next one."""
        for work in (self.retry_events, self.check_purchases, self.fetch_events):
            try:
                await work()
            except PaymentProviderError as error:
                # The gateway has said why; the leases bring back what is left.
                _log.warning("Stripe cannot be asked", code=error.provider_code)
                return
            except ApiError as error:
                _log.warning("reconciliation was interrupted", code=error.code)
                return
            except Exception:
                # The task must outlive whatever comes up.
                _log.exception("reconciliation failed")

    async def retry_events(self) -> int:
        """Try stored events again that are due; how many there were."""
        done = 0
        while ids := await stripe_events.claim_stripe_events(
            self._db, limit=CLAIMED_AT_ONCE, lease_seconds=EVENT_LEASE_SECONDS
        ):
            for event_id in ids:
                with _apart(event_id=event_id):
                    await self._retry_event(event_id)
            done += len(ids)
        return done

    async def _retry_event(self, event_id: str) -> None:
        await replay_event(self._db, self._stripe, event_id)

    async def check_purchases(self) -> int:
        """Ask about purchases that have been open for too long; how many there were."""
        done = 0
        while batch := await purchases.claim_purchase_checks(self._db, limit=CLAIMED_AT_ONCE):
            for before in batch:
                with _apart(purchase_id=str(before.id)):
                    await self._check_purchase(before)
            done += len(batch)
        return done

    async def _check_purchase(self, before: Purchase) -> None:
        after = await purchasing.follow(self._db, self._stripe, before)
        if after.status != before.status:
            _log.info(
                "a purchase was followed up",
                purchase_id=str(before.id),
                before=before.status,
                status=after.status,
            )

    async def fetch_events(self) -> int:
        """Store and apply the events that no webhook has brought; how many there were."""
        since = await stripe_events.claim_event_listing(
            self._db, lease_seconds=LISTING_LEASE_SECONDS
        )
        if since is None:
            return 0
        # By this clock: the ten minutes that are read again cover how far it is from Stripe's.
        until = datetime.now(UTC)
        try:
            fetched, left = await self._fetch_since(since)
        except BaseException:
            # Nothing new was reached: this only gives the turn back before its lease ends.
            with contextlib.suppress(ApiError):
                await stripe_events.settle_event_listing(self._db, since)
            raise
        await stripe_events.settle_event_listing(self._db, since if left else until)
        if fetched:
            # Refunds among them are to be asked for.
            await self.retry_events()
        return fetched

    async def _fetch_since(self, since: datetime) -> tuple[int, int]:
        """How many missing events were stored, and how many could not be."""
        fetched = 0
        stuck: set[str] = set()
        while True:
            found = 0
            # The list begins with the newest, so that of too many the oldest are kept.
            missing: deque[Event] = deque(maxlen=FETCHED_AT_ONCE)
            async for page in self._stripe.list_events(since):
                unknown = await stripe_events.unknown_stripe_events(
                    self._db, [event.id for event in page]
                )
                for event in page:
                    if event.id in unknown - stuck:
                        missing.append(event)
                        found += 1
            # Oldest first, as they would have come.
            while missing:
                event = missing.pop()
                stuck.add(event.id)
                with _apart(event_id=event.id):
                    await self._store_event(event)
                    stuck.remove(event.id)
                    fetched += 1
            if found <= FETCHED_AT_ONCE:
                return fetched, len(stuck)

    async def _store_event(self, event: Event) -> None:
        result = await stripe_events.apply_stripe_event(
            self._db,
            event_id=event.id,
            type_=event.type,
            created=event.created,
            payload=event.payload,
        )
        self._metrics.stripe_event(event.type, result.state)
        _tell("Stripe event fetched", event.id, result)


async def replay_event(db: Database, stripe: "StripeGateway | None", event_id: str) -> EventResult:
    """Apply a stored event once more, asking Stripe where it takes that. ApiError 400, 404, 502.

    Without Stripe it stays `received`, until somebody can ask.
    """
    result = await stripe_events.replay_stripe_event(db, event_id, asking=stripe is not None)
    if result.needs_refunds_of is not None and stripe is not None:
        refunds = await stripe.list_refunds(result.needs_refunds_of)
        result = await stripe_events.apply_stripe_refunds(db, event_id, refunds)
    _tell("Stripe event tried again", event_id, result)
    return result


@contextlib.contextmanager
def _apart(**about: str) -> Iterator[None]:
    """Log what goes wrong about one thing, unless Stripe or the database is away for all."""
    try:
        yield
    except PaymentRefusedError as error:
        _log.warning("Stripe does not tell about it", code=error.provider_code, **about)
    except ApiError as error:
        if error.status >= 500:
            raise
        _log.warning("it cannot be reconciled", code=error.code, **about)
    except Exception:
        _log.exception("reconciling it failed", **about)


def _tell(what: str, event_id: str, result: EventResult) -> None:
    level = _log.warning if result.state == "failed" else _log.info
    level(
        what,
        event_id=event_id,
        state=result.state,
        outcome=result.outcome,
        error=result.error,
    )
