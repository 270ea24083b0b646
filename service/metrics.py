"""Prometheus metrics: what this process has seen, and what the database says.

With several processes (`serve --workers`) each keeps its figures in files that all of them read,
so that whichever answers a scrape tells the sum. The files are named by the worker's place: who
takes the place of one that died goes on with what that has counted, and they stay as many.
prometheus-client decides that when it is imported, by PROMETHEUS_MULTIPROC_DIR, which the parent
of the workers sets. What the database says is the same from every process.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    values,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service.db import Database
from service.logs import RequestLine
from service.payments import EVENT_TYPES
from service.queries import metrics
from service.queries.metrics import Figure
from service.workers import MULTIPROCESS

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
FRESH_SECONDS: Final = 5.0
"""How long what the database said is told again, so that scrapes put no load on it."""
WATCH_SECONDS: Final = 1.0
"""How old the pool's figures of a process can be where another one answers the scrape."""
_SIZES: Final = (2, 4, 8, 16, 32, 64)
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_log = structlog.get_logger(__name__)


def count_as(worker: int) -> None:
    """Keep the figures of this process in the files of that place; before any Metrics are made."""
    # The way that prometheus-client describes for servers that number their workers.
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: worker)  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one application."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._registry = CollectorRegistry()
        self._figures: list[Figure] | None = None
        self._read_at: float | None = None
        self._reading = asyncio.Lock()
        self._requests = Histogram(
            "mana_credits_http_request_duration_seconds",
            "Time to answer a request, by its route's template and its answer's status",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._children: dict[tuple[str, str, int], Histogram] = {}
        self._stripe_events = Counter(
            "mana_credits_stripe_events_received_total",
            "Stripe events that were received or fetched, by type and what became of them",
            ("type", "state"),
            registry=self._registry,
        )
        self._unkeyed_refunds = Counter(
            "mana_credits_unkeyed_refunds_total",
            "Refunds without an idempotency key or a transaction, which a retry would do twice",
            registry=self._registry,
        )
        self._batches = Histogram(
            "mana_credits_batch_calls",
            "Calls that went together as one statement, by their kind",
            ("kind",),
            buckets=_SIZES,
            registry=self._registry,
        )
        db.watch_batches(lambda kind, calls: self._batches.labels(kind).observe(calls))
        self._waiting = Gauge(
            "mana_credits_batch_calls_waiting",
            "Calls that have not been sent to the database yet, by their kind",
            ("kind",),
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._pool = Gauge(
            "mana_credits_database_pool_connections",
            "Connections to the database: open, of those idle, and how many there may be",
            ("state",),
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        ProcessCollector(registry=self._registry)

    def requests(self, lines: Sequence[RequestLine]) -> None:
        """Count requests that have ended."""
        for line in lines:
            labels = (line.method, line.route, line.status)
            child = self._children.get(labels)
            if child is None:
                # Finding one by its labels takes longer than counting in it.
                child = self._children[labels] = self._requests.labels(*map(str, labels))
            child.observe(line.ms / 1000)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator["Metrics"]:
        """Keep what no event tells up to date, for the scrapes that other processes answer."""
        task = asyncio.create_task(self._watch(), name="metrics")
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self._watch_pool()
            await asyncio.sleep(WATCH_SECONDS)

    def _watch_pool(self) -> None:
        open_, idle, most = self._db.pool_use()
        self._pool.labels("open").set(open_)
        self._pool.labels("idle").set(idle)
        self._pool.labels("max").set(most)
        for kind, calls in self._db.waiting_calls().items():
            self._waiting.labels(kind).set(calls)

    def stripe_event(self, type_: str, state: str) -> None:
        """A Stripe event was dealt with."""
        self._stripe_events.labels(type_ if type_ in EVENT_TYPES else "other", state).inc()

    def unkeyed_refund(self) -> None:
        """A refund came that a retry would do twice."""
        self._unkeyed_refunds.inc()

    async def expose(self) -> bytes:
        """Everything, in Prometheus' text format."""
        self._watch_pool()
        registry = CollectorRegistry()
        registry.register(_Figures(await self._read()))
        if MULTIPROCESS in os.environ:
            _AllProcesses(registry)  # type: ignore[no-untyped-call]
            # Every figure of every worker is read from its file, which takes its time.
            return await asyncio.to_thread(generate_latest, registry)
        return self.counted() + generate_latest(registry)

    def counted(self) -> bytes:
        """What this process has seen, in Prometheus' text format."""
        return generate_latest(self._registry)

    async def _read(self) -> list[Figure] | None:
        """What the database says, at most FRESH_SECONDS old; None while it is away."""
        async with self._reading:
            # A failure is kept as long: scrapes must not queue up before a database that hangs.
            if self._read_at is None or time.monotonic() - self._read_at >= FRESH_SECONDS:
                try:
                    self._figures = await metrics.read_metrics(self._db)
                except Exception as error:
                    # Away, hanging, or not migrated: what the process has counted is told anyway.
                    _log.warning(
                        "the database's metrics cannot be read", cause=type(error).__name__
                    )
                    self._figures = None
                self._read_at = time.monotonic()
            return self._figures


class _AllProcesses(MultiProcessCollector):
    """What all processes have seen, but for a file that one of them is about to begin."""

    def collect(self) -> Iterator[Metric]:
        # A file is made empty, and gets its length at once, before anything is in it.
        files = []
        for file in Path(self._path).glob("*.db"):
            with contextlib.suppress(FileNotFoundError):  # of one that has died
                if file.stat().st_size > 0:
                    files.append(str(file))
        yield from self.merge(files)  # type: ignore[no-untyped-call]


# The figure's name in SQL: the metric, its label if it has one, and what it says.
_GAUGES: Final[dict[str, tuple[str, str | None, str]]] = {
    "notices": ("notices", "state", "Notices that wait, failed, or have no address"),
    "notices_oldest": ("notices_oldest_pending_seconds", None, "Age of the oldest that waits"),
    "purchases_pending": ("purchases_pending", None, "Purchases whose payment is open"),
    "purchases_oldest": ("purchases_oldest_pending_seconds", None, "Age of the oldest of them"),
    "job_done": (
        "job_done",
        "job",
        "What the runs of a job that go on have done so far, where its total was counted",
    ),
    "job_total": ("job_total", "job", "How much these runs had to do when they began"),
    "subscriptions_overdue": (
        "subscriptions_overdue",
        None,
        "Subscriptions that are due and not charged, at most 100000",
    ),
    "subscriptions_oldest": (
        "subscriptions_oldest_overdue_seconds",
        None,
        "How long the first of them has been due",
    ),
    "stripe_events": (
        "stripe_events_unsettled",
        "state",
        "Stripe events that failed, or wait for an answer of Stripe",
    ),
    "ledger_violations": ("ledger_violations", None, "What the last ledger check found"),
}


class _Figures(Collector):
    """What the database says, as metrics."""

    def __init__(self, figures: Iterable[Figure] | None) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("mana_credits_database_up", "Whether the database answers")
        up.add_metric([], 0 if self._figures is None else 1)
        yield up
        if self._figures is None:
            return
        by_name: dict[str, list[Figure]] = {}
        for figure in self._figures:
            by_name.setdefault(figure.name, []).append(figure)

        for name, (metric, label, text) in _GAUGES.items():
            gauge = GaugeMetricFamily(
                f"mana_credits_{metric}", text, labels=[label] if label else []
            )
            for figure in by_name.get(name, ()):
                gauge.add_metric([figure.label or ""] if label else [], figure.value)
            yield gauge

        at = GaugeMetricFamily(
            "mana_credits_job_last_success_timestamp_seconds",
            "When each job last succeeded, or since when it should have",
            labels=["job"],
        )
        ago = GaugeMetricFamily(
            "mana_credits_job_since_last_success_seconds",
            "How long ago that was",
            labels=["job"],
        )
        for figure in by_name.get("job_last_success", ()):
            at.add_metric([figure.label or ""], figure.value)
            ago.add_metric([figure.label or ""], max(time.time() - figure.value, 0))
        yield at
        yield ago

        for name, metric, text in (
            ("moves", "ledger_moves", "Rows of the ledger, a minute late, by type and direction"),
            ("credits", "ledger_credits", "Credits moved by them, as positive numbers"),
        ):
            counter = CounterMetricFamily(
                f"mana_credits_{metric}", text, labels=["type", "direction"]
            )
            for figure in by_name.get(name, ()):
                counter.add_metric((figure.label or "").split(":"), figure.value)
            yield counter
