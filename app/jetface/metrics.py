"""Every Prometheus metric: name, labels, buckets. One instance per service, with its own registry; no globals."""

from __future__ import annotations

import contextlib
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Info, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jetface import __commit__, __version__
from jetface.device.telemetry import QUANTITIES, Readings
from jetface.errors import ServiceError


class Series:
    """The observations under one set of labels."""

    __slots__ = ("_bounds", "_counts", "_created", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * len(bounds)
        self._sum = 0.0
        self._created = time.time()

    def observe(self, value: float) -> None:
        """Count `value` to the first bucket that holds it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, metric: Metric, labels: dict[str, str]) -> None:
        """Write down the samples, each bucket with those below it."""
        total = 0
        for bound, count in zip(self._bounds, list(self._counts), strict=True):
            total += count
            metric.add_sample(
                f"{metric.name}_bucket", {"le": "+Inf" if math.isinf(bound) else str(bound)} | labels, total
            )
        metric.add_sample(f"{metric.name}_count", labels, total)
        metric.add_sample(f"{metric.name}_sum", labels, self._sum)
        metric.add_sample(f"{metric.name}_created", labels, self._created)


class LoopHistogram(Collector):
    """A histogram that one thread observes, the event loop's, and any thread may scrape.

    It is shown as prometheus-client shows its own; what is missing is what takes a lock there, and exemplars.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        label_names: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        """Create it, and register it.

        Args:
            name: As Prometheus is to know it.
            documentation: One sentence.
            label_names: Of its series. Without labels there is one series from the start.
            buckets: Upper bounds, from 0 and ascending; infinity follows.
            registry: Where it is collected.
        """
        self.name = name
        self.documentation = documentation
        self.label_names = tuple(label_names)
        self._bounds = (*map(float, buckets), math.inf)
        self._series: dict[tuple[str, ...], Series] = {}
        if not self.label_names:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """Return the series of these label values, in the order of the names; the same one each time."""
        series = self._series.get(values)
        if series is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, not {values}")
            series = self._series[values] = Series(self._bounds)
        return series

    def observe(self, value: float) -> None:
        """Count `value` where there are no labels."""
        self.labels().observe(value)

    def describe(self) -> list[Metric]:
        """Name the metric."""
        return [Metric(self.name, self.documentation, "histogram")]

    def collect(self) -> Iterator[Metric]:
        """Write down what was observed."""
        (metric,) = self.describe()
        for values, series in list(self._series.items()):
            series.add_to(metric, dict(zip(self.label_names, values, strict=True)))
        yield metric


_STAGE_BUCKETS_S = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10)
"""0.1 ms (an empty queue, a short answer) to 10 s (a crowd on a weak CPU)."""

_REQUEST_BUCKETS_S = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 20, 40)
"""2.5 ms (a small face on a GPU) to 40 s (past the default deadline)."""

_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
"""The buckets that models are warmed for."""

ENGINE_STATES = ("absent", "building", "checking", "serving", "rejected")

_FACES_BUCKETS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """The service's metrics.

    Gauges and counters are thread-safe: prometheus-client locks each child. Histograms are the event loop's.
    """

    def __init__(self) -> None:  # noqa: PLR0915 - a declaration each
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        Info("jetface_build", "What runs here.", registry=registry).info({"version": __version__, "commit": __commit__})

        self.ready = Gauge("jetface_ready", "1 while /health/ready says yes.", registry=registry)
        self.requests = Counter(
            "jetface_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = LoopHistogram(
            "jetface_request_seconds", "Seconds from a request's headers to the end of its answer.",
            ["route", "status"],
            buckets=_REQUEST_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge("jetface_requests_in_flight", "Requests being served.", registry=registry)
        self.aside = Gauge(
            "jetface_requests_aside", "Requests that wait for a model to load; they take no place.", registry=registry
        )
        self.in_flight_limit = Gauge(
            "jetface_requests_in_flight_limit", "MAX_IN_FLIGHT: requests beyond it are refused.", registry=registry
        )
        self.received = Gauge(
            "jetface_requests_received", "Requests whose bodies arrive; they take no place yet.", registry=registry
        )
        self.connections = Gauge("jetface_connections", "Connections open.", registry=registry)
        self.connections_limit = Gauge(
            "jetface_connections_limit", "MAX_CONNECTIONS, or what there are descriptors for.", registry=registry
        )
        self.connections_evicted = Counter(
            "jetface_connections_evicted", "Silent connections closed to make room for new ones.", registry=registry
        )
        self.request_timeout = Gauge(
            "jetface_request_timeout_seconds", "REQUEST_TIMEOUT_S: the deadline of a request.", registry=registry
        )
        self.refusals = Counter(
            "jetface_refusals", "Requests and pictures answered with an error, by its code.", ["code"],
            registry=registry,
        )  # fmt: skip
        for code in _error_codes(ServiceError):
            # There from the start: Prometheus sees no increase in a series that begins at 1.
            self.refusals.labels(code)
        self.ignored = Counter(
            "jetface_ignored", "What requests said in vain though it may have been meant; `x-ignored` names it.",
            ["what"], registry=registry,
        )  # fmt: skip
        for what in ("field", "trailing"):
            self.ignored.labels(what)
        self.stage_seconds = LoopHistogram(
            "jetface_stage_seconds", "Seconds a picture spent in a stage.", ["stage"],
            buckets=_STAGE_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.pictures = Counter("jetface_pictures", "Pictures answered, ok or failed.", ["status"], registry=registry)
        for status in ("ok", "failed"):
            self.pictures.labels(status)
        self.turned_pictures = Counter(
            "jetface_turned_pictures", "Pictures looked at in all quarter turns, by the degrees clockwise taken.",
            ["rotation"], registry=registry,
        )  # fmt: skip
        for rotation in (0, 90, 180, 270):
            self.turned_pictures.labels(str(rotation))
        self.faces = LoopHistogram(
            "jetface_faces_per_picture", "Faces found in a picture.", buckets=_FACES_BUCKETS, registry=registry
        )
        self.plates = LoopHistogram(
            "jetface_plates_per_picture", "Licence plates found in a picture.", buckets=_FACES_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self.unread_plates = Counter(
            "jetface_unread_plates", "Licence plates that were found and not read: no character.", registry=registry
        )
        self.guessed_faces = Counter(
            "jetface_guessed_faces", "Faces embedded from landmarks that were guessed from a box.", registry=registry
        )

        self.result_cache = Counter(
            "jetface_result_cache", "Pictures asked with `RESULT_CACHE_MB`: a hit was answered from memory.",
            ["outcome"], registry=registry,
        )  # fmt: skip
        for outcome in ("hit", "miss"):
            self.result_cache.labels(outcome)
        self.result_cache_bytes = Gauge(
            "jetface_result_cache_bytes", "Memory of answers that may be given again.", registry=registry
        )

        self.spans = Counter(
            "jetface_spans", "Spans of requests: sent to the collector, or lost because it did not take them.",
            ["outcome"], registry=registry,
        )  # fmt: skip
        for outcome in ("sent", "lost"):
            self.spans.labels(outcome)

        self.queue_length = Gauge("jetface_queue_length", "Items waiting for a model.", ["model"], registry=registry)
        self.queue_seconds = LoopHistogram(
            "jetface_queue_seconds", "Seconds an item waited for a model.", ["model"],
            buckets=_STAGE_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.batch_size = LoopHistogram(
            "jetface_batch_size", "Items per run of a model.", ["model"], buckets=_BATCH_BUCKETS, registry=registry
        )
        self.run_seconds = LoopHistogram(
            "jetface_run_seconds", "Seconds per run of a model.", ["model"], buckets=_STAGE_BUCKETS_S, registry=registry
        )
        self.dropped = Counter(
            "jetface_dropped_items", "Items dropped before they cost inference.", ["model", "reason"],
            registry=registry,
        )  # fmt: skip
        self.run_failures = Counter(
            "jetface_run_failures", "Runs of a model that failed.", ["model"], registry=registry
        )
        self.oldest_run = Gauge(
            "jetface_oldest_run_seconds", "Age of the longest run of a model under way; 0: none.", ["model"],
            registry=registry,
        )  # fmt: skip
        self.pinned_bytes = Gauge(
            "jetface_pinned_bytes", "Memory pinned for a model's canvases, which a GPU reads where they were drawn.",
            ["model"],
            registry=registry,
        )  # fmt: skip

        self.shared_buckets = Gauge(
            "jetface_shared_buckets",
            "Batch sizes of a model, on each canvas, that share a larger one's buffers: the GPU has no room.",
            ["model"],
            registry=registry,
        )

        self.model_state = Gauge(
            "jetface_model_state", "1 for the state a model is in.", ["model", "state"], registry=registry
        )
        self.model_backend = Gauge(
            "jetface_model_backend", "1 for the backend a model runs on.", ["model", "backend"], registry=registry
        )
        self.backend_fallback = Gauge(
            "jetface_backend_fallback", "1 where there is an NVIDIA GPU and every model runs on the CPU all the same.",
            registry=registry,
        )  # fmt: skip
        self.model_load_seconds = Gauge(
            "jetface_model_load_seconds", "Seconds the last load of a model took.", ["model"], registry=registry
        )

        self.load_age = Gauge(
            "jetface_model_load_age_seconds", "Seconds the load of a model under way has been going; 0: none.",
            ["model"],
            registry=registry,
        )  # fmt: skip

        self.engine_state = Gauge(
            "jetface_engine_state", "1 for the state a model's engine is in.", ["model", "state"], registry=registry
        )
        self.engine_build_seconds = Gauge(
            "jetface_engine_build_seconds", "Seconds this process spent on building and checking a model's engine.",
            ["model"],
            registry=registry,
        )  # fmt: skip

        self.body_bytes = Gauge(
            "jetface_body_bytes_in_flight",
            "Bytes kept of bodies and fetched files above 256 KiB.",
            registry=registry,
        )
        self.body_bytes_limit = Gauge(
            "jetface_body_bytes_limit", "BODY_BUDGET_BYTES: what comes beyond it waits.", registry=registry
        )
        self.decode_pixels = Gauge(
            "jetface_decode_pixels_in_flight", "Pixels of pictures decoded and not yet released.", registry=registry
        )
        self.decode_pixels_limit = Gauge(
            "jetface_decode_pixels_limit", "DECODE_BUDGET_PIXELS: decodes beyond it wait.", registry=registry
        )
        self.memory_limit = Gauge(
            "jetface_memory_limit_bytes", "Memory this process may use: its control group's limit, or the machine's.",
            registry=registry,
        )  # fmt: skip

        self.memory_refusals = Counter(
            "jetface_memory_refusals", "Loads and engine builds refused because too little memory would stay free.",
            ["work"], registry=registry,
        )  # fmt: skip
        for work in ("load", "build"):
            self.memory_refusals.labels(work)

        self.gallery_faces = Gauge("jetface_gallery_faces", "Faces in the gallery.", registry=registry)
        self.gallery_persons = Gauge("jetface_gallery_persons", "Persons in the gallery.", registry=registry)
        self.gallery_bytes = Gauge(
            "jetface_gallery_index_bytes", "Memory of the gallery's index, as far as it is used.", registry=registry
        )
        self.gallery_search_seconds = LoopHistogram(
            "jetface_gallery_search_seconds",
            "Seconds a query took of a search: to scan the index, and to rank what that found by stored vectors.",
            ["part"],
            buckets=_STAGE_BUCKETS_S, registry=registry,
        )  # fmt: skip
        for part in ("scan", "rank"):
            self.gallery_search_seconds.labels(part)
        self.gallery_changes = Counter(
            "jetface_gallery_changes", "Faces stored or refused, faces and persons deleted.", ["change"],
            registry=registry,
        )  # fmt: skip
        for change in ("stored", "refused", "faces_deleted", "persons_deleted"):
            self.gallery_changes.labels(change)
        self.gallery_exports = Counter(
            "jetface_gallery_exports", "Exports of a collection that were begun over HTTP.", registry=registry
        )

        self.log_lines_dropped = Counter(
            "jetface_log_lines_dropped", "Log lines dropped because nobody read the log any more.", registry=registry
        )

        self.device = DeviceCollector()
        registry.register(self.device)

        self._backend_by_model: dict[str, str] = {}

    def set_backend(self, model: str, backend: str) -> None:
        """Show `backend` as the one that `model` runs on, in place of any other."""
        former = self._backend_by_model.get(model)
        if former not in (None, backend):
            self.model_backend.remove(model, former)
        self._backend_by_model[model] = backend
        self.model_backend.labels(model, backend).set(1)

    def set_engine(self, model: str, state: str) -> None:
        """Show `state` as the one that a model's engine is in."""
        for other in ENGINE_STATES:
            self.engine_state.labels(model, other).set(other == state)

    def forget_model(self, model: str) -> None:
        """Show nothing more of a model's queue and runs: it is not loaded any more."""
        for gauge in (self.queue_length, self.oldest_run, self.pinned_bytes, self.shared_buckets):
            with contextlib.suppress(KeyError):
                gauge.remove(model)
        backend = self._backend_by_model.pop(model, None)
        if backend is not None:
            self.model_backend.remove(model, backend)

    def watch(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Let `gauge` ask `read` at each scrape instead of being set."""
        gauge.set_function(read)


class DeviceCollector(Collector):
    """The readings of the machine, as they are at a scrape: what cannot be read has no series."""

    def __init__(self) -> None:
        self.read: Callable[[], Readings] = dict
        """Returns the latest readings; none until it is set."""

    def describe(self) -> list[GaugeMetricFamily]:
        """Name every metric there may be."""
        return [
            GaugeMetricFamily(f"jetface_device_{each.name}", each.meaning, labels=[each.label] if each.label else [])
            for each in QUANTITIES
        ]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Write down what was read."""
        readings = self.read()
        for quantity, family in zip(QUANTITIES, self.describe(), strict=True):
            for name, value in readings.get(quantity.name, {}).items():
                family.add_metric([name] if quantity.label else [], value)
            if family.samples:
                yield family


def _error_codes(error: type[ServiceError]) -> set[str]:
    return {error.code}.union(*map(_error_codes, error.__subclasses__()))
