"""One log line a call, with a request id that the caller sees too when the call fails.

The id is the caller's `x-request-id`, or made here; it is bound to every line that the call logs and sent
back as trailing metadata. Calls that succeed are logged at debug level, streams and failures at info.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog
from structlog.contextvars import bind_contextvars

from agentchat_server.interceptors import Context, Interceptor, Stream, Unary

REQUEST_ID_HEADER = "x-request-id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_log = structlog.get_logger("agentchat_server.calls")


class LoggingInterceptor(Interceptor):
    """Logs calls."""

    def wrap_unary(self, method: str, handler: Unary) -> Unary:
        async def logged(request: Any, context: Context) -> Any:
            start = time.perf_counter()
            _bind(method, context)
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
            _bind(method, context)
            _log.info("stream opened")
            try:
                async for response in handler(request, context):
                    yield response
            finally:
                _log_end(context, start)

        return logged


def _bind(method: str, context: Context) -> None:
    stated = next(
        (value for key, value in context.invocation_metadata() or () if key == REQUEST_ID_HEADER),
        None,
    )
    known = isinstance(stated, str) and _REQUEST_ID.fullmatch(stated)
    bind_contextvars(request_id=stated if known else secrets.token_hex(8), method=method)


def _log_end(context: Context, start: float) -> None:
    code: object = context.code()
    # None or a number while the call is being cancelled, before gRPC gave it a code.
    name = code.name if isinstance(code, grpc.StatusCode) else "CANCELLED"
    seconds = round(time.perf_counter() - start, 6)
    _log.info("call ended", code=name, details=context.details(), seconds=seconds)
