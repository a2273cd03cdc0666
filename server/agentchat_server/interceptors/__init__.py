"""What every call passes on its way to a service: logging, then errors, then authentication.

An `Interceptor` wraps a handler. `MethodTable` has every method of the server wrapped once, so that a call
costs the wrappers and nothing else. gRPC's own interceptors would be asked for a handler at every call, in a
coroutine each. And it would wait for one future a method, again at every call, if the methods were registered
one by one, as the generated `add_…_to_server` do; the table registers as one generic handler.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import grpc
import grpc.aio

from agentchat_server.interceptors.undecodable import refusing

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
# A handler as the services write it; the request is a message, or an iterator of messages.
Unary: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
Stream: TypeAlias = Callable[[Any, Context], AsyncIterator[Any]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

# Health and reflection serve anybody, and their handlers are written in gRPC's other style.
_OWN_SERVICES = "/agentchat."


class Interceptor(ABC):
    """Wraps handlers."""

    @abstractmethod
    def wrap_unary(self, method: str, handler: Unary) -> Unary:
        """Wraps a handler that returns one response. `method` is `/package.Service/Method`."""

    @abstractmethod
    def wrap_stream(self, method: str, handler: Stream) -> Stream:
        """Wraps a handler that yields responses."""

    def wrap_deserializer(self, deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        """Wraps what makes requests of bytes."""
        return deserializer


class MethodTable(grpc.GenericRpcHandler):
    """The methods of a server, AgentChat's own wrapped in interceptors, of which the first is the outermost.

    Hand it to the generated `add_…_to_server` functions in place of the server, and then to the server.
    """

    def __init__(self, interceptors: Sequence[Interceptor]) -> None:
        self._interceptors = interceptors
        self._services: list[grpc.GenericRpcHandler] = []
        self._handlers: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Takes a service, as `grpc.aio.Server` would."""
        self._services.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Handler]) -> None:
        """Takes nothing: these are the handlers of `add_generic_rpc_handlers` once more."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a method, None when there is none, which gRPC answers with UNIMPLEMENTED."""
        method = handler_call_details.method
        known = self._handlers.get(method)
        return self._find(method, handler_call_details) if known is None else known

    def _find(self, method: str, details: grpc.HandlerCallDetails) -> Handler | None:
        for service in self._services:
            handler = service.service(details)
            if handler is not None:
                wrapped = (
                    self._wrap(method, handler) if method.startswith(_OWN_SERVICES) else refusing(handler)
                )
                self._handlers[method] = wrapped
                return wrapped
        return None

    def _wrap(self, method: str, handler: Any) -> Handler:
        deserializer = handler.request_deserializer
        unary = handler.stream_unary if handler.request_streaming else handler.unary_unary
        stream = handler.stream_stream if handler.request_streaming else handler.unary_stream
        for interceptor in reversed(self._interceptors):
            deserializer = interceptor.wrap_deserializer(deserializer)
            if handler.response_streaming:
                stream = interceptor.wrap_stream(method, stream)
            else:
                unary = interceptor.wrap_unary(method, unary)
        make: Any
        match handler.request_streaming, handler.response_streaming:
            case False, False:
                make = grpc.unary_unary_rpc_method_handler
            case True, False:
                make = grpc.stream_unary_rpc_method_handler
            case False, True:
                make = grpc.unary_stream_rpc_method_handler
            case _:
                make = grpc.stream_stream_rpc_method_handler
        wrapped: Handler = make(
            stream if handler.response_streaming else unary, deserializer, handler.response_serializer
        )
        return wrapped
