"""Requests that are no message of their type.

grpc.aio would answer UNKNOWN, name the exception, and log an error, when a deserializer raises. So
deserializers return a marker instead, and it is refused where there is a call to refuse: by the errors
interceptor for AgentChat's own services, and for health and reflection, which no interceptor wraps, here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from agentchat_server.refusals import STATUS_HEADER, Refusal


class _Undecodable:
    """Stands for a request that was no message."""


_UNDECODABLE = _Undecodable()


def marking(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A deserializer that returns the marker where it would fail."""

    def decode(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError:
            return _UNDECODABLE

    return decode


def checked(request: Any) -> Any:
    """A request, or an iterator of them, that is no marker and has none.

    Raises:
        Refusal: REQUEST_UNDECODABLE, of an iterator when it comes to the marker.
    """
    if request is _UNDECODABLE:
        raise Refusal("REQUEST_UNDECODABLE")
    if hasattr(request, "__aiter__"):
        return _checked_each(request)
    return request


def refusing(handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler as gRPC's own services have them, which does not see what is no message.

    Those of one request are coroutines, also when they send many responses; that of many requests,
    reflection, is an asynchronous generator.
    """

    async def refusing_one(request: Any, context: Any) -> Any:
        if request is _UNDECODABLE:
            await _abort(context, Refusal("REQUEST_UNDECODABLE"))
        return await inner(request, context)

    async def refusing_some(requests: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in inner(_checked_each(requests), context):
                yield response
        except Refusal as refusal:
            await _abort(context, refusal)

    make: Any
    match handler.request_streaming, handler.response_streaming:
        case True, _:
            make, inner = grpc.stream_stream_rpc_method_handler, handler.stream_stream
        case _, True:
            make, inner = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        case _:
            make, inner = grpc.unary_unary_rpc_method_handler, handler.unary_unary
    made: grpc.RpcMethodHandler[Any, Any] = make(
        refusing_some if handler.request_streaming else refusing_one,
        marking(handler.request_deserializer),
        handler.response_serializer,
    )
    return made


async def _checked_each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield checked(request)


async def _abort(context: Any, refusal: Refusal) -> NoReturn:
    status = refusal.to_status()
    await context.abort(refusal.code, status.message, ((STATUS_HEADER, status.SerializeToString()),))
    raise AssertionError("unreachable")
