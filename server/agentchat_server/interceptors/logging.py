"""Where calls begin and end: a log line a call, its place in the metrics, its span.

A line has a request id that the caller sees too when the call fails. Calls that succeed are logged at debug
level, streams and failures at info. Metrics and traces are here as well, so that they cost a call no layer of
their own; each is None when it is off.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from agentchat_server.calls import Call, set_current_call
from agentchat_server.interceptors import Context, Interceptor, Stream, Unary
from agentchat_server.metrics import MethodMetrics, WorkerMetrics

if TYPE_CHECKING:
    from agentchat_server.tracing import CallSpan, Tracing

_log = structlog.get_logger("agentchat_server.calls")


class LoggingInterceptor(Interceptor):
    """Notes which call the task serves; logs, counts and traces it."""

    def __init__(self, *, metrics: WorkerMetrics | None = None, tracing: Tracing | None = None) -> None:
        super().__init__()
        self._metrics = metrics
        self._tracing = tracing

    def wrap_unary(self, method: str, handler: Unary) -> Unary:
        counts, tracing = self._counts(method), self._tracing

        async def logged(request: Any, context: Context) -> Any:
            start = time.perf_counter()
            call = Call(method, context.invocation_metadata() or ())
            set_current_call(call)
            span = None if tracing is None else tracing.start_call(call)
            if counts is not None:
                counts.started()
            try:
                response = await handler(request, context)
            except BaseException:
                _end(call, context, start, counts, span)
                raise
            seconds = time.perf_counter() - start
            _log.debug("call", code="OK", seconds=round(seconds, 6))
            if counts is not None:
                counts.ended("OK", seconds, None)
            if span is not None:
                span.end("OK")
            return response

        return logged

    def wrap_stream(self, method: str, handler: Stream) -> Stream:
        counts, tracing = self._counts(method), self._tracing

        async def logged(request: Any, context: Context) -> AsyncIterator[Any]:
            start = time.perf_counter()
            call = Call(method, context.invocation_metadata() or ())
            set_current_call(call)
            span = None if tracing is None else tracing.start_call(call)
            if counts is not None:
                counts.started()
            ended = False
            try:
                _log.info("stream opened")
                async for response in handler(request, context):
                    yield response
                ended = True
            finally:
                _end(call, context, start, counts, span, "OK" if ended else None)

        return logged

    def _counts(self, method: str) -> MethodMetrics | None:
        return None if self._metrics is None else self._metrics.method(method)


def _end(
    call: Call,
    context: Context,
    start: float,
    counts: MethodMetrics | None,
    span: CallSpan | None,
    code: str | None = None,
) -> None:
    """Notes the end of a call that failed or was a stream."""
    if code is None:
        given: object = context.code()
        # None or a number while the call is being cancelled, before gRPC gave it a code.
        code = given.name if isinstance(given, grpc.StatusCode) else "CANCELLED"
    seconds = time.perf_counter() - start
    _log.info(
        "call ended", code=code, reason=call.reason, details=context.details(), seconds=round(seconds, 6)
    )
    if counts is not None:
        counts.ended(code, seconds, call.reason)
    if span is not None:
        span.end(code)
