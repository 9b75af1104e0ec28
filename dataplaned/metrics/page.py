"""The page of metrics in the words of Prometheus."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .figures import BackendFigures, Figures
from .measures import Histogram

_Samples: TypeAlias = Iterable[tuple[tuple[str, ...], float | None]]


def render(figures: Figures, accept: str = "") -> tuple[bytes, str]:
    """Write the page.

    Args:
        figures: What is on it.
        accept: What HTTP's header of this name says.

    Returns:
        The page, and its content type.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Page(figures))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Page(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        yield from _of_daemon(self._figures)
        yield from _of_calls(self._figures)
        yield from _of_backends(self._figures.backends)
        yield from _of_stores(self._figures.backends)


def _of_daemon(figures: Figures) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "dataplaned_build", "Version of the daemon.", value={"version": figures.version}
    )
    yield _gauge("start_time_seconds", "When this run began.", (), [((), figures.started_at)])
    yield _gauge("draining", "Whether it is stopping.", (), [((), figures.is_draining)])
    yield _gauge("connections", "Open connections.", ("socket",), _labelled(figures.connections))
    yield _gauge("held_bytes", "Bytes of bodies in memory.", (), [((), figures.held_bytes)])
    yield _histogram(
        "event_loop_lag_seconds",
        "How much later than asked the event loop came.",
        (),
        [((), figures.loop_lag)],
    )
    limiters = [(name, each) for name, several in figures.limiters.items() for each in several]
    purposes = dict.fromkeys(name for name, _ in limiters)
    for word, what, text in (
        ("limit", "total", "Threads that there may be."),
        ("borrowed", "borrowed", "Threads at work."),
        ("waiting", "waiting", "What waits for a thread."),
    ):
        yield _gauge(
            f"threads_{word}",
            text,
            ("purpose",),
            [
                ((purpose,), sum(getattr(each, what) for name, each in limiters if name == purpose))
                for purpose in purposes
            ],
        )
    for name, lost in (("audit", figures.audit_lost), ("log", figures.log_lost)):
        yield _counter(
            f"{name}_lost", f"Records of the {name} that were not written.", (), [((), lost)]
        )


def _of_calls(figures: Figures) -> Iterator[Metric]:
    calls = figures.calls
    yield _counter(
        "calls", "Calls that have ended, by how.", ("op", "code"), list(calls.calls.items())
    )
    yield _counter(
        "outcomes",
        "Calls that went well, by what they found.",
        ("op", "backend", "outcome"),
        list(calls.outcomes.items()),
    )
    yield _histogram(
        "call_seconds",
        "Time from the request to the end of its answer.",
        ("op",),
        [((op,), histogram) for op, histogram in calls.seconds.items()],
    )
    yield _gauge("calls_in_flight", "Open calls.", ("op",), _labelled(figures.in_flight))
    for what, counts in (("received", calls.received_bytes), ("sent", calls.sent_bytes)):
        yield _counter(f"{what}_bytes", f"Bytes of bodies {what}.", ("backend",), _labelled(counts))


def _of_backends(backends: Mapping[str, BackendFigures]) -> Iterator[Metric]:
    for name, text, attribute in (
        ("up", "Whether it is not down.", "is_up"),
        ("writable", "Whether an ingest could succeed.", "is_writable"),
        ("free_bytes", "Bytes that are free.", "free_bytes"),
        ("capacity_bytes", "Bytes in all.", "total_bytes"),
        ("objects", "Objects stored.", "objects"),
    ):
        samples = [((each,), getattr(it, attribute)) for each, it in backends.items()]
        yield _gauge(f"backend_{name}", text, ("backend",), samples)
    for prefix, table in (("backend", "more"), ("scrub", "scrub")):
        names = dict.fromkeys(name for it in backends.values() for name in getattr(it, table))
        for name in names:
            samples = [((each,), getattr(it, table).get(name)) for each, it in backends.items()]
            yield _gauge(
                f"{prefix}_{name}",
                f"{name.replace('_', ' ').capitalize()}, as the {prefix} tells.",
                ("backend",),
                samples,
            )


def _of_stores(backends: Mapping[str, BackendFigures]) -> Iterator[Metric]:
    stores = {each: it.store for each, it in backends.items() if it.store is not None}
    yield _histogram(
        "sync_seconds",
        "Time of fsync(2).",
        ("backend", "kind"),
        [
            ((each, kind), histogram)
            for each, store in stores.items()
            for kind, histogram in store.sync_seconds.items()
        ],
    )
    yield _histogram(
        "commit_seconds",
        "Time of a transaction of the catalog.",
        ("backend",),
        [((each,), store.commit_seconds) for each, store in stores.items()],
    )
    yield _histogram(
        "commit_changes",
        "Changes in a transaction of the catalog.",
        ("backend",),
        [((each,), store.group_sizes) for each, store in stores.items()],
    )
    yield _counter(
        "rotten",
        "Bad copies that were found.",
        ("backend",),
        [((each,), store.rotten) for each, store in stores.items()],
    )


def _labelled(table: Mapping[str, float]) -> list[tuple[tuple[str, ...], float | None]]:
    return [((label,), value) for label, value in table.items()]


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: _Samples) -> Metric:
    family = GaugeMetricFamily(f"dataplaned_{name}", text, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], samples: _Samples) -> Metric:
    family = CounterMetricFamily(f"dataplaned_{name}", text, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, value)
    return family


def _histogram(
    name: str,
    text: str,
    labels: tuple[str, ...],
    samples: Iterable[tuple[tuple[str, ...], Histogram]],
) -> Metric:
    family = HistogramMetricFamily(f"dataplaned_{name}", text, labels=labels)
    for values, histogram in samples:
        bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        family.add_metric(values, buckets, histogram.total)
    return family
