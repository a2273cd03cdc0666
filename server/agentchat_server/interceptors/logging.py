"""One log line a call, with a request id that the caller sees too when the call fails.

Calls that succeed are logged at debug level, streams and failures at info.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog

from agentchat_server.calls import Call, set_current_call
from agentchat_server.interceptors import Context, Interceptor, Stream, Unary

_log = structlog.get_logger("agentchat_server.calls")


class LoggingInterceptor(Interceptor):
    """Notes which call the task serves, and logs its end."""

    def wrap_unary(self, method: str, handler: Unary) -> Unary:
        async def logged(request: Any, context: Context) -> Any:
            start = time.perf_counter()
            set_current_call(Call(method, context.invocation_metadata() or ()))
            try:
                response = await handler(request, context)
            except BaseException:
                _log_end(context, start)
                raise
            _log.debug("call", code="OK", seconds=round(time.perf_counter() - start, 6))
            return response

        return logged

    def wrap_stream(self, method: str, handler: Stream) -> Stream:
        async def logged(request: Any, context: Context) -> AsyncIterator[Any]:
            start = time.perf_counter()
            set_current_call(Call(method, context.invocation_metadata() or ()))
            _log.info("stream opened")
            try:
                async for response in handler(request, context):
                    yield response
            finally:
                _log_end(context, start)

        return logged


def _log_end(context: Context, start: float) -> None:
    code: object = context.code()
    # None or a number while the call is being cancelled, before gRPC gave it a code.
    name = code.name if isinstance(code, grpc.StatusCode) else "CANCELLED"
    seconds = round(time.perf_counter() - start, 6)
    _log.info("call ended", code=name, details=context.details(), seconds=seconds)
