"""Traces of calls for OpenTelemetry, when its environment variables ask for them.

    span of a call (its parent: the caller's `traceparent`)
      └─ spans of its database statements
    span of a batch of messages ──links──▶ the spans of the calls that wait for it

OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_TRACES_EXPORTER switch it on; the
other OTEL_* variables (sampler, resource attributes, batches, propagators) mean what they mean everywhere.
The packages are imported only then. Spans carry statements without their parameters, and nothing of what
agents wrote.

opentelemetry-instrumentation-grpc is not used: its server side for asyncio is an interceptor of gRPC's own
kind, which `interceptors` does without, and it knows neither agents nor request ids.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from agentchat_server.calls import Call
from agentchat_server.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanContext

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# How long the last spans may take to be sent when the server stops, in seconds.
_LAST_FLUSH = 3.0


class TracingUnavailable(Exception):
    """Traces are asked for and cannot be made; the message says why."""


class Tracing:
    """Makes spans. One for each process."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import context, propagate, trace

        self._provider = provider
        self._tracer = provider.get_tracer("agentchat", VERSION)
        self._context = context
        self._extract = propagate.extract
        self._trace = trace

    @classmethod
    def from_environment(cls) -> Tracing | None:
        """What the OTEL_* variables ask for, None when they do not ask for traces.

        Raises:
            TracingUnavailable: when the extra is not installed, or names no exporter that is.
        """
        if not _is_asked_for():
            return None
        try:
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise TracingUnavailable(
                "OTEL_* variables ask for traces; install them: pip install 'agentchat[otel]'"
            ) from error
        ours = Resource({"service.name": "agentchat", "service.version": VERSION})
        resource = Resource.create().merge(ours).merge(OTELResourceDetector().detect())
        # The worker ends it, and would rather do so itself than at the interpreter's exit.
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for exporter in _exporters():
            provider.add_span_processor(BatchSpanProcessor(exporter()))
        return cls(provider)

    def start_call(self, call: Call) -> CallSpan:
        """Starts the span of a call, and makes it the current one of the task."""
        carrier = {key: value for key, value in call.metadata.items() if isinstance(value, str)}
        service, _, method = call.method.strip("/").partition("/")
        span = self._tracer.start_span(
            f"{service}/{method}",
            context=self._extract(carrier),
            kind=self._trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        # Not detached: the task is the call's own and ends with it.
        self._context.attach(self._trace.set_span_in_context(span))
        call.trace_id = self._trace.format_trace_id(span.get_span_context().trace_id)
        return CallSpan(call, span)

    def current(self) -> SpanContext | None:
        """The span of the present call, to link a batch to."""
        found = self._trace.get_current_span().get_span_context()
        return found if found.is_valid else None

    @contextmanager
    def statement(self, name: str, sql: str) -> Iterator[None]:
        """A span around a statement, when it runs on behalf of a call."""
        if self.current() is None:
            yield
            return
        attributes = {"db.system.name": "postgresql", "db.operation.name": name, "db.query.text": sql}
        span = self._tracer.start_span(name, kind=self._trace.SpanKind.CLIENT, attributes=attributes)
        with self._ended(span):
            yield

    @contextmanager
    def batch(self, calls: Sequence[SpanContext | None], rows: int) -> Iterator[None]:
        """A span around the writing of a batch, linked to the calls whose messages are in it."""
        links = [self._trace.Link(call) for call in calls if call is not None]
        attributes: dict[str, str | int] = {
            "db.system.name": "postgresql",
            "db.operation.name": "send_batch",
            "db.operation.batch.size": rows,
        }
        # No parent: the batch is of many calls.
        span = self._tracer.start_span(
            "send_batch",
            context=self._context.Context(),
            kind=self._trace.SpanKind.CLIENT,
            links=links,
            attributes=attributes,
        )
        with self._ended(span):
            yield

    @contextmanager
    def _ended(self, span: Span) -> Iterator[None]:
        """Ends a span with the block. Of an error it tells the kind; its words may be those of agents."""
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(self._trace.StatusCode.ERROR)
            raise
        finally:
            span.end()

    async def close(self) -> None:
        """Sends what is left, for at most some seconds."""
        # It has no limit of its own that can be set, and tries for long while the collector is away.
        closer = threading.Thread(target=self._provider.shutdown, daemon=True)
        closer.start()
        await asyncio.to_thread(closer.join, _LAST_FLUSH)


class CallSpan:
    """The span of a call under way."""

    __slots__ = ("_call", "_span")

    def __init__(self, call: Call, span: Span) -> None:
        self._call = call
        self._span = span

    def end(self, code: str) -> None:
        """Ends the span with the name of a status code."""
        from grpc import StatusCode
        from opentelemetry.trace import Status
        from opentelemetry.trace import StatusCode as SpanStatus

        span, call = self._span, self._call
        if span.is_recording():
            span.set_attribute("rpc.grpc.status_code", StatusCode[code].value[0])
            span.set_attribute("agentchat.request_id", call.request_id)
            if call.agent is not None:
                span.set_attribute("agentchat.agent", call.agent)
            if call.reason is not None:
                span.set_attribute("agentchat.reason", call.reason)
            if code in _SERVER_FAULTS:
                span.set_status(Status(SpanStatus.ERROR, code))
        span.end()


# Of the codes that a server answers with, those that are its own fault.
_SERVER_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


def _is_asked_for() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    names = os.environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if names:
        return names != "none"
    return any(os.environ.get(variable) for variable in _ENDPOINTS)


def _exporters() -> list[Any]:
    """The exporters that OTEL_TRACES_EXPORTER lists, OTLP if it lists none."""
    found = []
    for name in (os.environ.get("OTEL_TRACES_EXPORTER") or "otlp").split(","):
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"
        )
        entry = name.strip()
        if entry == "otlp":
            entry = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
        known = list(entry_points(group="opentelemetry_traces_exporter", name=entry))
        if not known:
            raise TracingUnavailable(f"OTEL_TRACES_EXPORTER: no exporter {name.strip()} is installed")
        found.append(known[0].load())
    return found
