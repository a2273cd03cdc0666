"""Exceptions become statuses, here and nowhere else.

A `Refusal` is sent as it is. What the database could not do becomes UNAVAILABLE or DEADLINE_EXCEEDED. Any
other exception is a defect: it is logged with its trace, and the caller learns the request id to ask for,
nothing of Postgres and no path. A request that cannot be decoded is INVALID_ARGUMENT; see `undecodable`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import structlog

from agentchat_db.exceptions import DatabaseRefusal, DatabaseTimeout, DatabaseUnavailable
from agentchat_server.calls import REQUEST_ID_HEADER, current_call
from agentchat_server.interceptors import Context, Interceptor, Stream, Unary
from agentchat_server.interceptors.undecodable import checked, marking
from agentchat_server.refusals import STATUS_HEADER, Refusal

_log = structlog.get_logger(__name__)


class ErrorInterceptor(Interceptor):
    """Turns exceptions into rich statuses."""

    def wrap_deserializer(self, deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        return marking(deserializer)

    def wrap_unary(self, method: str, handler: Unary) -> Unary:
        async def guarded(request: Any, context: Context) -> Any:
            try:
                return await handler(checked(request), context)
            except Exception as error:  # noqa: BLE001 - this is where all of them end
                await _abort(context, error)

        return guarded

    def wrap_stream(self, method: str, handler: Stream) -> Stream:
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                async for response in handler(checked(request), context):
                    yield response
            except Exception as error:  # noqa: BLE001 - this is where all of them end
                await _abort(context, error)

        return guarded


async def _abort(context: Context, error: Exception) -> NoReturn:
    call = current_call()
    refusal = _as_refusal(error, call.request_id)
    call.reason = refusal.reason
    status = refusal.to_status()
    await context.abort(
        refusal.code,
        status.message,
        ((STATUS_HEADER, status.SerializeToString()), (REQUEST_ID_HEADER, call.request_id)),
    )


def _as_refusal(error: Exception, request_id: str) -> Refusal:
    match error:
        case Refusal():
            return error
        case DatabaseRefusal():
            return Refusal.of_database(error)
        case DatabaseUnavailable():
            _log.warning("database unavailable", error=str(error))
            return Refusal("DATABASE_UNAVAILABLE")
        case DatabaseTimeout():
            _log.warning("database timeout", error=str(error))
            return Refusal("DATABASE_TIMEOUT")
        case _:
            _log.error("call failed", exc_info=error)
            return Refusal("INTERNAL", request_id=request_id)
