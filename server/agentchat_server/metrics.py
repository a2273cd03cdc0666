"""What a worker counts and measures for Prometheus: every metric of the server is defined on this page.

    worker: plain numbers ──a line of JSON a second, on its standard output──▶ supervisor ──/metrics──▶ scrape

A worker keeps plain numbers, since a call can afford some hundred nanoseconds for being counted, and all is
counted in the one thread of the event loop. `WorkerMetrics.snapshot` has the form that travels: for each
metric its label values and a vector of numbers, which add up over workers. The module `metrics_endpoint` is
the other end; docs/decisions/0009-metrics.md says why it is so.

Without `--metrics-port` nothing of this exists, and calls pay for a comparison with None.
"""

from __future__ import annotations

import os
import resource
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

# By metric: label values and numbers. Counters and gauges have one number; histograms have one for each
# bucket, one for what is above them all, and the sum.
Snapshot: TypeAlias = dict[str, list[tuple[list[str], list[float]]]]


@dataclass(frozen=True)
class Definition:
    """A metric. `per_worker` ones get a label that numbers the worker; the others are summed."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    # Upper bounds, for histograms.
    buckets: tuple[float, ...] = ()
    per_worker: bool = False

    @property
    def all_labels(self) -> tuple[str, ...]:
        """The labels that a scrape shows."""
        return (*self.labels, "worker") if self.per_worker else self.labels


_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


def _counter(name: str, text: str, *labels: str, per_worker: bool = False) -> Definition:
    return Definition(name, "counter", text, labels, per_worker=per_worker)


def _gauge(name: str, text: str, *labels: str) -> Definition:
    return Definition(name, "gauge", text, labels, per_worker=True)


DEFINITIONS: Mapping[str, Definition] = {
    definition.name: definition
    for definition in (
        _counter("agentchat_calls_total", "Calls that ended, streams too.", "method", "code"),
        Definition(
            "agentchat_call_duration_seconds",
            "histogram",
            "How long calls took in the server, without those that stream.",
            ("method",),
            _SECONDS,
        ),
        _counter("agentchat_refusals_total", "Calls that failed, by the ErrorReason they carried.", "reason"),
        _gauge("agentchat_open_streams", "Streams that are open, in either direction.", "method"),
        Definition(
            "agentchat_batch_messages", "histogram", "Messages in each batch that was written.", (), _ROWS
        ),
        Definition(
            "agentchat_batch_duration_seconds",
            "histogram",
            "How long a batch took to write and commit, with its repetitions.",
            (),
            _SECONDS,
        ),
        _gauge("agentchat_batches_under_way", "Batches that are being written."),
        _gauge("agentchat_write_queue_messages", "Messages that wait for a batch."),
        _gauge("agentchat_write_queue_bytes", "Their size, roughly."),
        _gauge(
            "agentchat_hub_head", "Number (seq) of the newest message that the hub has handed to streams."
        ),
        _gauge("agentchat_hub_behind_messages", "Messages announced to the hub that it has not read yet."),
        _gauge(
            "agentchat_hub_last_read_timestamp_seconds",
            "When the hub last knew that it had read the whole log, in Unix time.",
        ),
        _gauge("agentchat_database_pool_connections", "Connections of the pool."),
        _gauge("agentchat_database_pool_in_use", "Connections of the pool that serve a statement."),
        _gauge("agentchat_database_pool_waiting", "Statements that wait for a connection of the pool."),
        _counter("agentchat_authentication_cache_hits_total", "Calls whose caller was known from the cache."),
        _counter("agentchat_authentication_cache_misses_total", "Calls whose key was looked up, or refused."),
        _counter("agentchat_worker_cpu_seconds_total", "Processor time, user and system.", per_worker=True),
        _gauge("agentchat_worker_resident_memory_bytes", "Memory in use. Linux only."),
        # The supervisor adds these.
        Definition("agentchat_workers", "gauge", "Workers that serve."),
        _counter("agentchat_worker_restarts_total", "Workers that died and were started again."),
        Definition(
            "agentchat_build_info", "gauge", "Always 1; the labels tell what runs.", ("version", "python")
        ),
    )
}


class Histogram:
    """Counts values by bucket."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, name: str) -> None:
        self._bounds = DEFINITIONS[name].buckets
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value: in the first bucket whose bound is not below it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def numbers(self) -> list[float]:
        """The vector of a snapshot."""
        return [*self._counts, self._sum]


class MethodMetrics:
    """The calls of one method."""

    __slots__ = ("_refusals", "codes", "duration", "open", "streams")

    def __init__(self, method: str, refusals: dict[str, int]) -> None:
        # The supervisor imports this module too, and does without protobuf.
        from google.protobuf import descriptor_pool

        pool: Any = descriptor_pool
        descriptor = pool.Default().FindMethodByName(method.strip("/").replace("/", "."))
        self.streams = bool(descriptor.client_streaming or descriptor.server_streaming)
        self.codes: dict[str, int] = {}
        self.duration = Histogram("agentchat_call_duration_seconds")
        self.open = 0
        self._refusals = refusals

    def started(self) -> None:
        """Counts a call as under way."""
        self.open += 1

    def ended(self, code: str, seconds: float, reason: str | None) -> None:
        """Counts the end of a call; `reason` is that of its refusal."""
        self.open -= 1
        self.codes[code] = self.codes.get(code, 0) + 1
        if not self.streams:
            self.duration.observe(seconds)
        if reason is not None:
            self._refusals[reason] = self._refusals.get(reason, 0) + 1


class WorkerMetrics:
    """The numbers of a worker. `sample` gives by name those that others keep, for each snapshot."""

    def __init__(self, sample: Callable[[], Mapping[str, float]]) -> None:
        self._sample = sample
        self._methods: dict[str, MethodMetrics] = {}
        self._refusals: dict[str, int] = {}
        self.batch_messages = Histogram("agentchat_batch_messages")
        self.batch_duration = Histogram("agentchat_batch_duration_seconds")

    def method(self, method: str) -> MethodMetrics:
        """The numbers of a method, `/package.Service/Method`, to be asked for once and kept."""
        return self._methods.setdefault(method, MethodMetrics(method, self._refusals))

    def snapshot(self) -> Snapshot:
        """All numbers, as they are now. Counters only grow."""
        snapshot: Snapshot = {
            name: [([], [float(number)])] for name, number in {**self._sample(), **_process()}.items()
        }
        methods = [(_short(name), method) for name, method in self._methods.items()]
        snapshot["agentchat_calls_total"] = [
            ([name, code], [count]) for name, method in methods for code, count in method.codes.items()
        ]
        snapshot["agentchat_call_duration_seconds"] = [
            ([name], method.duration.numbers()) for name, method in methods if not method.streams
        ]
        snapshot["agentchat_open_streams"] = [
            ([name], [method.open]) for name, method in methods if method.streams
        ]
        snapshot["agentchat_refusals_total"] = [
            ([reason], [count]) for reason, count in self._refusals.items()
        ]
        snapshot["agentchat_batch_messages"] = [([], self.batch_messages.numbers())]
        snapshot["agentchat_batch_duration_seconds"] = [([], self.batch_duration.numbers())]
        return snapshot


def _short(method: str) -> str:
    """`MessageService/SendMessage`: no two services of ours share a name."""
    return method.rpartition(".")[2]


def _process() -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    numbers = {"agentchat_worker_cpu_seconds_total": usage.ru_utime + usage.ru_stime}
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return numbers
    return {**numbers, "agentchat_worker_resident_memory_bytes": float(pages * os.sysconf("SC_PAGE_SIZE"))}
