"""Where Prometheus scrapes: `http://HOST:PORT/metrics`, served by the supervisor for all its workers.

Workers send snapshots, a line a second. The endpoint holds the newest of each. When a worker ends, what its
last snapshot counted is kept and its gauges go, so that a counter never goes back while the server runs,
whatever happens to workers. What a killed worker counted in its last second is lost.

prometheus_client writes the format and serves it, from a thread of its own. It is imported when the endpoint
opens, while the workers load their code.
"""

from __future__ import annotations

import json
import platform
import threading
from asyncio import StreamReader
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

from agentchat_server.metrics import DEFINITIONS, Definition, Snapshot
from agentchat_server.version import VERSION

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.core import Metric

# By label values.
_Samples: TypeAlias = dict[tuple[str, ...], list[float]]


class MetricsEndpoint:
    """Collects the snapshots of workers and serves them over HTTP. `port` may be 0 until `open`."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._server: WSGIServer | None = None
        # Scrapes come in threads.
        self._lock = threading.Lock()
        self._newest: dict[int, Snapshot] = {}
        self._ended: dict[str, _Samples] = {}
        self._restarts = 0

    @property
    def url(self) -> str:
        """What Prometheus is to scrape."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"

    def open(self) -> None:
        """Serves from now on.

        Raises:
            OSError: when the address cannot be had.
        """
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        registry.register(self)
        self._server, _ = start_http_server(self.port, self.host, registry)
        self.port = self._server.server_port

    def close(self) -> None:
        """Stops serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    async def follow(self, worker: int, output: StreamReader) -> None:
        """Takes the snapshots of a worker until it ends."""
        try:
            while line := await output.readline():
                try:
                    snapshot = json.loads(line)["metrics"]
                except ValueError:
                    # A worker that was killed may leave half a line.
                    continue
                with self._lock:
                    self._newest[worker] = snapshot
        finally:
            self._forget(worker)

    def count_restart(self) -> None:
        """Counts a worker that was started again."""
        with self._lock:
            self._restarts += 1

    def collect(self) -> Iterator[Metric]:
        """The metrics as prometheus_client wants them."""
        with self._lock:
            total = {name: dict(samples) for name, samples in self._ended.items()}
            for worker, snapshot in self._newest.items():
                _add(total, worker, snapshot)
            total["agentchat_workers"] = {(): [len(self._newest)]}
            total["agentchat_worker_restarts_total"] = {(): [self._restarts]}
        total["agentchat_build_info"] = {(VERSION, platform.python_version()): [1]}
        for definition in DEFINITIONS.values():
            yield _metric(definition, total.get(definition.name, {}))

    def _forget(self, worker: int) -> None:
        with self._lock:
            snapshot = self._newest.pop(worker, {})
            counted = {
                name: samples for name, samples in snapshot.items() if DEFINITIONS[name].kind != "gauge"
            }
            _add(self._ended, worker, counted)


def _add(total: dict[str, _Samples], worker: int, snapshot: Snapshot) -> None:
    for name, samples in snapshot.items():
        known = total.setdefault(name, {})
        for labels, numbers in samples:
            key = (*labels, str(worker)) if DEFINITIONS[name].per_worker else tuple(labels)
            before = known.get(key)
            known[key] = numbers if before is None else [a + b for a, b in zip(before, numbers, strict=True)]


def _metric(definition: Definition, samples: _Samples) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    name, text, labels = definition.name, definition.help, definition.all_labels
    if definition.kind == "histogram":
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for values, numbers in samples.items():
            *counts, total = numbers
            histogram.add_metric(values, _buckets(definition.buckets, counts), total)
        return histogram
    family = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
    metric = family(name, text, labels=labels)
    for values, numbers in samples.items():
        metric.add_metric(values, numbers[0])
    return metric


def _buckets(bounds: tuple[float, ...], counts: list[float]) -> list[tuple[str, float]]:
    """Prometheus' buckets count everything up to their bound."""
    reached, buckets = 0.0, []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        reached += count
        buckets.append((bound, reached))
    return buckets
