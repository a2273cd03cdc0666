"""What every call passes on its way to a service: logging, then errors, then authentication.

gRPC asks the chain of interceptors for a handler at every call. An `Interceptor` here builds the wrapped
handler of a method once and keeps it, so that a call costs the wrappers and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
# A handler as the services write it; the request is a message, or an iterator of messages.
Unary: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
Stream: TypeAlias = Callable[[Any, Context], AsyncIterator[Any]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

# Health and reflection serve anybody, and their handlers are written in gRPC's other style.
_OWN_SERVICES = "/agentchat."


class Interceptor(grpc.aio.ServerInterceptor, ABC):
    """Wraps the handlers of AgentChat's own methods, each once."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    @abstractmethod
    def wrap_unary(self, method: str, handler: Unary) -> Unary:
        """Wraps a handler that returns one response. `method` is `/package.Service/Method`."""

    @abstractmethod
    def wrap_stream(self, method: str, handler: Stream) -> Stream:
        """Wraps a handler that yields responses."""

    def wrap_deserializer(self, deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        """Wraps what makes requests of bytes."""
        return deserializer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Called by gRPC for every call. None: no such method, which gRPC answers with UNIMPLEMENTED."""
        method = handler_call_details.method
        wrapped = self._handlers.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None or not method.startswith(_OWN_SERVICES):
                return handler
            wrapped = self._handlers[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Handler:
        deserializer = handler.request_deserializer and self.wrap_deserializer(handler.request_deserializer)
        make: Any
        wrapped: Any
        match handler.request_streaming, handler.response_streaming:
            case False, False:
                make = grpc.unary_unary_rpc_method_handler
                wrapped = self.wrap_unary(method, handler.unary_unary)
            case True, False:
                make = grpc.stream_unary_rpc_method_handler
                wrapped = self.wrap_unary(method, handler.stream_unary)
            case False, True:
                make = grpc.unary_stream_rpc_method_handler
                wrapped = self.wrap_stream(method, handler.unary_stream)
            case _:
                make = grpc.stream_stream_rpc_method_handler
                wrapped = self.wrap_stream(method, handler.stream_stream)
        result: Handler = make(wrapped, deserializer, handler.response_serializer)
        return result
