"""Prometheus metrics in a registry of our own (so that a host program's metrics stay apart)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mien.backends.pipelines.base import CacheStats, PipelineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# 5 ms is a look-up, 50 ms a one-face photo, above 1 s something waits.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _PipelineCollector(Collector):
    def __init__(
        self, pipelines: Callable[[], PipelineStats], cache: Callable[[], CacheStats | None]
    ) -> None:
        self._pipelines = pipelines
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        stats = self._pipelines()
        yield GaugeMetricFamily("mien_pipeline_capacity", "Analyses that can run at once.", stats.capacity)
        yield GaugeMetricFamily("mien_pipeline_running", "Analyses that run.", stats.running)
        yield GaugeMetricFamily("mien_pipeline_waiting", "Callers in line.", stats.waiting)
        yield CounterMetricFamily("mien_pipeline_refused", "Callers refused.", stats.refused_total)
        yield CounterMetricFamily("mien_pipeline_done", "Analyses done.", stats.done_total)
        cache = self._cache()
        if cache is None:
            return
        yield GaugeMetricFamily("mien_analysis_cache_entries", "Analyses kept.", cache.entries)
        yield GaugeMetricFamily("mien_analysis_cache_bytes", "Memory of them (estimate).", cache.bytes)
        yield CounterMetricFamily("mien_analysis_cache_hits", "Found in the cache.", cache.hits_total)
        yield CounterMetricFamily("mien_analysis_cache_misses", "Not in the cache.", cache.misses_total)


class Metrics:
    """What one app counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "mien_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "mien_http_request_seconds",
            "Time to answer.",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.in_hand = Gauge("mien_http_in_hand", "Requests in hand.", registry=self.registry)

        self._jobs = Gauge("mien_jobs", "Jobs by state.", ["state"], registry=self.registry)

    def set_jobs(self, counts: Mapping[str, int]) -> None:
        """Jobs of all tenants by state, as counted just before a scrape."""
        for state, count in counts.items():
            self._jobs.labels(state).set(count)

    def watch_pipelines(
        self, pipelines: Callable[[], PipelineStats], cache: Callable[[], CacheStats | None]
    ) -> None:
        """Report these figures at each scrape."""
        self.registry.register(_PipelineCollector(pipelines, cache))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. Methods that HTTP does not know share one label."""
        label = method if method in _METHODS else "other"
        self._requests.labels(label, route, str(status or 499)).inc()
        self._seconds.labels(label, route).observe(seconds)

    def render(self) -> bytes:
        return generate_latest(self.registry)
